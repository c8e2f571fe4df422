import { setTimeout as delay } from 'node:timers/promises';

const LEAST_MS = 1000;
const MOST_MS = 60_000;

/**
 * How long to wait before the next try: anything up to 1 s after the first failure, up to twice as much after each
 * further one, never above 60 s ("full jitter": relays that failed together do not come back together).
 *
 * @param failures so far, 1 or more
 * @param random from 0 to 1
 * @param askedMs what the other side asked for (`Retry-After`); never less than that, and at most 5 minutes
 */
export function backoffMs(failures: number, random: number, askedMs = 0): number {
  const ceiling = Math.min(MOST_MS, LEAST_MS * 2 ** (failures - 1));
  return Math.max(ceiling * random, Math.min(askedMs, 5 * MOST_MS));
}

/** The rule, or one that does not keep a test waiting. */
export type Backoff = typeof backoffMs;

/** Waits; less long when `signal` aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
