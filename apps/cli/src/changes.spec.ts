import { describe, expect, it } from '@jest/globals';

import {
  type EnvironmentFact,
  type EnvironmentState,
  fold,
  sameContent,
  unknownEnvironment,
} from '#libs/domain';
import fc from 'fast-check';

import {
  aFlag,
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from '../../../libs/domain/src/builders.suite.js';
import { changeBy, changedFields, changesBetween } from './changes.js';

const stateAfter = (...facts: EnvironmentFact[]): EnvironmentState =>
  fold(
    unknownEnvironment('dev'),
    facts.map((fact, i) => ({ fact, sequence: i + 1 })),
  );
const states = (...facts: EnvironmentFact[]) => new Map([['dev', stateAfter(...facts)]]);

describe('The fields that changed', () => {
  it('are named by their path, with both values', () => {
    expect(
      changedFields(
        { state: 'off', defaultServe: { variation: 'true' }, version: 1 },
        { state: 'on', defaultServe: { variation: 'false' }, version: 1 },
      ),
    ).toEqual([
      { path: 'state', before: 'off', after: 'on' },
      { path: 'defaultServe.variation', before: 'true', after: 'false' },
    ]);
  });

  it('have no value where they are not there, which is not the same as null', () => {
    expect(changedFields({ a: 1, b: null }, { b: undefined, c: 2 })).toEqual([
      { path: 'b', before: null, after: undefined },
      { path: 'c', after: 2 },
      { path: 'a', before: 1 },
    ]);
  });

  it('of lists are those of the items of the same name, wherever these stand', () => {
    const rule = (ruleId: string, variation: string) => ({ ruleId, serve: { variation } });
    expect(
      changedFields(
        { rules: [rule('a', 'x'), rule('b', 'x'), rule('gone', 'x')] },
        { rules: [rule('new', 'x'), rule('a', 'x'), rule('b', 'y')] },
      ),
    ).toEqual([
      { path: 'rules[new]', after: rule('new', 'x') },
      { path: 'rules[b].serve.variation', before: 'x', after: 'y' },
      { path: 'rules[gone]', before: rule('gone', 'x') },
    ]);
  });

  it('of lists of names are the names that came and went', () => {
    const map = (...targetSegments: string[]) => [{ variation: 'on', targetSegments }];
    expect(changedFields({ map: map('beta') }, { map: map('beta', 'staff') })).toEqual([
      { path: 'map[on].targetSegments[staff]', after: 'staff' },
    ]);
  });

  it('include the order of a list', () => {
    expect(changedFields({ values: ['a', 'b', 'c'] }, { values: ['c', 'a'] })).toEqual([
      { path: 'values[b]', before: 'b' },
      { path: 'values.order', before: ['a', 'c'], after: ['c', 'a'] },
    ]);
  });

  it('of lists whose items have no names of their own are the lists as a whole', () => {
    const [before, after] = [[{ op: 'in' }, { op: 'in' }], [{ op: 'in' }]];
    expect(changedFields({ clauses: before }, { clauses: after })).toEqual([
      { path: 'clauses', before, after },
    ]);
  });

  it('are none exactly if both values say the same', () => {
    const value = fc.jsonValue({ maxDepth: 3 });
    fc.assert(
      fc.property(value, value, (one, other) => {
        expect(changedFields(one, one)).toEqual([]);
        expect(changedFields(one, other).length === 0).toBe(sameContent(one, other));
      }),
    );
  });
});

describe('What a fact changed', () => {
  const before = stateAfter(environmentAdded(), flagPublished('a'), segmentPublished('s'));

  it('is told with the entity as it was and as it is', () => {
    expect(changeBy(before, flagPublished('a', 2), true)).toEqual({
      change: 'changed',
      environment: 'dev',
      kind: 'flag',
      identifier: 'a',
      before: aFlag('a'),
      after: aFlag('a', { version: 2 }),
      fields: [{ path: 'version', before: 1, after: 2 }],
    });
    expect(changeBy(before, flagPublished('b'), true)).toMatchObject({ change: 'added', fields: [] });
    expect(changeBy(before, flagRemoved('a'), true)).toMatchObject({
      change: 'removed',
      before: aFlag('a'),
    });
    expect(changeBy(before, apiKeyAdded('0a'), true)).toMatchObject({ change: 'added', kind: 'apikey' });
  });

  it('is not called an addition where the log may have lost what was before', () => {
    expect(changeBy(before, flagPublished('b', 70), false)).toMatchObject({ change: 'published' });
  });
});

describe('What differs between two states', () => {
  it('is nothing where both are the same, however they came to be so', () => {
    const one = states(environmentAdded(), flagPublished('a'), flagPublished('b'));
    const other = states(environmentAdded(), flagPublished('b'), flagRemoved('a'), flagPublished('a'));
    expect(changesBetween(one, other)).toEqual([]);
  });

  it('is told by kind and identifier, with all that an environment brought or took with it', () => {
    const facts = [environmentAdded(), flagPublished('b'), flagPublished('a'), segmentPublished('s')];
    const names = ['environment dev', 'flag a', 'flag b', 'segment s'];
    const told = (before: ReturnType<typeof states>, after: ReturnType<typeof states>) =>
      changesBetween(before, after).map(({ change, kind, identifier }) => `${change} ${kind} ${identifier}`);
    expect(told(new Map(), states(...facts))).toEqual(names.map((name) => `added ${name}`));
    expect(told(states(...facts), states(...facts, environmentRemoved()))).toEqual(
      names.map((name) => `removed ${name}`),
    );
  });

  it('leaves out what one of them may lack', () => {
    const after = states(environmentAdded(), flagPublished('a'), flagPublished('b'));
    const unknown = [{ environment: 'dev', kind: 'flag', identifier: 'a' }];
    const told = changesBetween(states(environmentAdded()), after, unknown);
    expect(told.map(({ identifier }) => identifier)).toEqual(['b']);
    const environment = [{ environment: 'dev', kind: 'environment', identifier: 'dev' }];
    expect(changesBetween(new Map(), after, environment)).toEqual([]);
  });
});
