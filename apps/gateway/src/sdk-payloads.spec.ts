import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import type { Clause, Flag, Notice, Segment, ServingRule } from '#libs/domain';

import { sdkEvent, sdkFlag, sdkSegment } from './sdk-payloads.js';

const flag: Flag = {
  project: 'demo',
  environment: 'dev',
  feature: 'dark-mode',
  state: 'on',
  kind: 'boolean',
  variations: [
    { identifier: 'yes', value: 'true' },
    { identifier: 'no', value: 'false' },
  ],
  offVariation: 'no',
  defaultServe: { variation: 'yes' },
  version: 7,
};

const email = (...values: string[]): Clause => ({
  attribute: 'email',
  op: 'equal',
  values,
  negate: false,
});
const servingRule = (...clauses: Clause[]): ServingRule => ({ ruleId: 'r', priority: 1, clauses });

/** As an SDK gets it: through JSON. */
const asRead = (payload: object) => JSON.parse(JSON.stringify(payload)) as Record<string, unknown>;
const readFlag = (changes: object) => asRead(sdkFlag({ ...flag, ...changes }));
const readSegment = (changes: object, servingRules: boolean) =>
  asRead(sdkSegment({ identifier: 'beta', name: 'Beta', ...changes }, servingRules));

function nullsIn(value: unknown, path = ''): string[] {
  if (value === null) return [path];
  if (typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, inner]) => nullsIn(inner, `${path}/${key}`));
}

describe('A flag for SDKs', () => {
  it('that is complete goes out byte for byte as it came in', () => {
    const came = JSON.stringify({
      unknown: { kept: [1, 'two', { three: true }] },
      version: 12,
      variationToTargetMap: [
        { targetSegments: ['beta'], variation: 'yes', targets: [{ name: 'Ann', identifier: 'ann' }] },
      ],
      state: 'on',
      rules: [
        {
          serve: {
            distribution: { variations: [{ weight: 100, variation: 'yes' }], bucketBy: 'identifier' },
          },
          priority: 1,
          clauses: [{ negate: true, id: 'c', op: 'equal', values: ['ann'], attribute: 'identifier' }],
          ruleId: 'r1',
        },
      ],
      prerequisites: [{ variations: ['on'], feature: 'other' }],
      kind: 'json',
      variations: [{ value: '{"a": 1}', name: 'Yes', identifier: 'yes', description: 'ünï\u2028code' }],
      offVariation: 'yes',
      feature: 'dark-mode',
      environment: 'dev',
      defaultServe: { variation: 'yes' },
      project: 'demo',
    });
    expect(JSON.stringify(sdkFlag(JSON.parse(came) as Flag))).toBe(came);
  });

  it('has no list that is null', () => {
    const read = readFlag({ rules: null, prerequisites: null, variationToTargetMap: null });
    expect(read).toEqual({ ...flag, variationToTargetMap: [] });
    const inner = readFlag({
      rules: [
        { priority: 1, serve: {}, clauses: null },
        { priority: 2, serve: {}, clauses: [{ attribute: 'email', op: 'equal', values: null }] },
      ],
      prerequisites: [{ feature: 'other', variations: null }],
    });
    expect(inner).toMatchObject({
      rules: [{ clauses: [] }, { clauses: [email()] }],
      prerequisites: [{ feature: 'other', variations: [] }],
    });
    const clause = { attribute: 'email', op: 'equal', values: null };
    const group = { identifier: 'g', name: 'G', rules: [clause] };
    expect(asRead(sdkSegment(group, false))['rules']).toEqual([email()]);
    const rules = [
      { priority: 1, clauses: null },
      { priority: 2, clauses: [clause] },
    ];
    const anded = asRead(sdkSegment({ ...group, servingRules: rules }, true));
    expect(anded['servingRules']).toMatchObject([{ clauses: [] }, { clauses: [email()] }]);
  });

  it('has a target map, with targets in every entry, when the upstream left them out', () => {
    expect(readFlag({})['variationToTargetMap']).toEqual([]);
    const groupOnly = { variation: 'yes', targets: null, targetSegments: ['beta'] };
    const bare = { variation: 'no', targetSegments: null };
    expect(readFlag({ variationToTargetMap: [groupOnly, bare] })['variationToTargetMap']).toEqual([
      { variation: 'yes', targets: [], targetSegments: ['beta'] },
      { variation: 'no', targets: [] },
    ]);
  });

  it('leaves out a distribution that is null, by default and in rules', () => {
    const serve = { variation: 'yes', distribution: null };
    const read = readFlag({ defaultServe: serve, rules: [{ priority: 1, clauses: [], serve }] });
    expect(read['defaultServe']).toEqual({ variation: 'yes' });
    expect(read['rules']).toEqual([{ priority: 1, clauses: [], serve: { variation: 'yes' } }]);
  });

  it('leaves out a variation that is null beside a distribution', () => {
    const distribution = { bucketBy: 'identifier', variations: [{ variation: 'yes', weight: 100 }] };
    expect(readFlag({ defaultServe: { variation: null, distribution } })['defaultServe']).toEqual({
      distribution,
    });
  });

  it('says of every clause whether it is negated', () => {
    const clause = { attribute: 'email', op: 'equal', values: ['a'] };
    const rule = { priority: 1, serve: {}, clauses: [clause, { ...clause, negate: null }] };
    expect(readFlag({ rules: [rule] })['rules']).toEqual([{ ...rule, clauses: [email('a'), email('a')] }]);
  });

  it('has nothing that is null, however deep', () => {
    const read = readFlag({
      unknown: null,
      variations: [{ identifier: 'yes', value: 'true', name: null, description: null }],
      rules: [
        {
          ruleId: null,
          priority: 1,
          clauses: [{ id: null, attribute: 'email', op: 'equal', values: [], negate: null }],
          serve: { variation: null, distribution: null },
        },
      ],
      variationToTargetMap: [
        { variation: 'yes', targets: [{ identifier: 'a', name: 'A', account: null }], targetSegments: null },
      ],
    });
    expect(nullsIn(read)).toEqual([]);
  });

  it.each([null, undefined, 0])('with the version %s has version 1', (version) => {
    expect(readFlag({ version })['version']).toBe(1);
  });

  it('keeps a version beyond 32 bits', () => {
    expect(readFlag({ version: 1_700_000_000_000 })['version']).toBe(1_700_000_000_000);
  });
});

describe('A target group for SDKs', () => {
  it('has no list that is null, but rules always', () => {
    const nothing = { included: null, excluded: null, rules: null, servingRules: null, tags: null };
    for (const servingRules of [true, false]) {
      expect(readSegment(nothing, servingRules)).toEqual({
        identifier: 'beta',
        name: 'Beta',
        rules: [],
        version: 1,
      });
    }
  });

  it('keeps what it does not know', () => {
    const more = { environment: 'dev', tags: [{ name: 'a', identifier: 'b' }], createdAt: 5, odd: 'x' };
    expect(readSegment(more, true)).toMatchObject(more);
  });

  it('lists targets with every field that Python reads', () => {
    const bare = { identifier: 'ann', name: 'Ann', project: null };
    const whole = { identifier: 'bob', name: 'B', account: 'a', org: 'o', project: 'p', environment: 'e' };
    const read = readSegment({ included: [bare, whole], excluded: [bare] }, true);
    const filled = { identifier: 'ann', name: 'Ann', account: '', org: '', project: '', environment: '' };
    expect(read['included']).toEqual([filled, whole]);
    expect(read['excluded']).toEqual([filled]);
  });

  it('says of every clause whether it is negated, in old and in serving rules', () => {
    const { negate: _, ...clause } = email('a');
    expect(readSegment({ rules: [clause, { ...clause, negate: null }] }, false)['rules']).toEqual([
      email('a'),
      email('a'),
    ]);
    expect(readSegment({ servingRules: [servingRule(clause)] }, true)['servingRules']).toEqual([
      servingRule(email('a')),
    ]);
    expect(readSegment({ servingRules: [servingRule(clause)] }, false)['rules']).toEqual([email('a')]);
  });

  it('has nothing that is null, however deep', () => {
    const clause = { id: null, attribute: 'email', op: 'equal', values: ['a'], negate: null };
    const listed = { identifier: 'ann', name: 'Ann', account: null, attributes: null, createdAt: null };
    const given = {
      environment: null,
      included: [listed],
      tags: [{ name: 'a', identifier: null }],
      rules: [clause],
      servingRules: [{ ruleId: null, priority: 1, clauses: [clause] }],
      version: null,
    };
    for (const servingRules of [true, false]) expect(nullsIn(readSegment(given, servingRules))).toEqual([]);
  });

  it('gives serving rules a name when they have none', () => {
    const rule = { ruleId: null, priority: 3, clauses: [email('a')] };
    expect(readSegment({ servingRules: [rule] }, true)['servingRules']).toEqual([
      { ...rule, ruleId: 'rule-3' },
    ]);
  });

  it('carries its serving rules, and no old ones, for those who read them', () => {
    const servingRules = [servingRule(email('a'), email('b'))];
    const read = readSegment({ rules: [email('old')], servingRules }, true);
    expect(read['servingRules']).toEqual(servingRules);
    expect(read).not.toHaveProperty('rules');
  });

  it('carries its old rules, for everyone, when it has no serving rules', () => {
    for (const servingRules of [true, false]) {
      const read = readSegment({ rules: [email('old')], servingRules: [] }, servingRules);
      expect(read['rules']).toEqual([email('old')]);
      expect(read).not.toHaveProperty('servingRules');
    }
  });

  it('carries the clauses that decide alone for those who know no AND', () => {
    const servingRules = [
      servingRule(email('a'), email('b')),
      servingRule(email('c')),
      servingRule(),
      servingRule(email('d')),
    ];
    const read = readSegment({ rules: [email('stale')], servingRules }, false);
    expect(read['rules']).toEqual([email('c'), email('d')]);
    expect(read).not.toHaveProperty('servingRules');
  });

  it('matches fewer targets in its old form than in its new one, never more', () => {
    const word = fc.constantFrom('a', 'b', 'c');
    const clause = fc.record({
      attribute: fc.constantFrom('email', 'plan'),
      op: fc.constant('equal'),
      values: fc.array(word, { maxLength: 2 }),
    });
    const segment: fc.Arbitrary<Segment> = fc.record({
      identifier: fc.constant('beta'),
      name: fc.constant('Beta'),
      rules: fc.option(fc.array(clause, { maxLength: 3 })),
      servingRules: fc.option(
        fc.array(fc.record({ priority: fc.nat(), clauses: fc.array(clause, { maxLength: 3 }) }), {
          maxLength: 4,
        }),
      ),
    });
    const target = fc.record({ email: word, plan: word });
    fc.assert(
      fc.property(segment, target, (segment, target) => {
        const old = asRead(sdkSegment(segment, false)) as unknown as Segment;
        const current = asRead(sdkSegment(segment, true)) as unknown as Segment;
        return !matches(old, target) || matches(current, target);
      }),
      { numRuns: 2000 },
    );
  });
});

/** How SDKs read rules of `equal` clauses: serving rules win, each needs all its clauses; of old rules any suffices. */
function matches({ rules, servingRules }: Segment, target: Record<string, string>): boolean {
  const holds = ({ attribute, values }: Clause) => values?.includes(target[attribute] ?? '');
  return servingRules?.length
    ? servingRules.some(({ clauses }) => clauses?.every(holds))
    : (rules ?? []).some(holds);
}

describe('A notice for SDKs', () => {
  const notice: Notice = {
    event: 'patch',
    kind: 'flag',
    environment: 'e',
    identifier: 'dark "mode"\n',
    version: 7,
  };
  const read = (changes: Partial<Notice>) => {
    const event = sdkEvent({ ...notice, ...changes });
    return event === undefined ? undefined : (JSON.parse(event) as Record<string, unknown>);
  };

  it('is one line of JSON with event, domain, identifier and version', () => {
    const event = sdkEvent(notice);
    expect(event).not.toContain('\n');
    expect(read({})).toEqual({
      event: 'patch',
      domain: 'flag',
      identifier: 'dark "mode"\n',
      version: 7,
      environment: 'e',
    });
  });

  it('calls a target group by its name in the protocol', () => {
    expect(read({ kind: 'segment', event: 'create' })).toMatchObject({
      event: 'create',
      domain: 'target-segment',
    });
    expect(read({ event: 'delete' })).toMatchObject({ event: 'delete', domain: 'flag' });
  });

  it.each(['apikey', 'environment', 'something-new'] as Notice['kind'][])(
    'is not sent for the kind %s',
    (kind) => {
      expect(read({ kind })).toBeUndefined();
    },
  );

  it('has a version that fits into 32 bits, at least 1', () => {
    expect(read({ version: 1_700_000_000_000 })).toMatchObject({ version: 2_147_483_647 });
    expect(read({ version: 2_147_483_647 })).toMatchObject({ version: 2_147_483_647 });
    expect(read({ version: 0 })).toMatchObject({ version: 1 });
  });
});
