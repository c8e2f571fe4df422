/**
 * The fold of one environment: facts in, state out.
 *
 * The last fact about an entity, by its sequence in the log, is the entity's state. Every entity remembers the sequence
 * that it stands at, so facts may arrive in any order, twice, or mixed with older ones, and the result is the same.
 * `EnvironmentAdded` and `EnvironmentRemoved` end the life of everything before them; that is how one append removes
 * an environment, and how one that is added again starts empty.
 */
import { byIdentifier, type Flag, type Segment } from './entities.js';
import type { EnvironmentFact, SequencedFact } from './facts.js';

/** An entity as of `sequence`; without a value it was removed. */
export interface Entry<Value> {
  readonly sequence: number;
  readonly value: Value | undefined;
}

export interface EnvironmentState {
  /** The environment's UUID. */
  readonly id: string;
  readonly exists: boolean;
  /** The SaaS account that it belongs to, if the upstream told. */
  readonly account: string | undefined;
  /** The fact that began or ended its present life. */
  readonly lifeSequence: number;
  /** The newest fact in here. */
  readonly sequence: number;
  readonly flags: ReadonlyMap<string, Entry<Flag>>;
  readonly segments: ReadonlyMap<string, Entry<Segment>>;
  /** By the SHA-256 of the SDK key. */
  readonly apiKeys: ReadonlyMap<string, Entry<true>>;
}

export function unknownEnvironment(id: string): EnvironmentState {
  return {
    id,
    exists: false,
    account: undefined,
    lifeSequence: 0,
    sequence: 0,
    flags: new Map(),
    segments: new Map(),
    apiKeys: new Map(),
  };
}

/** The state after one more fact; the same object if the fact says nothing new. */
export function evolve(state: EnvironmentState, fact: EnvironmentFact, sequence: number): EnvironmentState {
  return fold(state, [{ fact, sequence }]);
}

/** The state after more facts. Each collection is copied at most once, however many facts there are. */
export function fold(
  state: EnvironmentState,
  facts: Iterable<SequencedFact<EnvironmentFact>>,
): EnvironmentState {
  const flags = new Collection(state.flags);
  const segments = new Collection(state.segments);
  const apiKeys = new Collection(state.apiKeys);
  let { exists, account, lifeSequence, sequence: newest } = state;

  for (const { fact, sequence } of facts) {
    newest = Math.max(newest, sequence);
    if (sequence <= lifeSequence) continue;
    switch (fact.type) {
      case 'EnvironmentAdded':
      case 'EnvironmentRemoved':
        exists = fact.type === 'EnvironmentAdded';
        account = fact.type === 'EnvironmentAdded' ? fact.account : undefined;
        lifeSequence = sequence;
        for (const collection of [flags, segments, apiKeys]) collection.forgetUntil(sequence);
        break;
      case 'FlagPublished':
        flags.put(fact.flag.feature, { sequence, value: fact.flag });
        break;
      case 'FlagRemoved':
        flags.put(fact.identifier, { sequence, value: undefined });
        break;
      case 'SegmentPublished':
        segments.put(fact.segment.identifier, { sequence, value: fact.segment });
        break;
      case 'SegmentRemoved':
        segments.put(fact.identifier, { sequence, value: undefined });
        break;
      case 'ApiKeyAdded':
        apiKeys.put(fact.apiKey, { sequence, value: true });
        break;
      case 'ApiKeyRemoved':
        apiKeys.put(fact.apiKey, { sequence, value: undefined });
        break;
    }
  }

  if (
    newest === state.sequence &&
    lifeSequence === state.lifeSequence &&
    ![flags, segments, apiKeys].some((c) => c.changed)
  ) {
    return state;
  }
  return {
    id: state.id,
    exists,
    account,
    lifeSequence,
    sequence: newest,
    flags: flags.entries,
    segments: segments.entries,
    apiKeys: apiKeys.entries,
  };
}

/** Folds facts about many environments into the states that they belong to. @returns the environments concerned */
export function foldInto(
  states: Map<string, EnvironmentState>,
  facts: Iterable<SequencedFact<EnvironmentFact>>,
): ReadonlySet<string> {
  const byEnvironment = Map.groupBy(facts, ({ fact }) => fact.environment);
  for (const [id, of] of byEnvironment) states.set(id, fold(states.get(id) ?? unknownEnvironment(id), of));
  return new Set(byEnvironment.keys());
}

/** A map of entries that is copied at its first change. */
class Collection<Value> {
  changed = false;
  constructor(public entries: ReadonlyMap<string, Entry<Value>>) {}

  put(identifier: string, entry: Entry<Value>): void {
    if (entry.sequence <= (this.entries.get(identifier)?.sequence ?? 0)) return;
    this.owned().set(identifier, entry);
  }

  forgetUntil(sequence: number): void {
    for (const [identifier, entry] of this.entries) {
      if (entry.sequence <= sequence) this.owned().delete(identifier);
    }
  }

  private owned(): Map<string, Entry<Value>> {
    if (!this.changed) {
      this.entries = new Map(this.entries);
      this.changed = true;
    }
    return this.entries as Map<string, Entry<Value>>;
  }
}

export function flagIn(state: EnvironmentState, identifier: string): Flag | undefined {
  return state.exists ? state.flags.get(identifier)?.value : undefined;
}

export function segmentIn(state: EnvironmentState, identifier: string): Segment | undefined {
  return state.exists ? state.segments.get(identifier)?.value : undefined;
}

/** The environment's flags, by identifier. */
export function flagsOf(state: EnvironmentState): readonly Flag[] {
  return state.exists ? present(state.flags) : [];
}

/** The environment's target groups, by identifier. */
export function segmentsOf(state: EnvironmentState): readonly Segment[] {
  return state.exists ? present(state.segments) : [];
}

/** The SHA-256 of the environment's SDK keys, sorted. */
export function apiKeysOf(state: EnvironmentState): readonly string[] {
  if (!state.exists) return [];
  return [...state.apiKeys].flatMap(([key, entry]) => (entry.value ? [key] : [])).toSorted(byIdentifier);
}

function present<Value>(entries: ReadonlyMap<string, Entry<Value>>): readonly Value[] {
  return [...entries]
    .toSorted(([a], [b]) => byIdentifier(a, b))
    .flatMap(([, entry]) => (entry.value === undefined ? [] : [entry.value]));
}
