import { setTimeout as delay } from 'node:timers/promises';

import type { EventLog } from './event-log.js';

const PAUSE_MS = 1000;

/**
 * Does a work whenever this process leads it, until `signal` aborts.
 *
 * @param run ends soon after the signal that it is given aborts
 */
export async function whileLeading(
  log: EventLog,
  work: string,
  signal: AbortSignal,
  run: (leading: AbortSignal) => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    const leading = await log.lead(work, signal);
    if (!leading.aborted) await run(leading);
    // A log that is closed gives no lead, at once.
    else await delay(PAUSE_MS, undefined, { signal }).catch(() => undefined);
  }
}
