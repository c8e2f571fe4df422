import {
  type EnvironmentFact,
  type EnvironmentState,
  type Flag,
  fold,
  type Segment,
  unknownEnvironment,
} from '#libs/domain';

import { Ruleset } from './index.js';

/** Environments for specs, of what they mention. */

export function stateOf(flags: readonly Flag[], segments: readonly Segment[] = []): EnvironmentState {
  const facts: EnvironmentFact[] = [
    { type: 'EnvironmentAdded', environment: 'dev', account: 'demo' },
    ...flags.map((flag) => ({ type: 'FlagPublished', environment: 'dev', flag }) as const),
    ...segments.map((segment) => ({ type: 'SegmentPublished', environment: 'dev', segment }) as const),
  ];
  return fold(
    unknownEnvironment('dev'),
    facts.map((fact, i) => ({ fact, sequence: i + 1 })),
  );
}

export function rulesetOf(flags: readonly Flag[], segments: readonly Segment[] = []): Ruleset {
  return Ruleset.of(stateOf(flags, segments));
}
