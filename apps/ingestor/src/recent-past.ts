import { entityOf, type EnvironmentFact, type EnvironmentState, factSubject, isDoubtful } from '#libs/domain';

import { heldIn, publishedIn } from './entities.js';

/** What happened longer ago no read may still show: reads take less, and lag by less. */
export const REMEMBERED_MS = 600_000;
const FORGET_EVERY_MS = 1000;

/** A life of a flag, a target group, an SDK key or an environment that ended. Times as `performance.now()` tells them. */
interface FormerLife {
  /** When the log was told so. */
  readonly endedAt: number;
  /** The version that it ended with, and since when it had that; undefined if it had none, or the log never held it. */
  readonly last: { readonly version: number; readonly since: number } | undefined;
  /** When the log was told of the life after it. */
  readonly successorAt?: number;
}

/** When the log was told last, and as of when the read was that showed it; `-Infinity` for what no read showed. */
interface Told {
  readonly at: number;
  readonly asOf: number;
}

/** How it was before the log got a fact. */
export interface Before {
  readonly environment: EnvironmentState;
  /** When the log was last told of the same thing. */
  readonly since: number;
}

/**
 * What the log was told of late, so that a read which lags is told from one that is newer (decision 0031).
 *
 * A read shows the upstream as of some time. As of the time when the log was told something, or later, it shows that or
 * what came after it. As of an earlier time it may show what was before; and the version is no sign of the order where
 * a life ended meanwhile, since versions begin anew with each.
 */
export class RecentPast {
  /** By subject, oldest first. */
  private readonly told = new Map<string, Told>();
  /** The last life that ended of each subject, oldest first. */
  private readonly ended = new Map<string, FormerLife>();
  private forgottenAt = -Infinity;

  constructor(private readonly now: () => number) {}

  /**
   * The log got a fact.
   *
   * @param before how it was then
   * @param asOf of the read that showed it; `-Infinity` if the upstream said it outright
   */
  got(fact: EnvironmentFact, { environment: before, since }: Before, asOf = -Infinity): void {
    const subject = factSubject(fact);
    const now = this.now();
    const version = versionHeld(before, fact);
    const last = version === undefined ? undefined : { version, since };
    if (isRemoval(fact)) {
      this.end(subject, { endedAt: now, last });
    } else if ((before.exists || fact.type === 'EnvironmentAdded') && isDoubtful(before, fact)) {
      const former = last ? { endedAt: now, last } : (this.ended.get(subject) ?? { endedAt: since, last });
      this.end(subject, { ...former, successorAt: now });
    }
    this.note(subject, { at: now, asOf });
  }

  /** How it is before the log gets a fact. @param environment that the fact is about */
  before(fact: EnvironmentFact, environment: EnvironmentState): Before {
    return { environment, since: this.toldAt(fact) ?? -Infinity };
  }

  /** The upstream says what the log holds already: that it is so now. */
  heardAgain(fact: EnvironmentFact): void {
    const subject = factSubject(fact);
    const now = this.now();
    if (isRemoval(fact)) {
      // There may have been a life of which nobody told.
      const last = this.ended.get(subject)?.last;
      this.end(subject, { endedAt: now, last: last && { ...last, since: now } });
    }
    this.note(subject, { at: now, asOf: this.shownAsOf(fact) });
  }

  /**
   * The log was told by a former process, which knew more. Of a flag or a group that may have been a step back, or a return.
   *
   * @param at by our clock
   */
  toldByFormer(fact: EnvironmentFact, at: number): void {
    const subject = factSubject(fact);
    if (this.told.has(subject)) return;
    const former = { endedAt: at, last: { version: 0, since: at } };
    if (isRemoval(fact)) this.end(subject, former);
    else if (publishedIn(fact)) this.end(subject, { ...former, successorAt: at });
    this.note(subject, { at, asOf: -Infinity });
  }

  private note(subject: string, told: Told): void {
    this.told.delete(subject);
    this.told.set(subject, told);
    this.forget();
  }

  /** When the log was last told of the same thing; undefined if that is long ago. */
  toldAt(fact: EnvironmentFact): number | undefined {
    return this.told.get(factSubject(fact))?.at;
  }

  /** As of when a read showed what the log was last told of the same thing: one of before is older. */
  shownAsOf(fact: EnvironmentFact): number {
    return this.told.get(factSubject(fact))?.asOf ?? -Infinity;
  }

  /** When the log was last told that the same thing began anew after a life that ended; undefined if that is long ago. */
  beganAnewAt(fact: EnvironmentFact): number | undefined {
    return this.ended.get(factSubject(fact))?.successorAt;
  }

  /**
   * As of when a read cannot show a life of the same thing that ended.
   *
   * @param isAnnounced the upstream said, late perhaps, that just this version is there: of what is gone, at worst that is
   *   back which was there last, until the next read
   */
  outlivedAt(known: EnvironmentState, fact: EnvironmentFact, isAnnounced = false): number {
    const former = this.ended.get(factSubject(fact));
    if (!former) return -Infinity;
    const { endedAt, last } = former;
    const version = publishedIn(fact)?.version;
    if (version === undefined) return endedAt;
    const isAtWorstLast = isAnnounced && !isThere(known, fact);
    if (!last) return isAtWorstLast ? -Infinity : endedAt;
    // Within a life versions rise: since its last one was there, none below is of it, nor of a life before.
    return isAtWorstLast || version < last.version ? last.since : endedAt;
  }

  /** As of when a read shows what is known, or what came after it. */
  settledAt(known: EnvironmentState, fact: EnvironmentFact): number {
    const subject = factSubject(fact);
    // Of what is gone since a life ended, `outlivedAt` knows more.
    if (this.ended.has(subject) && !isThere(known, fact)) return -Infinity;
    return this.told.get(subject)?.at ?? -Infinity;
  }

  private end(subject: string, life: FormerLife): void {
    this.ended.delete(subject);
    this.ended.set(subject, life);
    this.forget();
  }

  /** Now and then: the front of a map from which much was deleted takes long to find. */
  private forget(): void {
    const now = this.now();
    if (now - this.forgottenAt < FORGET_EVERY_MS) return;
    this.forgottenAt = now;
    forgetUntil(this.told, now - REMEMBERED_MS, ({ at }) => at);
    forgetUntil(this.ended, now - REMEMBERED_MS, ({ endedAt, successorAt = endedAt }) =>
      Math.max(endedAt, successorAt),
    );
  }
}

function forgetUntil<Value>(
  byTime: Map<string, Value>,
  horizon: number,
  timeOf: (value: Value) => number,
): void {
  for (const [oldest, value] of byTime) {
    if (timeOf(value) > horizon) break;
    byTime.delete(oldest);
  }
}

function isRemoval({ type }: EnvironmentFact): boolean {
  return type.endsWith('Removed');
}

function isThere(known: EnvironmentState, fact: EnvironmentFact): boolean {
  const { kind, identifier } = entityOf(fact);
  if (kind === 'apikey') return known.exists && known.apiKeys.get(identifier)?.value === true;
  return kind === 'environment' ? known.exists : versionHeld(known, fact) !== undefined;
}

function versionHeld(known: EnvironmentState, fact: EnvironmentFact): number | undefined {
  const { kind, identifier } = entityOf(fact);
  if (kind !== 'flag' && kind !== 'segment') return undefined;
  const held = heldIn(known, { kind: kind === 'flag' ? 'flags' : 'segments', identifier });
  return held && (held.version ?? 0);
}
