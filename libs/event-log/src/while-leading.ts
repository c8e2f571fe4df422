import type { EventLog } from './event-log.js';

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
  }
}
