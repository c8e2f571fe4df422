import { describe, expect, it } from '@jest/globals';

import type { Clause, Flag, FlagRule, Segment, Serve } from '#libs/domain';

import { aFlag, aSegment } from '../../domain/src/builders.suite.js';
import { bucketOf } from './bucket.js';
import { type Evaluation, isAnswered, type Target } from './index.js';
import { rulesetOf } from './worlds.suite.js';

const ann: Target = { identifier: 'user-1', name: 'Ann' };
const annWith = (attributes: Record<string, unknown>): Target => ({ ...ann, attributes });

const variations = ['off', 'yes', 'no', 'a', 'b', 'c'].map((identifier) => ({
  identifier,
  value: `value of ${identifier}`,
}));

/** On, and serves `no` to whom no rule applies. */
const flag = (feature: string, changes: Partial<Flag> = {}): Flag =>
  aFlag(feature, {
    kind: 'string',
    state: 'on',
    variations,
    offVariation: 'off',
    defaultServe: { variation: 'no' },
    ...changes,
  });

const clause = (attribute: string, op: string, ...values: string[]): Clause => ({ attribute, op, values });
const inGroups = (...groups: string[]): Clause => clause('', 'segmentMatch', ...groups);
const rule = (clauses: Clause[], serve: Serve = { variation: 'yes' }, priority = 0): FlagRule => ({
  priority,
  clauses,
  serve,
});
const split = (bucketBy: string, ...shares: [string, number][]): Serve => ({
  distribution: { bucketBy, variations: shares.map(([variation, weight]) => ({ variation, weight })) },
});
const group = (identifier: string, changes: Partial<Segment> = {}): Segment => aSegment(identifier, changes);
const listed = (...identifiers: string[]) => identifiers.map((identifier) => ({ identifier, name: '' }));

/** What the first flag serves. */
function served(flags: Flag | Flag[], target: Target = ann, groups: Segment[] = []): string | undefined {
  const [asked, ...others] = [flags].flat();
  const answer = rulesetOf([asked as Flag, ...others], groups).evaluate((asked as Flag).feature, target);
  return answer && isAnswered(answer) ? answer.variation : undefined;
}

/** Whether a rule of this one clause applies. */
const holds = (only: Clause, target: Target, groups: Segment[] = []): boolean =>
  served(flag('f', { rules: [rule([only])] }), target, groups) === 'yes';

describe('An answer', () => {
  const reasonOf = (changes: Partial<Flag>, groups: Segment[] = []) =>
    (rulesetOf([flag('f', changes)], groups).evaluate('f', ann) as Evaluation).reason;

  it('is the variation, its text as it is, the kind of flag and the reason', () => {
    const json = flag('f', { kind: 'json', variations: [{ identifier: 'no', value: '{ "a": 1.50 }' }] });
    expect(rulesetOf([json]).evaluate('f', ann)).toEqual({
      flag: 'f',
      kind: 'json',
      variation: 'no',
      value: '{ "a": 1.50 }',
      reason: 'DEFAULT',
    });
  });

  it('says why: off, default, rule, list or split', () => {
    expect(reasonOf({ state: 'off' })).toBe('DISABLED');
    expect(reasonOf({})).toBe('DEFAULT');
    expect(reasonOf({ rules: [rule([clause('name', 'equal', 'ann')])] })).toBe('TARGETING_MATCH');
    expect(reasonOf({ variationToTargetMap: [{ variation: 'a', targets: listed('user-1') }] })).toBe(
      'TARGETING_MATCH',
    );
    expect(reasonOf({ defaultServe: split('identifier', ['a', 100]) })).toBe('SPLIT');
    expect(reasonOf({ rules: [rule([], split('identifier', ['a', 100]))] })).toBe('SPLIT');
  });

  it('says DISABLED for a flag that is on but whose prerequisite is not met', () => {
    const dependent = flag('f', { prerequisites: [{ feature: 'p', variations: ['yes'] }] });
    expect(rulesetOf([dependent, flag('p')]).evaluate('f', ann)).toMatchObject({
      variation: 'off',
      reason: 'DISABLED',
    });
  });

  it('is the same object each time', () => {
    const ruleset = rulesetOf([flag('f')]);
    expect(ruleset.evaluate('f', ann)).toBe(ruleset.evaluate('f', { identifier: 'user-2' }));
  });

  it('is none for a flag that is not there', () => {
    expect(rulesetOf([flag('f')]).evaluate('g', ann)).toBeUndefined();
  });

  it('names the fault of a flag that ends without a variation, and spoils no other flag', () => {
    const flags = [
      flag('a', { defaultServe: { variation: 'gone' } }),
      flag('b', { defaultServe: {} }),
      flag('c'),
    ];
    expect(rulesetOf(flags).evaluateAll(ann)).toEqual([
      { flag: 'a', fault: 'it serves the variation gone, which it does not have' },
      { flag: 'b', fault: 'it serves no variation' },
      expect.objectContaining({ flag: 'c', variation: 'no' }),
    ]);
  });
});

describe('Where the published evaluators disagree', () => {
  const both = [clause('plan', 'equal', 'PRO'), clause('plan', 'equal', 'free')];

  it('a rule applies only if all its clauses hold', () => {
    expect(served(flag('f', { rules: [rule(both)] }), annWith({ plan: 'pro' }))).toBe('no');
    expect(served(flag('f', { rules: [rule(both.slice(1))] }), annWith({ plan: 'free' }))).toBe('yes');
  });

  it('a rule without clauses applies', () => {
    expect(served(flag('f', { rules: [rule([])] }))).toBe('yes');
  });

  it.each([null, undefined])('a list that is %s is empty', (nothing) => {
    const empty: Clause = { attribute: 'plan', op: 'equal', values: nothing };
    expect(holds(empty, annWith({ plan: 'pro' }))).toBe(false);
    expect(served(flag('f', { rules: [{ ...rule([]), clauses: nothing }] }))).toBe('yes');
    expect(served([flag('f', { prerequisites: [{ feature: 'g', variations: nothing }] }), flag('g')])).toBe(
      'off',
    );
    const groups = [group('g', { servingRules: [{ priority: 1, clauses: nothing }], rules: [empty] })];
    expect(holds(inGroups('g'), ann, groups)).toBe(false);
  });

  it('of a rule that serves both, the distribution is taken', () => {
    const serve = { variation: 'a', ...split('identifier', ['b', 100]) };
    expect(served(flag('f', { rules: [rule([], serve)] }))).toBe('b');
  });

  it('a rule that serves neither is passed over', () => {
    expect(served(flag('f', { rules: [rule([], {}), rule([], { variation: 'a' })] }))).toBe('a');
    const nulls = { variation: null, distribution: null };
    expect(served(flag('f', { rules: [rule([], nulls), rule([], { variation: 'a' })] }))).toBe('a');
  });

  it('but one that serves an empty name leads to the default at once', () => {
    const rules = [rule([], { variation: '' }), rule([], { variation: 'a' })];
    expect(served(flag('f', { rules }))).toBe('no');
    expect(served(flag('f', { rules: [rule([], split('identifier')), rule([])] }))).toBe('no');
  });

  it('rules of one priority are tried in the order that they are listed in, each time', () => {
    const ruleset = rulesetOf([
      flag('f', { rules: [rule([], { variation: 'a' }, 1), rule([], { variation: 'b' }, 1)] }),
    ]);
    const answers = [1, 2, 3].map(() => ruleset.evaluate('f', ann));
    expect(answers).toEqual(Array(3).fill(expect.objectContaining({ variation: 'a' })));
  });

  it('rules are tried by priority, and the flag is left as it came', () => {
    const rules = [rule([], { variation: 'a' }, 2), rule([], { variation: 'b' }, 1)];
    expect(served(flag('f', { rules }))).toBe('b');
    expect(rules.map(({ priority }) => priority)).toEqual([2, 1]);
  });

  it('an unknown group in a list is skipped', () => {
    expect(holds(inGroups('gone', 'g'), ann, [group('g', { included: listed('user-1') })])).toBe(true);
  });

  it('an attribute that is null is missing', () => {
    expect(holds(clause('plan', 'contains', 'nil'), annWith({ plan: null }))).toBe(false);
  });

  it('a list is its elements in brackets', () => {
    expect(holds(clause('tags', 'equal', 'x'), annWith({ tags: ['x'] }))).toBe(false);
    expect(holds(clause('tags', 'equal', '[x y]'), annWith({ tags: ['x', 'y'] }))).toBe(true);
  });

  it('an object is its JSON', () => {
    expect(holds(clause('o', 'equal', '{"a":1}'), annWith({ o: { a: 1 } }))).toBe(true);
  });

  it('a number has no exponent', () => {
    expect(holds(clause('n', 'equal', '1000000000000000000000'), annWith({ n: 1e21 }))).toBe(true);
    expect(holds(clause('n', 'equal', '0.0000001'), annWith({ n: 1e-7 }))).toBe(true);
  });

  it('numbers and booleans are compared as texts', () => {
    expect(holds(clause('n', 'starts_with', '4'), annWith({ n: 42 }))).toBe(true);
    expect(holds(clause('n', 'gt', '10'), annWith({ n: 9 }))).toBe(true);
    expect(holds(clause('b', 'equal', 'FALSE'), annWith({ b: false }))).toBe(true);
  });

  it('a target is spread by an attribute that is false or 0', () => {
    // The bucket of beta:false is 38, that of identifier:user-1 is 43.
    const by40 = flag('f', { defaultServe: split('beta', ['a', 40], ['b', 60]) });
    expect(served(by40, annWith({ beta: false }))).toBe('a');
    expect(served(by40, annWith({}))).toBe('b');
    expect(served(by40, annWith({ beta: '' }))).toBe('b');
  });

  it('a target is spread by the text of a list', () => {
    const shares = Array.from({ length: 100 }, (_, i) => [`v${i + 1}`, 1] as [string, number]);
    const spread = flag('f', {
      variations: shares.map(([identifier]) => ({ identifier, value: '' })),
      defaultServe: split('tags', ...shares),
    });
    expect(served(spread, annWith({ tags: ['x', 'y'] }))).toBe(`v${bucketOf('tags', '[x y]')}`);
  });

  it('no operator holds for an empty attribute', () => {
    for (const op of ['equal', 'equal_sensitive', 'in', 'starts_with', 'ends_with', 'contains', 'match']) {
      expect({ op, holds: holds(clause('e', op, ''), annWith({ e: '' })) }).toEqual({ op, holds: false });
    }
  });

  it('equal ignores case as Unicode folds it, letter by letter', () => {
    expect(holds(clause('w', 'equal', 'SET'), annWith({ w: 'ſet' }))).toBe(true);
    expect(holds(clause('w', 'equal', 'STRASSE'), annWith({ w: 'straße' }))).toBe(false);
    expect(holds(clause('w', 'equal', 'I'), annWith({ w: 'ı' }))).toBe(false);
  });

  it('gt orders by code points', () => {
    expect(holds(clause('w', 'gt', '😀'), annWith({ w: 'ﬀ' }))).toBe(false);
    expect(holds(clause('w', 'gt', 'ﬀ'), annWith({ w: '😀' }))).toBe(true);
  });

  it('match finds an RE2 expression anywhere', () => {
    expect(holds(clause('name', 'match', 'n+$'), ann)).toBe(true);
    expect(holds(clause('name', 'match', '(?i)^ANN$'), ann)).toBe(true);
    expect(holds(clause('name', 'match', '^ANN$'), ann)).toBe(false);
  });

  it('match finds nothing by expressions beyond what one flag or group may have', () => {
    const large = (i: number) => clause('name', 'match', `^Bert-${i}x{900}$`);
    // Rules are asked in the order of their priority, and their expressions compiled in it.
    const first = rule([clause('name', 'match', '^Ann(x{900})?$')], { variation: 'a' }, 1);
    const last = rule([clause('name', 'match', '^(?:Bert|x{900})$')], { variation: 'b' }, 100);
    const many = Array.from({ length: 50 }, (_, i) => rule([large(i)], { variation: 'c' }, 2));
    const greedy = flag('greedy', { rules: [last, ...many, first] });
    const modest = flag('modest', { rules: [last, first] });
    const bert = { identifier: 'user-2', name: 'Bert' };
    expect([served(greedy), served(modest)]).toEqual(['a', 'a']);
    expect([served([greedy, modest], bert), served([modest, greedy], bert)]).toEqual(['no', 'b']);
    const clauses = (rules: FlagRule[]) => rules.flatMap(({ clauses }) => clauses ?? []);
    const groups = [
      group('greedy', { rules: clauses([first, ...many, last]) }),
      group('modest', { rules: clauses([first, last]) }),
    ];
    const isIn = (name: string, target: Target) => holds(inGroups(name), target, groups);
    expect([isIn('greedy', ann), isIn('modest', ann)]).toEqual([true, true]);
    expect([isIn('greedy', bert), isIn('modest', bert)]).toEqual([false, true]);
  });

  it('names of operators keep their case', () => {
    expect(holds(clause('name', 'EQUAL', 'Ann'), ann)).toBe(false);
  });

  it('what an object of the language has is no attribute', () => {
    for (const name of ['constructor', '__proto__', 'toString', 'attributes', 'anonymous']) {
      const target = { ...annWith({}), anonymous: true };
      expect({ name, holds: holds(clause(name, 'match', ''), target) }).toEqual({ name, holds: false });
    }
    const own = annWith(
      JSON.parse('{"__proto__":"p","constructor":"c","anonymous":true}') as object as never,
    );
    expect(holds(clause('__proto__', 'equal', 'p'), own)).toBe(true);
    expect(holds(clause('constructor', 'equal', 'c'), own)).toBe(true);
    expect(holds(clause('anonymous', 'equal', 'true'), own)).toBe(true);
  });

  it('a custom attribute never stands in for the name or the identifier', () => {
    const target = { identifier: 'user-1', attributes: { name: 'Bob', identifier: 'user-2' } };
    expect(holds(clause('name', 'equal', 'Bob'), target)).toBe(false);
    expect(holds(clause('identifier', 'equal', 'user-2'), target)).toBe(false);
  });

  it('an empty identifier is on no list of a flag', () => {
    const mapped = flag('f', { variationToTargetMap: [{ variation: 'a', targets: listed('') }] });
    expect(served(mapped, { identifier: '' })).toBe('no');
  });

  it('a prerequisite that serves no variation is met, and ends the list', () => {
    const dependent = flag('f', {
      prerequisites: [
        { feature: 'p', variations: ['yes'] },
        { feature: 'q', variations: ['yes'] },
      ],
    });
    expect(served([dependent, flag('p', { defaultServe: {} }), flag('q')])).toBe('no');
    expect(served([dependent, flag('q')])).toBe('no');
    expect(served([dependent, flag('p', { rules: [rule([])] }), flag('q')])).toBe('off');
  });

  it('variations of prerequisites and listed targets are compared whole', () => {
    const dependent = flag('f', { prerequisites: [{ feature: 'p', variations: ['not yes'] }] });
    expect(served([dependent, flag('p', { rules: [rule([])] })])).toBe('off');
    expect(holds(inGroups('g'), ann, [group('g', { included: listed('user-10') })])).toBe(false);
  });
});

describe('A flag', () => {
  it('tries its lists in order, targets and groups of an entry before the next entry', () => {
    const mapped = flag('f', {
      variationToTargetMap: [
        { variation: 'a', targetSegments: ['g'] },
        { variation: 'b', targets: listed('user-1'), targetSegments: null },
      ],
      rules: [rule([])],
    });
    expect(served(mapped, ann, [group('g', { included: listed('user-1') })])).toBe('a');
    expect(served(mapped, ann, [group('g', { excluded: listed('user-1') })])).toBe('b');
    expect(served(mapped, { identifier: 'user-2' })).toBe('yes');
  });

  it('goes on to its rules where a list that applies names no variation', () => {
    const mapped = flag('f', {
      variationToTargetMap: [
        { variation: '', targets: listed('user-1') },
        { variation: 'a', targets: listed('user-1') },
      ],
    });
    expect(served(mapped)).toBe('no');
  });

  it('serves the last share to whom the shares leave out, and never a share of 0', () => {
    // identifier:user-1 is in bucket 43.
    const spread = (...shares: [string, number][]) =>
      served(flag('f', { defaultServe: split('identifier', ...shares) }));
    expect(spread(['a', 43], ['b', 57])).toBe('a');
    expect(spread(['a', 42], ['b', 58])).toBe('b');
    expect(spread(['a', 42], ['b', 0], ['c', 0])).toBe('c');
    expect(spread(['a', 0], ['b', 100], ['c', 0])).toBe('b');
    expect(served(flag('f', { defaultServe: split('x', ['a', 100], ['b', 0]) }), { identifier: '' })).toBe(
      'b',
    );
  });

  it('needs what its prerequisites need', () => {
    const chain = [
      flag('f', { prerequisites: [{ feature: 'g', variations: ['no'] }] }),
      flag('g', { prerequisites: [{ feature: 'h', variations: ['yes'] }] }),
    ];
    expect(served([...chain, flag('h', { rules: [rule([])] })])).toBe('no');
    expect(served([...chain, flag('h')])).toBe('off');
  });

  it('needs what was settled for another flag before', () => {
    const needs = (feature: string, variations: string[]) => ({ prerequisites: [{ feature, variations }] });
    const flags = [
      flag('a', { state: 'off' }),
      flag('b', needs('a', ['no'])),
      flag('c', needs('b', ['no'])),
      flag('d', needs('a', ['off'])),
      flag('e', needs('d', ['no'])),
    ];
    const variations = rulesetOf(flags)
      .evaluateAll(ann)
      .map((answer) => isAnswered(answer) && answer.variation);
    expect(variations).toEqual(['off', 'off', 'off', 'no', 'no']);
  });

  it('asks an off prerequisite for its off variation', () => {
    const dependent = flag('f', { prerequisites: [{ feature: 'p', variations: ['off'] }] });
    expect(served([dependent, flag('p', { state: 'off' })])).toBe('no');
  });

  it('gains and loses nothing by a circle of prerequisites', () => {
    const circle = (last: Partial<Flag>) => [
      flag('f', { prerequisites: [{ feature: 'g', variations: ['no'] }] }),
      flag('g', {
        prerequisites: [
          { feature: 'f', variations: ['no'] },
          { feature: 'h', variations: ['no'] },
        ],
      }),
      flag('h', last),
    ];
    expect(served(circle({}))).toBe('no');
    expect(served(circle({ defaultServe: { variation: 'a' } }))).toBe('off');
    const all = rulesetOf(circle({ defaultServe: { variation: 'a' } })).evaluateAll(ann);
    expect(all.map((answer) => isAnswered(answer) && answer.variation)).toEqual(['off', 'off', 'a']);
  });

  it('sees the end of a chain of 10,000 prerequisites', () => {
    const links = 10_000;
    const chain = Array.from({ length: links }, (_, i) =>
      flag(`f${i}`, { prerequisites: [{ feature: `f${i + 1}`, variations: ['no'] }] }),
    );
    expect(served([...chain, flag(`f${links}`)])).toBe('no');
    const broken = rulesetOf([...chain, flag(`f${links}`, { state: 'off' })]).evaluateAll(ann);
    expect(broken.filter((answer) => isAnswered(answer) && answer.variation === 'off')).toHaveLength(
      links + 1,
    );
  });
});

describe('A group', () => {
  const all = clause('identifier', 'match', '');

  it('leaves out whom it excludes, whatever else it says, and ends the list of groups', () => {
    const g = group('g', {
      excluded: listed('user-1'),
      included: listed('user-1'),
      rules: [all],
    });
    expect(holds(inGroups('g', 'h'), ann, [g, group('h', { rules: [all] })])).toBe(false);
    expect(holds(inGroups('h', 'g'), ann, [g, group('h', { rules: [all] })])).toBe(true);
  });

  it('takes in by any of its old rules', () => {
    const g = group('g', { rules: [clause('name', 'equal', 'bob'), clause('name', 'equal', 'ann')] });
    expect(holds(inGroups('g'), ann, [g])).toBe(true);
  });

  it('takes in by any serving rule whose clauses all hold, and then not by old rules', () => {
    const serving = (...clauses: Clause[]) => ({ priority: 1, clauses });
    const bob = clause('name', 'equal', 'bob');
    expect(holds(inGroups('g'), ann, [group('g', { servingRules: [serving(bob), serving(all)] })])).toBe(
      true,
    );
    expect(holds(inGroups('g'), ann, [group('g', { servingRules: [serving(all, bob)], rules: [all] })])).toBe(
      false,
    );
    expect(holds(inGroups('g'), ann, [group('g', { servingRules: [serving()], rules: [all] })])).toBe(false);
  });

  it('may be in another group', () => {
    const groups = [
      group('outer', { rules: [inGroups('middle')] }),
      group('middle', { rules: [inGroups('inner')] }),
      group('inner', { included: listed('user-1') }),
    ];
    expect(holds(inGroups('outer'), ann, groups)).toBe(true);
    expect(holds(inGroups('outer'), { identifier: 'user-2' }, groups)).toBe(false);
  });

  it('that excludes ends only the list that names it', () => {
    const groups = [
      group('outer', { rules: [inGroups('inner', 'rest'), inGroups('rest')] }),
      group('inner', { excluded: listed('user-1') }),
      group('rest', { rules: [all] }),
    ];
    expect(holds(inGroups('outer'), ann, groups)).toBe(true);
  });

  it('gains nothing by a circle, from wherever one enters it', () => {
    const circle = [
      group('a', { rules: [inGroups('b')] }),
      group('b', { rules: [inGroups('c')] }),
      group('c', { rules: [inGroups('a'), clause('name', 'equal', 'ann')] }),
    ];
    const flags = ['a', 'b', 'c'].map((name) => flag(name, { rules: [rule([inGroups(name)])] }));
    const variationsFor = (target: Target) =>
      rulesetOf(flags, circle)
        .evaluateAll(target)
        .map((answer) => isAnswered(answer) && answer.variation);
    expect(variationsFor(ann)).toEqual(['yes', 'yes', 'yes']);
    expect(variationsFor({ identifier: 'user-2' })).toEqual(['no', 'no', 'no']);
  });

  it('is seen through 10,000 groups that lead to it', () => {
    const links = 10_000;
    const groups = Array.from({ length: links }, (_, i) =>
      group(`g${i}`, { rules: [inGroups(`g${i + 1}`)] }),
    );
    const last = group(`g${links}`, { included: listed('user-1') });
    expect(holds(inGroups('g0'), ann, [...groups, last])).toBe(true);
    expect(holds(inGroups('g0'), ann, groups)).toBe(false);
  });
});
