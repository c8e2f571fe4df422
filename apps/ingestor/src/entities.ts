import {
  type EnvironmentFact,
  type EnvironmentState,
  type Flag,
  flagIn,
  type Segment,
  segmentIn,
} from '#libs/domain';

export type ListKind = 'flags' | 'segments';

/** A flag or a group. */
export interface Entity {
  readonly kind: ListKind;
  readonly identifier: string;
}

/** The flag or group that the fact publishes. */
export function publishedIn(fact: EnvironmentFact): (Entity & { readonly version: number }) | undefined {
  if (fact.type === 'FlagPublished') {
    return { kind: 'flags', identifier: fact.flag.feature, version: fact.flag.version ?? 0 };
  }
  if (fact.type === 'SegmentPublished') {
    return { kind: 'segments', identifier: fact.segment.identifier, version: fact.segment.version ?? 0 };
  }
  return undefined;
}

/** It as an environment has it; undefined if it has not. */
export function heldIn(known: EnvironmentState, { kind, identifier }: Entity): Flag | Segment | undefined {
  return kind === 'flags' ? flagIn(known, identifier) : segmentIn(known, identifier);
}
