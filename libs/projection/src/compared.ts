import type { EventLog } from '#libs/event-log';
import { UPSTREAM_NOTE, UpstreamStatus } from '#libs/observability';

/** For an ingestor that has its link to find that the log has changed under it, and to compare. */
const COMPARES_WITHIN_MS = 5000;

/**
 * Whether the log was compared with the upstream since a time, so that it holds again what it may have lost then.
 *
 * @param sinceMs in ms since the epoch
 */
export async function comparedSince(log: EventLog, sinceMs: number): Promise<boolean> {
  const link = new UpstreamStatus();
  link.adopt(await log.recall(UPSTREAM_NOTE));
  if ((link.lastAgreedMs ?? 0) >= sinceMs) return true;
  // It may have happened just before it was noticed here.
  return link.streamStatus.state === 'CONNECTED' && Date.now() - sinceMs > COMPARES_WITHIN_MS;
}
