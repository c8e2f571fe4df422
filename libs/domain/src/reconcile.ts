import type { Flag, Segment } from './entities.js';
import { apiKeysOf, type EnvironmentState, flagIn, flagsOf, segmentIn, segmentsOf } from './environment.js';
import type { EnvironmentFact } from './facts.js';

/** What one read of the upstream said about an environment. What is absent was not told, and stays as it is. */
export interface FetchedEnvironment {
  readonly id: string;
  readonly account?: string | undefined;
  readonly flags?: readonly Flag[] | undefined;
  readonly segments?: readonly Segment[] | undefined;
  /** SHA-256, lower-case hex. */
  readonly apiKeys?: readonly string[] | undefined;
  /** The lists of which a part could not be read: what they lack may be there all the same. */
  readonly incomplete?: readonly ('flags' | 'segments' | 'apiKeys')[] | undefined;
}

/**
 * The facts that lead from what is known to what was fetched; none when both are equal.
 *
 * Groups come before the flags that may name them, and SDK keys last, so that nobody can sign in to an environment
 * of which only half is there.
 */
export function reconcile(known: EnvironmentState, fetched: FetchedEnvironment): readonly EnvironmentFact[] {
  const environment = known.id;
  const facts: EnvironmentFact[] = [];
  if (!known.exists) facts.push({ type: 'EnvironmentAdded', environment, account: fetched.account });

  for (const segment of fetched.segments ?? []) {
    if (!sameContent(segmentIn(known, segment.identifier), segment)) {
      facts.push({ type: 'SegmentPublished', environment, segment });
    }
  }
  for (const flag of fetched.flags ?? []) {
    if (!sameContent(flagIn(known, flag.feature), flag))
      facts.push({ type: 'FlagPublished', environment, flag });
  }
  const held = new Set(apiKeysOf(known));
  for (const apiKey of fetched.apiKeys ?? []) {
    if (!held.has(apiKey)) facts.push({ type: 'ApiKeyAdded', environment, apiKey });
  }
  const incomplete = new Set(fetched.incomplete);
  if (fetched.flags && !incomplete.has('flags')) {
    const listed = new Set(fetched.flags.map((flag) => flag.feature));
    for (const { feature, version } of flagsOf(known)) {
      if (!listed.has(feature))
        facts.push({ type: 'FlagRemoved', environment, identifier: feature, version: version ?? 0 });
    }
  }
  if (fetched.segments && !incomplete.has('segments')) {
    const listed = new Set(fetched.segments.map((segment) => segment.identifier));
    for (const { identifier, version } of segmentsOf(known)) {
      if (!listed.has(identifier))
        facts.push({ type: 'SegmentRemoved', environment, identifier, version: version ?? 0 });
    }
  }
  if (fetched.apiKeys && !incomplete.has('apiKeys')) {
    const listed = new Set(fetched.apiKeys);
    for (const apiKey of apiKeysOf(known)) {
      if (!listed.has(apiKey)) facts.push({ type: 'ApiKeyRemoved', environment, apiKey });
    }
  }
  return facts;
}

/**
 * Whether a single read may not be enough to believe this: something known is gone, is not newer than what is known, or
 * is back after it was removed. A lagging replica upstream looks just like that, and so does a read that was under way
 * when something was deleted and made again. Such a fact needs a second read that agrees.
 */
export function isDoubtful(known: EnvironmentState, fact: EnvironmentFact): boolean {
  if (!known.exists) return known.lifeSequence > 0;
  switch (fact.type) {
    case 'FlagRemoved':
    case 'SegmentRemoved':
    case 'ApiKeyRemoved':
    case 'EnvironmentRemoved':
      return true;
    case 'FlagPublished':
      return isStep(known.flags.get(fact.flag.feature), fact.flag.version);
    case 'SegmentPublished':
      return isStep(known.segments.get(fact.segment.identifier), fact.segment.version);
    case 'ApiKeyAdded':
      return known.apiKeys.has(fact.apiKey);
    case 'EnvironmentAdded':
      return false;
  }
}

interface VersionedEntry {
  readonly value: { readonly version?: number | null | undefined } | undefined;
}

/** Not a step forward, or a return. */
function isStep(entry: VersionedEntry | undefined, version: number | null | undefined): boolean {
  if (!entry) return false;
  return entry.value === undefined || (version ?? 0) <= (entry.value.version ?? 0);
}

/** Whether two JSON values say the same. The order of an object's keys says nothing; the order of a list does. */
export function sameContent(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    return (
      Array.isArray(a) &&
      Array.isArray(b) &&
      a.length === b.length &&
      a.every((item, i) => sameContent(item, b[i]))
    );
  }
  const [left, right] = [a as Record<string, unknown>, b as Record<string, unknown>];
  const keys = Object.keys(left);
  return (
    keys.length === Object.keys(right).length &&
    keys.every((key) => Object.hasOwn(right, key) && sameContent(left[key], right[key]))
  );
}
