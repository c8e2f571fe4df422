import type { Flag, Segment } from './entities.js';

/**
 * One thing that became true upstream, with the whole new state of the entity, or its removal.
 * `environment` is the environment's UUID; `apiKey` is the lower-case hex SHA-256 of an SDK key, never the key.
 */
export type Fact =
  | { readonly type: 'FlagPublished'; readonly environment: string; readonly flag: Flag }
  | {
      readonly type: 'FlagRemoved';
      readonly environment: string;
      readonly identifier: string;
      readonly version: number;
    }
  | { readonly type: 'SegmentPublished'; readonly environment: string; readonly segment: Segment }
  | {
      readonly type: 'SegmentRemoved';
      readonly environment: string;
      readonly identifier: string;
      readonly version: number;
    }
  | { readonly type: 'ApiKeyAdded'; readonly environment: string; readonly apiKey: string }
  | { readonly type: 'ApiKeyRemoved'; readonly environment: string; readonly apiKey: string }
  | { readonly type: 'EnvironmentAdded'; readonly environment: string; readonly account?: string | undefined }
  | { readonly type: 'EnvironmentRemoved'; readonly environment: string }
  /** Every environment of the account is in the log: from here on "unknown" means unknown. */
  | { readonly type: 'SnapshotCompleted'; readonly account: string; readonly environments: number }
  | { readonly type: 'ProxyKeyDeleted'; readonly identifier: string };

export type EnvironmentFact = Extract<Fact, { environment: string }>;
export type AccountFact = Exclude<Fact, EnvironmentFact>;

/** A fact at its place in the log. Sequences rise by the order of appends, over all environments. */
export interface SequencedFact<F extends Fact = Fact> {
  readonly fact: F;
  readonly sequence: number;
}

/** Where in which log. A log made anew has a new epoch, so that an old position is never mistaken for a new one. */
export interface Position {
  readonly epoch: string;
  readonly sequence: number;
}

/** The kind of entity that a fact is about: a token of its subject in the log. */
export type Kind = 'flag' | 'segment' | 'apikey' | 'environment' | 'snapshot' | 'proxykey';

/** The entity that a fact is about. `environment` is undefined for facts about the account. */
export function entityOf(fact: Fact): { environment: string | undefined; kind: Kind; identifier: string } {
  switch (fact.type) {
    case 'FlagPublished':
      return { environment: fact.environment, kind: 'flag', identifier: fact.flag.feature };
    case 'FlagRemoved':
      return { environment: fact.environment, kind: 'flag', identifier: fact.identifier };
    case 'SegmentPublished':
      return { environment: fact.environment, kind: 'segment', identifier: fact.segment.identifier };
    case 'SegmentRemoved':
      return { environment: fact.environment, kind: 'segment', identifier: fact.identifier };
    case 'ApiKeyAdded':
    case 'ApiKeyRemoved':
      return { environment: fact.environment, kind: 'apikey', identifier: fact.apiKey };
    case 'EnvironmentAdded':
    case 'EnvironmentRemoved':
      return { environment: fact.environment, kind: 'environment', identifier: fact.environment };
    case 'SnapshotCompleted':
      return { environment: undefined, kind: 'snapshot', identifier: fact.account };
    case 'ProxyKeyDeleted':
      return { environment: undefined, kind: 'proxykey', identifier: fact.identifier };
  }
}

export function isEnvironmentFact(fact: Fact): fact is EnvironmentFact {
  return 'environment' in fact;
}

/** Whether every environment of the account is known after a fact, given whether it was so before it. */
export function isComplete(before: boolean, fact: Fact): boolean {
  if (fact.type === 'SnapshotCompleted') return true;
  return fact.type === 'ProxyKeyDeleted' ? false : before;
}

/** The facts about environments among others. */
export function environmentFactsIn<Logged extends SequencedFact>(
  facts: Iterable<Logged>,
): (Logged & SequencedFact<EnvironmentFact>)[] {
  return [...facts].filter((logged): logged is Logged & SequencedFact<EnvironmentFact> =>
    isEnvironmentFact(logged.fact),
  );
}
