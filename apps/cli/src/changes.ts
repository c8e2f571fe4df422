/**
 * What changed: of one entity, field by field; by one fact; between two states of everything.
 *
 * Items of a list are told apart by what names them (a variation's identifier, a rule's id, a target's identifier), so
 * that a rule put first is one new rule and not a list of changed ones.
 */
import {
  byIdentifier,
  type EnvironmentFact,
  type EnvironmentState,
  type Flag,
  flagIn,
  type Segment,
  segmentIn,
  sameContent,
} from '#libs/domain';
import type { EntityName } from '#libs/projection';

/** A field that differs. `before` or `after` is left out where the field is not there. */
export interface FieldChange {
  /** `state`, `rules[r1].serve.variation`; the order of a list that changed is `rules.order`. */
  readonly path: string;
  readonly before?: unknown;
  readonly after?: unknown;
}

/** What may be added, removed and changed, by the kinds of the log's subjects. */
export type ChangedKind = 'environment' | 'flag' | 'segment' | 'apikey';
const KINDS: readonly ChangedKind[] = ['environment', 'flag', 'segment', 'apikey'];

export interface Change {
  /** `published`: it has this state since then; which it had before is not known any more. */
  readonly change: 'added' | 'removed' | 'changed' | 'published';
  readonly environment: string;
  readonly kind: ChangedKind;
  readonly identifier: string;
  /** The flag, the target group, or what is known of the environment. An SDK key has nothing but its hash. */
  readonly before?: Entity | undefined;
  readonly after?: Entity | undefined;
  /** Of what was changed. */
  readonly fields: readonly FieldChange[];
}

type Entity = Flag | Segment | { readonly account: string | undefined };

/** What names an item of a list, the first that all items have and that is of one item only. */
const NAMES = ['identifier', 'ruleId', 'feature', 'variation', 'id'];

/** Every field that differs, in the order of the newer value. */
export function changedFields(before: unknown, after: unknown, path = ''): readonly FieldChange[] {
  if (sameContent(before, after)) return [];
  if (Array.isArray(before) && Array.isArray(after)) return changedItems(before, after, path);
  if (!isRecord(before) || !isRecord(after)) return [{ path, before, after }];
  const under = (name: string) => (path ? `${path}.${name}` : name);
  const names = new Set([...Object.keys(after), ...Object.keys(before)]);
  return [...names].flatMap((name) => {
    if (!Object.hasOwn(before, name)) return [{ path: under(name), after: after[name] }];
    if (!Object.hasOwn(after, name)) return [{ path: under(name), before: before[name] }];
    return changedFields(before[name], after[name], under(name));
  });
}

function changedItems(
  before: readonly unknown[],
  after: readonly unknown[],
  path: string,
): readonly FieldChange[] {
  const [old, next] = namedAlike(before, after);
  if (!old || !next) return [{ path, before, after }];
  const items = [...new Set([...next.keys(), ...old.keys()])].flatMap((name) => {
    const at = `${path}[${name}]`;
    if (!old.has(name)) return [{ path: at, after: next.get(name) }];
    if (!next.has(name)) return [{ path: at, before: old.get(name) }];
    return changedFields(old.get(name), next.get(name), at);
  });
  const order = {
    before: [...old.keys()].filter((name) => next.has(name)),
    after: [...next.keys()].filter((name) => old.has(name)),
  };
  return sameContent(order.before, order.after) ? items : [...items, { path: `${path}.order`, ...order }];
}

type Named = ReadonlyMap<string, unknown>;

/** The items of both lists by their names; nothing if there is no name that tells them apart in both. */
function namedAlike(
  before: readonly unknown[],
  after: readonly unknown[],
): readonly [Named, Named] | readonly [] {
  const ways = [
    (item: unknown) => item,
    ...NAMES.map((name) => (item: unknown) => (isRecord(item) ? item[name] : undefined)),
  ];
  for (const nameOf of ways) {
    const [old, next] = [named(before, nameOf), named(after, nameOf)];
    if (old && next) return [old, next];
  }
  return [];
}

function named(items: readonly unknown[], nameOf: (item: unknown) => unknown): Named | undefined {
  const byName = new Map<string, unknown>();
  for (const item of items) {
    const name = nameOf(item);
    if (typeof name !== 'string' || byName.has(name)) return undefined;
    byName.set(name, item);
  }
  return byName;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * What a fact changed.
 *
 * @param before the environment as it was, as far as the log tells
 * @param isKnown whether the log still tells all that happened to the entity
 */
export function changeBy(before: EnvironmentState, fact: EnvironmentFact, isKnown: boolean): Change {
  const { environment } = fact;
  switch (fact.type) {
    case 'EnvironmentAdded':
    case 'EnvironmentRemoved': {
      const after = fact.type === 'EnvironmentAdded' ? { account: fact.account } : undefined;
      return changed('environment', environment, environment, environmentIn(before), after, isKnown);
    }
    case 'FlagPublished': {
      const { feature } = fact.flag;
      return changed('flag', environment, feature, flagIn(before, feature), fact.flag, isKnown);
    }
    case 'FlagRemoved':
      return changed('flag', environment, fact.identifier, flagIn(before, fact.identifier), undefined);
    case 'SegmentPublished': {
      const { identifier } = fact.segment;
      return changed(
        'segment',
        environment,
        identifier,
        segmentIn(before, identifier),
        fact.segment,
        isKnown,
      );
    }
    case 'SegmentRemoved':
      return changed('segment', environment, fact.identifier, segmentIn(before, fact.identifier), undefined);
    case 'ApiKeyAdded':
      return { change: 'added', kind: 'apikey', environment, identifier: fact.apiKey, fields: [] };
    case 'ApiKeyRemoved':
      return { change: 'removed', kind: 'apikey', environment, identifier: fact.apiKey, fields: [] };
  }
}

type States = ReadonlyMap<string, EnvironmentState>;

/**
 * All that differs between two states, by environment, kind and identifier. What an environment holds that was added or
 * removed as a whole is told too.
 *
 * @param unknown what one of the states may lack, of which nothing is told
 */
export function changesBetween(
  before: States,
  after: States,
  unknown: readonly EntityName[] = [],
): readonly Change[] {
  const skipped = new Set(unknown.map(nameOf));
  const environments = [...new Set([...before.keys(), ...after.keys()])].toSorted(byIdentifier);
  return environments
    .flatMap((id) => changesOf(id, before.get(id), after.get(id)))
    .filter(
      (change) =>
        !skipped.has(nameOf(change)) &&
        !skipped.has(nameOf({ ...change, kind: 'environment', identifier: change.environment })),
    );
}

function changesOf(
  environment: string,
  before: EnvironmentState | undefined,
  after: EnvironmentState | undefined,
): readonly Change[] {
  return KINDS.flatMap((kind) => {
    const [old, next] = [entitiesIn(before, kind), entitiesIn(after, kind)];
    const identifiers = [...new Set([...old.keys(), ...next.keys()])].toSorted(byIdentifier);
    return identifiers.flatMap((identifier) => {
      const change = changed(kind, environment, identifier, old.get(identifier), next.get(identifier));
      return change.change === 'changed' && change.fields.length === 0 ? [] : [change];
    });
  });
}

/** What is there of a kind, by its identifier; of SDK keys only that they are. */
function entitiesIn(
  state: EnvironmentState | undefined,
  kind: ChangedKind,
): ReadonlyMap<string, Entity | true> {
  if (!state?.exists) return new Map();
  if (kind === 'environment') return new Map([[state.id, { account: state.account }]]);
  const entries = { flag: state.flags, segment: state.segments, apikey: state.apiKeys }[kind];
  return new Map(
    [...entries].flatMap(([identifier, { value }]) => (value === undefined ? [] : [[identifier, value]])),
  );
}

function environmentIn(state: EnvironmentState): Entity | undefined {
  return state.exists ? { account: state.account } : undefined;
}

function changed(
  kind: ChangedKind,
  environment: string,
  identifier: string,
  before: Entity | true | undefined,
  after: Entity | true | undefined,
  isKnown = true,
): Change {
  const change =
    after === undefined ? 'removed' : before === undefined ? (isKnown ? 'added' : 'published') : 'changed';
  return {
    change,
    environment,
    kind,
    identifier,
    ...(typeof before === 'object' && { before }),
    ...(typeof after === 'object' && { after }),
    fields: change === 'changed' ? changedFields(before, after) : [],
  };
}

function nameOf({ environment, kind, identifier }: EntityName): string {
  return JSON.stringify([environment, kind, identifier]);
}
