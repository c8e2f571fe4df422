/** After so many reads that lag, what was announced is given up; the next routine comparison will tell. */
export const LAGGING_READS = 8;
/** Announcements that may wait in one list. */
const MOST_ANNOUNCED = 1000;

/** A version that the upstream announced. Times as `performance.now()` tells them. */
export interface Announcement {
  readonly identifier: string;
  readonly version: number;
  /** When it, or a version before it that no read has shown either, was announced. */
  readonly since: number;
  /** The reads that lacked it, and counted. */
  readonly lags: number;
  readonly countedAt: number;
  /** From the last of them to the next that is to be made. */
  readonly waitMs: number;
}

/** What becomes of what a read lacks. */
export interface Lag {
  /** Those for which the read counted, and that are looked for again. */
  readonly counted: readonly Announcement[];
  /** Those that are not looked for any longer. */
  readonly givenUp: readonly Announcement[];
  /** Until the next read; undefined if none is needed. */
  readonly waitMs: number | undefined;
}

/**
 * The versions that the upstream announced of one list and no read has shown yet, by identifier.
 *
 * A read that lacks one is made again, after a wait that grows with their number. Reads that others ask for meanwhile
 * look for it too, but do not count against it: a busy list does not use up the patience for a read that lags.
 */
export class Announcements {
  private readonly waiting = new Map<string, Announcement>();

  /** @param waitMs from a read to the next, after so many that lacked the same */
  constructor(private readonly waitMs: (lags: number) => number) {}

  /** @returns false if too many wait */
  add(identifier: string, version: number, now: number): boolean {
    const before = this.waiting.get(identifier);
    if (!before && this.waiting.size >= MOST_ANNOUNCED) return false;
    if (!before || before.version < version) {
      const since = before?.since ?? now;
      this.waiting.set(identifier, { identifier, version, since, lags: 0, countedAt: 0, waitMs: 0 });
    }
    return true;
  }

  get all(): readonly Announcement[] {
    return [...this.waiting.values()];
  }

  of(identifier: string): Announcement | undefined {
    return this.waiting.get(identifier);
  }

  delete(identifier: string): void {
    this.waiting.delete(identifier);
  }

  clear(): void {
    this.waiting.clear();
  }

  /** A read lacks these, which were announced before it. */
  lag(lacking: readonly Announcement[], now: number): Lag {
    // Who has waited for half of its time need not wait for a read of its own.
    const isDue = ({ countedAt, waitMs }: Announcement) => now - countedAt >= waitMs / 2;
    const { due = [], early = [] } = Object.groupBy(lacking, (one) => (isDue(one) ? 'due' : 'early'));
    // What was announced together is looked for together.
    const lagging = [...Map.groupBy(due, ({ lags }) => lags + 1)].flatMap(([lags, together]) => {
      const waitMs = this.waitMs(lags);
      return together.map((one) => ({ ...one, lags, waitMs, countedAt: now }));
    });
    const { counted = [], givenUp = [] } = Object.groupBy(lagging, ({ lags }) =>
      lags < LAGGING_READS ? 'counted' : 'givenUp',
    );
    for (const { identifier } of givenUp) this.waiting.delete(identifier);
    for (const one of counted) this.waiting.set(one.identifier, one);
    const waits = [...early, ...counted].map(({ countedAt, waitMs }) => countedAt + waitMs - now);
    return { counted, givenUp, waitMs: waits.length > 0 ? Math.min(...waits) : undefined };
  }
}
