import { describe, expect, it } from '@jest/globals';
import { Client } from '@harnessio/ff-nodejs-server-sdk';
import fc from 'fast-check';

import { type Clause, type Flag, fold, type Segment, type Serve } from '#libs/domain';

import { aFlag, aSegment } from '../../domain/src/builders.suite.js';
import { isAnswered, Ruleset, type Target } from './index.js';
import { rulesetOf, stateOf } from './worlds.suite.js';

const listOf = <T>(item: fc.Arbitrary<T>, maxLength = 3, minLength = 0) =>
  fc.array(item, { minLength, maxLength });

const OPERATORS = ['equal', 'equal_sensitive', 'in', 'starts_with', 'ends_with', 'contains', 'gt'];

describe('The evaluator of the Harness Node SDK', () => {
  /**
   * What both read alike. Left out, because it is a documented difference: rules without clauses, that serve both or
   * neither, or of one priority; flags without a variation to serve, and circles; `match`; attributes that are lists,
   * objects or null; false and 0 to spread by; letters outside of ASCII to fold; characters above U+FFFF to order; names
   * of attributes that objects have. Rules of several clauses are put to the SDK as groups, whose clauses it reads with AND.
   */
  const users = ['ann', 'bob', 'eve', 'ann@example.com'];
  const texts = fc.constantFrom(
    ...users,
    'Ann',
    'ANN',
    'a',
    'n@',
    '1',
    '10',
    '9',
    'true',
    'false',
    'Zoë',
    '',
  );
  const attributes = fc.constantFrom('identifier', 'name', 'email', 'count', 'beta', 'gone', '');
  const groupNames = ['g0', 'g1', 'g2', 'g3'];
  const flagNames = ['f0', 'f1', 'f2', 'f3', 'f4'];
  const variations = ['a', 'b', 'c'].map((identifier) => ({ identifier, value: `value ${identifier}` }));
  const variation = fc.constantFrom('a', 'b', 'c');

  const clause = (groups: string[]): fc.Arbitrary<Clause> =>
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          attribute: attributes,
          op: fc.constantFrom(...OPERATORS, 'no_such', ''),
          values: listOf(texts),
          negate: fc.boolean(),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          attribute: fc.constant(''),
          op: fc.constant('segmentMatch'),
          values: listOf(fc.constantFrom(...groups, 'unknown')),
        }),
      },
    );
  const split = fc.record({
    distribution: fc.record({
      bucketBy: fc.constantFrom('identifier', 'name', 'email', 'gone'),
      variations: listOf(fc.record({ variation, weight: fc.nat(60) }), 4),
    }),
  });
  const serve: fc.Arbitrary<Serve> = fc.oneof(fc.record({ variation }), split);
  const members = listOf(
    fc.constantFrom(...users).map((identifier) => ({ identifier, name: '' })),
    2,
  );
  const missing = <T>(list: fc.Arbitrary<T>) =>
    fc.oneof({ weight: 5, arbitrary: list }, fc.constantFrom(null, undefined));

  const group = (identifier: string, i: number) =>
    fc
      .record({
        included: missing(members),
        excluded: missing(members),
        rules: missing(listOf(clause(groupNames.slice(i + 1)))),
        servingRules: missing(
          listOf(fc.record({ priority: fc.integer(), clauses: listOf(clause(groupNames.slice(i + 1))) }), 2),
        ),
      })
      .map((changes): Segment => aSegment(identifier, changes));
  const flag = (feature: string, i: number) =>
    fc
      .record({
        kind: fc.constantFrom('string', 'boolean', 'int', 'json'),
        state: fc.constantFrom('on', 'on', 'on', 'off'),
        offVariation: variation,
        defaultServe: fc.oneof(
          fc.record({ variation }),
          fc.tuple(variation, split).map(([variation, { distribution }]) => ({ variation, distribution })),
        ),
        variationToTargetMap: missing(
          listOf(
            fc.record({
              variation,
              targets: missing(members),
              targetSegments: missing(listOf(fc.constantFrom(...groupNames, 'unknown'), 2)),
            }),
            2,
          ),
        ),
        rules: missing(
          fc.uniqueArray(
            fc.record({ priority: fc.nat(9), clauses: listOf(clause(groupNames), 3, 1), serve }),
            { maxLength: 4, selector: ({ priority }) => priority },
          ),
        ),
        prerequisites: missing(
          listOf(
            fc.record({
              feature: fc.constantFrom(...flagNames.slice(i + 1), 'unknown'),
              variations: listOf(variation),
            }),
            2,
          ),
        ),
      })
      .map((changes): Flag => aFlag(feature, { ...changes, variations }));
  const world = fc.record({
    flags: fc.tuple(...flagNames.map(flag)),
    groups: fc.tuple(...groupNames.map(group)),
    target: fc.record(
      {
        identifier: fc.constantFrom(...users),
        name: fc.constantFrom('Ann', 'Bob', 'Zoë'),
        attributes: fc.record(
          {
            email: fc.constantFrom('ann@example.com', 'Ann', 'Zoë', ''),
            count: fc.constantFrom(0, 1, 9, 10, -3, 1.5, 0.1),
            beta: fc.boolean(),
          },
          { requiredKeys: [] },
        ),
      },
      { requiredKeys: ['identifier'] },
    ),
  });

  interface SdkEvaluator {
    evaluate(flag: string, target: Target, kind: string): Promise<{ identifier: string } | undefined>;
  }

  /** Without a key the SDK asks nobody for anything. */
  function sdkEvaluator(flags: readonly Flag[], groups: readonly Segment[]): SdkEvaluator {
    const cache = new Map<string, unknown>();
    for (const group of groups) cache.set(`segments/${group.identifier}`, structuredClone(group));
    for (const flag of flags) {
      const rules = flag.rules?.map((rule, i) => {
        const identifier = `${flag.feature} ${i}`;
        const servingRules = [{ priority: 1, clauses: rule.clauses }];
        cache.set(`segments/${identifier}`, aSegment(identifier, { servingRules }));
        return { ...rule, clauses: [{ attribute: '', op: 'segmentMatch', values: [identifier] }] };
      });
      cache.set(`flags/${flag.feature}`, structuredClone({ ...flag, rules }));
    }
    const silent = () => {};
    const logger = { trace: silent, debug: silent, info: silent, warn: silent, error: silent };
    const client: unknown = new Client('', { cache: cache as never, store: undefined as never, logger });
    return (client as { evaluator: SdkEvaluator }).evaluator;
  }

  it('answers as we do wherever no difference is known', async () => {
    await fc.assert(
      fc.asyncProperty(world, async ({ flags, groups, target }) => {
        const theirs = sdkEvaluator(flags, groups);
        const ours = rulesetOf(flags, groups).evaluateAll(target);
        for (const [i, { feature, kind }] of flags.entries()) {
          const answer = ours[i];
          expect({ feature, variation: answer && isAnswered(answer) && answer.variation }).toEqual({
            feature,
            variation: (await theirs.evaluate(feature, target, kind))?.identifier,
          });
        }
      }),
      { numRuns: 600 },
    );
  });
});

describe('Whatever the upstream and a client may send', () => {
  const names = fc.constantFrom('a', 'b', 'c', '__proto__', 'constructor');
  const texts = fc.oneof(
    names,
    fc.constantFrom('', '\ud800', '(', '(a+)+$', 'identifier', 'name', '[a b]'),
    fc.string(),
  );
  const clause = fc.record({
    attribute: texts,
    op: fc.constantFrom(...OPERATORS, 'match', 'segmentMatch', 'segmentMatch', 'toString'),
    values: listOf(texts),
  });
  const clauses = listOf(clause, 2);
  const serve = fc.record(
    {
      variation: fc.oneof(texts, fc.constant(null)),
      distribution: fc.option(
        fc.record({
          bucketBy: texts,
          variations: listOf(fc.record({ variation: texts, weight: fc.integer({ min: -10, max: 110 }) })),
        }),
      ),
    },
    { requiredKeys: [] },
  );
  const listed = fc.option(listOf(texts.map((identifier) => ({ identifier, name: '' }))));
  const flag = fc
    .record({
      feature: names,
      kind: fc.constantFrom('boolean', 'int', 'string', 'json'),
      state: fc.constantFrom('on', 'on', 'off'),
      variations: listOf(fc.record({ identifier: texts, value: texts })),
      offVariation: texts,
      defaultServe: serve,
      rules: fc.option(listOf(fc.record({ priority: fc.integer(), clauses, serve }))),
      prerequisites: fc.option(listOf(fc.record({ feature: names, variations: listOf(texts) }))),
      variationToTargetMap: fc.option(
        listOf(fc.record({ variation: texts, targets: listed, targetSegments: fc.option(listOf(names)) })),
      ),
    })
    .map(({ feature, ...changes }) => aFlag(feature, changes as Partial<Flag>));
  const group = fc
    .record({
      identifier: names,
      included: listed,
      excluded: listed,
      rules: fc.option(clauses),
      servingRules: fc.option(listOf(fc.record({ priority: fc.integer(), clauses }))),
    })
    .map(({ identifier, ...changes }) => aSegment(identifier, changes));
  const target: fc.Arbitrary<Target> = fc.record(
    {
      identifier: texts,
      name: texts,
      anonymous: fc.boolean(),
      attributes: fc.option(
        fc.dictionary(
          texts,
          fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true }),
        ),
      ),
    },
    { requiredKeys: ['identifier'] },
  );
  const flags = fc.uniqueArray(flag, { maxLength: 5, selector: ({ feature }) => feature });
  const groups = fc.uniqueArray(group, { maxLength: 5, selector: ({ identifier }) => identifier });

  it('is answered, one by one as all at once', () => {
    fc.assert(
      fc.property(flags, groups, target, (flags, groups, target) => {
        const ruleset = rulesetOf(flags, groups);
        const all = ruleset.evaluateAll(target);
        expect(all.map(({ flag }) => flag)).toEqual(flags.map(({ feature }) => feature).toSorted());
        expect(flags.map(({ feature }) => rulesetOf(flags, groups).evaluate(feature, target))).toEqual(
          flags.map(({ feature }) => all.find(({ flag }) => flag === feature)),
        );
      }),
      { numRuns: 600 },
    );
  });

  it('is answered after any changes as if all were compiled anew, and what was before stays as it was', () => {
    const change = fc.oneof(
      flag.map((flag) => ({ type: 'FlagPublished', environment: 'dev', flag }) as const),
      group.map((segment) => ({ type: 'SegmentPublished', environment: 'dev', segment }) as const),
      names.map(
        (identifier) => ({ type: 'FlagRemoved', environment: 'dev', identifier, version: 1 }) as const,
      ),
      names.map(
        (identifier) => ({ type: 'SegmentRemoved', environment: 'dev', identifier, version: 1 }) as const,
      ),
    );
    fc.assert(
      fc.property(
        flags,
        groups,
        listOf(change, 6, 1),
        listOf(target, 2, 1),
        (flags, groups, changes, targets) => {
          let state = stateOf(flags, groups);
          let ruleset = Ruleset.of(state);
          for (const fact of changes) {
            const before = { ruleset, state };
            state = fold(state, [{ fact, sequence: state.sequence + 1 }]);
            ruleset = Ruleset.of(state, ruleset);
            for (const target of targets) {
              expect(ruleset.evaluateAll(target)).toEqual(Ruleset.of(state).evaluateAll(target));
              expect(before.ruleset.evaluateAll(target)).toEqual(
                Ruleset.of(before.state).evaluateAll(target),
              );
            }
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it('goes on when names have come and gone a thousand times', () => {
    let state = stateOf([]);
    let ruleset = Ruleset.of(state);
    for (let i = 0; i < 3000; i++) {
      const clauses = [{ attribute: `attribute-${i}`, op: 'equal', values: ['x'] }];
      const flag = aFlag('f', {
        state: 'on',
        rules: [{ priority: 1, clauses, serve: { variation: 'false' } }],
      });
      const fact = { type: 'FlagPublished', environment: 'dev', flag } as const;
      state = fold(state, [{ fact, sequence: state.sequence + 1 }]);
      ruleset = Ruleset.of(state, ruleset);
    }
    const has = (name: string) => ruleset.evaluate('f', { identifier: 'ann', attributes: { [name]: 'x' } });
    expect([has('attribute-2999'), has('attribute-2998')]).toMatchObject([
      { variation: 'false' },
      { variation: 'true' },
    ]);
  });
});
