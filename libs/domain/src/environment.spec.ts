import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import {
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from './builders.suite.js';
import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  flagIn,
  flagsOf,
  fold,
  segmentsOf,
  type SequencedFact,
  unknownEnvironment,
} from './index.js';

const given = (...facts: EnvironmentFact[]): EnvironmentState =>
  fold(unknownEnvironment('dev'), sequenced(facts));
const sequenced = (facts: EnvironmentFact[]): SequencedFact<EnvironmentFact>[] =>
  facts.map((fact, i) => ({ fact, sequence: i + 1 }));

describe('An environment', () => {
  it('holds the newest fact about each flag, group and SDK key', () => {
    const state = given(
      environmentAdded(),
      segmentPublished('beta', 3),
      flagPublished('dark-mode', 1),
      flagPublished('banner', 1),
      flagPublished('dark-mode', 2),
      apiKeyAdded('abc'),
    );
    expect(flagsOf(state).map(({ feature, version }) => [feature, version])).toEqual([
      ['banner', 1],
      ['dark-mode', 2],
    ]);
    expect(segmentsOf(state).map(({ identifier }) => identifier)).toEqual(['beta']);
    expect(apiKeysOf(state)).toEqual(['abc']);
  });

  it('does not hold what was removed', () => {
    const state = given(environmentAdded(), flagPublished('a', 7), flagRemoved('a', 7));
    expect(flagIn(state, 'a')).toBeUndefined();
  });

  it('holds a flag that was removed and made again, at version 1', () => {
    const state = given(
      environmentAdded(),
      flagPublished('a', 7),
      flagRemoved('a', 8),
      flagPublished('a', 1),
    );
    expect(flagIn(state, 'a')?.version).toBe(1);
  });

  it('is empty after its removal, and holds nothing of its former life when it is added again', () => {
    const before = [environmentAdded(), flagPublished('a'), apiKeyAdded('abc')];
    expect(flagsOf(given(...before, environmentRemoved()))).toEqual([]);
    const again = given(...before, environmentRemoved(), environmentAdded(), flagPublished('b'));
    expect(flagsOf(again).map(({ feature }) => feature)).toEqual(['b']);
    expect(apiKeysOf(again)).toEqual([]);
  });

  it('shows nothing before it was added', () => {
    expect(flagsOf(given(flagPublished('a')))).toEqual([]);
  });

  it('stays the same object when a fact repeats', () => {
    const state = given(environmentAdded(), flagPublished('a'));
    expect(evolve(state, flagPublished('a'), 2)).toBe(state);
  });

  it('leaves earlier states as they were', () => {
    const before = given(environmentAdded(), flagPublished('a', 1));
    evolve(before, flagPublished('a', 2), 3);
    expect(flagIn(before, 'a')?.version).toBe(1);
  });
});

/** Histories as the ingestor writes them: each entity's versions rise, and environments and entities come and go. */
const histories = fc
  .array(
    fc.oneof(
      {
        weight: 12,
        arbitrary: fc.record({
          kind: fc.constantFrom('flag', 'segment'),
          id: fc.constantFrom('a', 'b', 'c'),
        }),
      },
      {
        weight: 3,
        arbitrary: fc.record({ kind: fc.constant('flagRemoved'), id: fc.constantFrom('a', 'b', 'c') }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constantFrom('added', 'removed'), id: fc.constant('dev') }),
      },
    ),
    { maxLength: 40 },
  )
  .map((steps) => [
    environmentAdded(),
    ...steps.map(({ kind, id }, i): EnvironmentFact => {
      switch (kind) {
        case 'flag':
          return flagPublished(id, i + 1);
        case 'segment':
          return segmentPublished(id, i + 1);
        case 'flagRemoved':
          return flagRemoved(id, i + 1);
        case 'added':
          return environmentAdded();
        default:
          return environmentRemoved();
      }
    }),
  ]);

const visible = (state: EnvironmentState) => ({
  flags: flagsOf(state),
  segments: segmentsOf(state),
  keys: apiKeysOf(state),
});

describe('The fold', () => {
  it('comes to the same state in any order, with any repeats and in any portions', () => {
    fc.assert(
      fc.property(
        histories.chain((history) => {
          const facts = sequenced(history);
          return fc.record({
            facts: fc.constant(facts),
            delivered: fc
              .tuple(
                fc.shuffledSubarray(facts, { minLength: facts.length }),
                fc.array(fc.constantFrom(...facts)),
              )
              .map(([all, repeats]) => [...repeats, ...all, ...repeats]),
            portion: fc.integer({ min: 1, max: 10 }),
          });
        }),
        ({ facts, delivered, portion }) => {
          const inOrder = fold(unknownEnvironment('dev'), facts);
          let portioned = unknownEnvironment('dev');
          for (let i = 0; i < delivered.length; i += portion)
            portioned = fold(portioned, delivered.slice(i, i + portion));
          const oneByOne = delivered.reduce(
            (state, { fact, sequence }) => evolve(state, fact, sequence),
            unknownEnvironment('dev'),
          );
          expect(visible(portioned)).toEqual(visible(inOrder));
          expect(visible(oneByOne)).toEqual(visible(inOrder));
        },
      ),
      { numRuns: 500 },
    );
  });

  it('comes to the highest version of each flag, whatever the order', () => {
    fc.assert(
      fc.property(
        fc
          .array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 30 })
          .map((ids) => ids.map((id, i) => ({ fact: flagPublished(id, i + 1), sequence: i + 2 })))
          .chain((facts) =>
            fc.tuple(fc.constant(facts), fc.shuffledSubarray(facts, { minLength: facts.length })),
          ),
        ([facts, shuffled]) => {
          const state = fold(unknownEnvironment('dev'), [
            ...shuffled,
            { fact: environmentAdded(), sequence: 1 },
          ]);
          const highest = new Map(
            facts.map(({ fact, sequence }) => ['flag' in fact && fact.flag.feature, sequence - 1]),
          );
          expect(new Map(flagsOf(state).map(({ feature, version }) => [feature, version]))).toEqual(highest);
        },
      ),
    );
  });

  it('never lets a version go back while facts arrive in order, however often older ones repeat', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom('a', 'b'), fc.nat(20)), { maxLength: 40 }),
        (deliveries) => {
          let state = given(environmentAdded());
          const seen = new Map<string, number>();
          for (const [id, version] of deliveries) {
            state = evolve(state, flagPublished(id, version), version + 2);
            const now = flagIn(state, id)?.version ?? 0;
            expect(now).toBeGreaterThanOrEqual(seen.get(id) ?? 0);
            seen.set(id, now);
          }
        },
      ),
    );
  });
});
