import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import {
  aFlag,
  apiKeyAdded,
  aSegment,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from './builders.suite.js';
import {
  apiKeysOf,
  byIdentifier,
  type EnvironmentFact,
  type EnvironmentState,
  type FetchedEnvironment,
  flagsOf,
  fold,
  isDoubtful,
  reconcile,
  sameContent,
  segmentsOf,
  unknownEnvironment,
} from './index.js';

const given = (...facts: EnvironmentFact[]): EnvironmentState => apply(unknownEnvironment('dev'), facts);
const apply = (state: EnvironmentState, facts: readonly EnvironmentFact[]): EnvironmentState =>
  fold(
    state,
    facts.map((fact, i) => ({ fact, sequence: state.sequence + i + 1 })),
  );

const fetchedStates: fc.Arbitrary<FetchedEnvironment & { flags: object; segments: object; apiKeys: object }> =
  fc.record({
    id: fc.constant('dev'),
    flags: fc.uniqueArray(
      fc
        .record({
          id: fc.constantFrom('a', 'b', 'c', 'd'),
          version: fc.integer({ min: 1, max: 5 }),
          on: fc.boolean(),
        })
        .map(({ id, version, on }) => aFlag(id, { version, state: on ? 'on' : 'off' })),
      { selector: (flag) => flag.feature },
    ),
    segments: fc.uniqueArray(
      fc
        .tuple(fc.constantFrom('s', 't'), fc.integer({ min: 1, max: 3 }))
        .map(([id, version]) => aSegment(id, { version })),
      { selector: (segment) => segment.identifier },
    ),
    apiKeys: fc.uniqueArray(fc.constantFrom('k1', 'k2', 'k3')),
  });

describe('Reconciling', () => {
  it('finds nothing when both sides are equal', () => {
    fc.assert(
      fc.property(fetchedStates, (fetched) => {
        const known = apply(unknownEnvironment('dev'), reconcile(unknownEnvironment('dev'), fetched));
        expect(reconcile(known, fetched)).toEqual([]);
      }),
    );
  });

  it('returns facts that lead to the fetched state', () => {
    fc.assert(
      fc.property(fetchedStates, fetchedStates, (first, second) => {
        const known = apply(unknownEnvironment('dev'), reconcile(unknownEnvironment('dev'), first));
        const after = apply(known, reconcile(known, second));
        expect(flagsOf(after)).toEqual(second.flags.toSorted((a, b) => byIdentifier(a.feature, b.feature)));
        expect(segmentsOf(after)).toEqual(
          second.segments.toSorted((a, b) => byIdentifier(a.identifier, b.identifier)),
        );
        expect(apiKeysOf(after)).toEqual(second.apiKeys.toSorted(byIdentifier));
      }),
    );
  });

  it('leaves alone what the upstream did not tell of', () => {
    const known = given(environmentAdded(), flagPublished('a'), segmentPublished('s'), apiKeyAdded('k'));
    expect(reconcile(known, { id: 'dev' })).toEqual([]);
    expect(reconcile(known, { id: 'dev', flags: [] }).map((fact) => fact.type)).toEqual(['FlagRemoved']);
  });

  it('removes nothing on the word of a list of which a part could not be read', () => {
    const known = given(environmentAdded(), flagPublished('a'), segmentPublished('s'), apiKeyAdded('k'));
    const fetched = { id: 'dev', flags: [aFlag('b')], segments: [], apiKeys: [] };
    const types = (incomplete: FetchedEnvironment['incomplete']) =>
      reconcile(known, { ...fetched, incomplete }).map((fact) => fact.type);
    expect(types(['flags', 'segments', 'apiKeys'])).toEqual(['FlagPublished']);
    expect(types(['flags', 'segments'])).toEqual(['FlagPublished', 'ApiKeyRemoved']);
    expect(types(['apiKeys'])).toEqual(['FlagPublished', 'FlagRemoved', 'SegmentRemoved']);
  });

  it('finds other content under the same version', () => {
    const known = given(environmentAdded(), flagPublished('a', 3));
    const flag = aFlag('a', { version: 3, state: 'on' });
    expect(reconcile(known, { id: 'dev', flags: [flag] })).toEqual([
      { type: 'FlagPublished', environment: 'dev', flag },
    ]);
  });

  it('lets SDK keys in only after the flags, and flags only after the groups', () => {
    const fetched = { id: 'dev', flags: [aFlag('a')], segments: [aSegment('s')], apiKeys: ['k'] };
    expect(reconcile(unknownEnvironment('dev'), fetched).map((fact) => fact.type)).toEqual([
      'EnvironmentAdded',
      'SegmentPublished',
      'FlagPublished',
      'ApiKeyAdded',
    ]);
  });
});

describe('A single read', () => {
  const known = given(
    environmentAdded(),
    flagPublished('a', 7),
    flagPublished('gone', 4),
    flagRemoved('gone', 5),
    apiKeyAdded('revoked'),
    { type: 'ApiKeyRemoved', environment: 'dev', apiKey: 'revoked' },
  );

  it.each([
    ['a removal', flagRemoved('a', 7), true],
    ['a version below the known one', flagPublished('a', 6), true],
    ['a removed flag at the version it was removed at', flagPublished('gone', 5), true],
    ['a removed flag at a version above', flagPublished('gone', 6), true],
    ['a newer version', flagPublished('a', 8), false],
    ['other content at the same version', flagPublished('a', 7), true],
    ['a flag never seen', flagPublished('new', 1), false],
    ['an SDK key that was revoked', apiKeyAdded('revoked'), true],
    ['an SDK key never seen', apiKeyAdded('k'), false],
  ])('may or may not be believed at once: %s', (_, fact, doubtful) => {
    expect(isDoubtful(known, fact)).toBe(doubtful);
  });

  it('is not enough for anything about an environment that was removed', () => {
    const removed = given(environmentAdded(), flagPublished('a', 7), environmentRemoved());
    expect(
      reconcile(removed, { id: 'dev', flags: [aFlag('a')] }).map((fact) => isDoubtful(removed, fact)),
    ).toEqual([true, true]);
  });

  it('is enough for an environment never seen', () => {
    const never = unknownEnvironment('dev');
    expect(
      reconcile(never, { id: 'dev', flags: [aFlag('a')] }).map((fact) => isDoubtful(never, fact)),
    ).toEqual([false, false]);
  });
});

describe('Content', () => {
  it('is the same whatever the order of keys, and another when a list has another order', () => {
    expect(sameContent({ a: 1, b: [{ c: null }] }, { b: [{ c: null }], a: 1 })).toBe(true);
    expect(sameContent({ a: [1, 2] }, { a: [2, 1] })).toBe(false);
    expect(sameContent({ a: undefined }, { b: undefined })).toBe(false);
    expect(sameContent([], {})).toBe(false);
    expect(sameContent({ a: null }, { a: {} })).toBe(false);
  });

  it('of any JSON equals its own copy', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => sameContent(value, JSON.parse(JSON.stringify(value)))));
  });
});
