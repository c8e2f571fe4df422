import { z } from 'zod';

/** What `/jsz` tells about flushing. Servers before 2.10 tell nothing. */
const jsz = z.object({
  config: z.object({
    sync_always: z.boolean().optional(),
    sync_interval: z.number().optional(),
  }),
});

const TIMEOUT_MS = 2000;
const NS_IN_S = 1_000_000_000;

/**
 * Why a power failure could take messages that the server acknowledged, and what to do about it; undefined if it could
 * not. The server tells that nowhere but on its monitoring address.
 *
 * @param replicas how many copies the stream has
 */
export async function durabilityWarning(
  version: string,
  replicas: number,
  monitorUrl: string | undefined,
): Promise<string | undefined> {
  if (replicas >= 3) return undefined;
  const found =
    monitorUrl === undefined
      ? 'How often this server does is not known: set NATS_MONITOR_URL to have it asked.'
      : await askMonitor(monitorUrl).catch(
          (error: unknown) =>
            `NATS_MONITOR_URL does not tell how often this server does: ${reasonOf(error)}.`,
        );
  if (found === undefined) return undefined;
  const advice = isOlder(version, '2.10')
    ? `It is ${version}, which can do no better; 2.10.23 or newer is recommended, with sync_interval: always`
    : 'Set sync_interval: always';
  return (
    'A power failure can take facts that were acknowledged: NATS acknowledges before it flushes to disk, by default ' +
    `every 2 minutes, and there are fewer than 3 copies (${replicas}). ${found} ${advice} in the jetstream block of ` +
    'its configuration, or NATS_REPLICAS=3 in a cluster.'
  );
}

export function isOlder(version: string, than: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [thanMajor = 0, thanMinor = 0] = than.split('.').map(Number);
  return major < thanMajor || (major === thanMajor && minor < thanMinor);
}

/** How often the server flushes, in words; undefined if it does before it acknowledges. */
async function askMonitor(monitorUrl: string): Promise<string | undefined> {
  const url = new URL('/jsz?config=true', monitorUrl);
  // The server asks for none there, and an address that has some would be repeated in an error.
  url.username = url.password = '';
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`${url.href} answers ${response.status}`);
  const answer = jsz.safeParse(await response.json());
  if (!answer.success) throw new Error(`${url.href} answers with something else than a JetStream server`);
  const { sync_always: always, sync_interval: interval } = answer.data.config;
  if (always) return undefined;
  return interval === undefined
    ? 'This server does not tell how often it does.'
    : `This server does every ${interval / NS_IN_S} s.`;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? error.cause.message : error.message;
}
