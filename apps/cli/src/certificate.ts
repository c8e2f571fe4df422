import type { TlsFiles } from '#libs/config';

import type { Finding } from './finding.js';
import { span } from './terminal.js';

/** Who renews by themselves have done it by then. */
const SOON_MS = 14 * 24 * 3_600_000;
/** Of its life: one that lives for a week is renewed in its last days. */
const SOON_SHARE = 1 / 3;
const RENEW = 'Renew it, and put the new one in its place: it is taken without a restart.';

/** How long a certificate is good. */
export function certificateFinding(
  { setting, from, until }: NonNullable<TlsFiles['validity']>,
  now: number,
): Finding {
  const subject = 'tls';
  const leftMs = until - now;
  const on = new Date(until).toISOString().slice(0, 10);
  if (leftMs <= 0)
    return {
      level: 'fail',
      subject,
      what: `the certificate of ${setting} was valid until ${on}`,
      fix: RENEW,
    };
  if (from > now)
    return {
      level: 'fail',
      subject,
      what: `the certificate of ${setting} is not valid before ${new Date(from).toISOString()}`,
      fix: "Wait, or look at this machine's clock.",
    };
  const what = `the certificate of ${setting} is valid until ${on}`;
  const isSoon = leftMs < SOON_MS && leftMs < (until - from) * SOON_SHARE;
  return isSoon
    ? { level: 'warn', subject, what: `${what}, for ${span(leftMs)}`, fix: RENEW }
    : { level: 'ok', subject, what };
}
