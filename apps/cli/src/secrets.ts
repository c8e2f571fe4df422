import type { Finding } from './finding.js';

/** What the relay keeps to itself, as far as it is set. */
export interface Secrets {
  readonly proxyKey: string | undefined;
  readonly authSecret: string | undefined;
  readonly formerAuthSecrets: readonly string[];
  readonly bypassAuth: boolean;
  /** The files that secrets were read from, with their modes. */
  readonly files: readonly { readonly setting: string; readonly file: string; readonly mode: number }[];
}

/** Random text of 32 characters has more, in hex too. */
const FEWEST_CHARACTERS = 10;
const SHORTEST = 32;
const EXAMPLES = /secret|password|change.?me|example|12345678|abcdefgh/i;
/** It is in the documents, so everybody has it. */
const DEMO_PROXY_KEY = '30000000-0000-4000-8000-000000000001';
/** Where container platforms put secrets, readable by all who are in the container. */
const MOUNTS = /^\/(var\/)?run\/secrets\//;
const READ_OR_WRITTEN_BY_OTHERS = 0o006;
const MAKE_ONE =
  'Make one with: openssl rand -hex 32. Name the present one in AUTH_SECRET_PREVIOUS until SDKs were restarted.';

/** What is to be said about secrets, the worst first; that all is well, if there is nothing. */
export function secretFindings(secrets: Secrets): readonly Finding[] {
  const { proxyKey, authSecret, formerAuthSecrets, bypassAuth, files } = secrets;
  const found: Finding[] = [];
  const say = (level: 'warn' | 'fail', what: string, fix: string) =>
    found.push({ level, subject: 'secrets', what, fix });

  if (authSecret !== undefined && authSecret === proxyKey)
    say('fail', 'AUTH_SECRET is the proxy key: who sees one has both', MAKE_ONE);
  else if (authSecret !== undefined && new Set(authSecret).size < FEWEST_CHARACTERS)
    say('warn', 'AUTH_SECRET repeats a few characters, and can be guessed', MAKE_ONE);
  else if (authSecret !== undefined && EXAMPLES.test(authSecret))
    say('warn', 'AUTH_SECRET looks like an example, and not random', MAKE_ONE);
  if (proxyKey === DEMO_PROXY_KEY)
    say(
      'warn',
      "PROXY_KEY is the demo's, which everybody knows",
      'Fine for a try. Else take the key that your upstream gave you.',
    );
  if (authSecret !== undefined && formerAuthSecrets.includes(authSecret))
    say('warn', 'AUTH_SECRET_PREVIOUS names AUTH_SECRET itself', 'Take it out: it has no effect.');
  if (formerAuthSecrets.some(({ length }) => length < SHORTEST))
    say(
      'warn',
      'AUTH_SECRET_PREVIOUS has a short secret, which can be guessed',
      'Take it out once SDKs were restarted.',
    );
  if (bypassAuth)
    say(
      'warn',
      'BYPASS_AUTH is on: whoever reaches the SDK port reads every environment',
      'Take it out, or let only trusted machines reach the port.',
    );
  for (const { setting, file, mode } of files) {
    if ((mode & READ_OR_WRITTEN_BY_OTHERS) !== 0 && !MOUNTS.test(file))
      say('warn', `${file} (${setting}) is open to every user of this machine`, `chmod 600 ${file}`);
  }
  if (found.length > 0)
    return found.toSorted((a, b) => Number(b.level === 'fail') - Number(a.level === 'fail'));
  const which = [...(proxyKey ? ['PROXY_KEY'] : []), ...(authSecret ? ['AUTH_SECRET'] : [])];
  if (which.length === 0) return [];
  return [{ level: 'ok', subject: 'secrets', what: `nothing to say against ${which.join(' and ')}` }];
}
