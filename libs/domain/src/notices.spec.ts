import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import {
  aFlag,
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from './builders.suite.js';
import { differences, type EnvironmentFact, fold, unknownEnvironment } from './index.js';

const stateOf = (...facts: EnvironmentFact[]) =>
  fold(
    unknownEnvironment('dev'),
    facts.map((fact, i) => ({ fact, sequence: i + 1 })),
  );
const brief = (before: ReturnType<typeof stateOf>, after: ReturnType<typeof stateOf>) =>
  differences(before, after).map(
    ({ event, kind, identifier, version }) => `${event} ${kind} ${identifier} ${version}`,
  );

describe('The differences of two states of an environment', () => {
  it('are what an SDK has to be told to get from one to the other', () => {
    const before = stateOf(
      environmentAdded(),
      flagPublished('gone', 4),
      flagPublished('same', 2),
      flagPublished('newer', 1),
      segmentPublished('group', 1),
      apiKeyAdded('k'),
    );
    const after = stateOf(
      environmentAdded(),
      segmentPublished('group', 2),
      flagPublished('newer', 3),
      flagPublished('same', 2),
      flagPublished('made', 1),
      apiKeyAdded('l'),
    );
    expect(brief(before, after).toSorted()).toEqual([
      'create apikey l 0',
      'create flag made 1',
      'delete apikey k 0',
      'delete flag gone 4',
      'patch flag newer 3',
      'patch segment group 2',
    ]);
  });

  it('are none for the same content at other places of other logs', () => {
    const before = stateOf(environmentAdded(), flagPublished('a', 1), flagPublished('a', 2));
    const after = stateOf(flagRemoved('x'), environmentAdded(), flagPublished('a', 2));
    expect(differences(before, after)).toEqual([]);
  });

  it('show another content under the same version', () => {
    const on: EnvironmentFact = {
      type: 'FlagPublished',
      environment: 'dev',
      flag: aFlag('a', { state: 'on' }),
    };
    expect(brief(stateOf(environmentAdded(), flagPublished('a')), stateOf(environmentAdded(), on))).toEqual([
      'patch flag a 1',
    ]);
  });

  it('of an environment that is no more are its removal, and of one that is new are all that it has', () => {
    const there = stateOf(environmentAdded(), flagPublished('a'));
    const gone = stateOf(environmentAdded(), flagPublished('a'), environmentRemoved());
    expect(brief(there, gone)).toEqual(['delete environment dev 0']);
    expect(brief(gone, gone)).toEqual([]);
    expect(brief(gone, there)).toEqual(['create environment dev 0', 'create flag a 1']);
  });

  it('of a state to itself are none', () => {
    const fact = fc.oneof(
      fc.tuple(fc.constantFrom('a', 'b'), fc.nat(3)).map(([name, version]) => flagPublished(name, version)),
      fc.constantFrom(flagRemoved('a'), environmentAdded(), environmentRemoved(), apiKeyAdded('k')),
    );
    fc.assert(
      fc.property(fc.array(fact), (facts) => {
        expect(differences(stateOf(...facts), stateOf(...facts))).toEqual([]);
      }),
    );
  });
});
