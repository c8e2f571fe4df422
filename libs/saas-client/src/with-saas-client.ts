import type { RelayConfig } from '#libs/config';

import { SaasClient } from './saas-client.js';
import { UpstreamLink } from './upstream-link.js';

/** A client of the upstream that the settings name, for the time of some work. */
export async function withSaasClient<T>(
  { clientService: baseUrl, proxyKey: current, streamIdleTimeoutMs, upstreamLink }: RelayConfig,
  work: (saas: SaasClient) => Promise<T>,
): Promise<T> {
  const link = new UpstreamLink(upstreamLink);
  try {
    return await work(new SaasClient({ baseUrl, proxyKey: { current }, link, streamIdleTimeoutMs }));
  } finally {
    await link.close();
  }
}
