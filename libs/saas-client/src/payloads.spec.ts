import { describe, expect, it } from '@jest/globals';

import type { Flag, Segment } from '#libs/domain';

import {
  claimsIn,
  configPageIn,
  flagsIn,
  json,
  segmentsIn,
  streamMessageIn,
  unknownFieldsOfFlag,
  unknownFieldsOfSegment,
  UnusableAnswer,
} from './payloads.js';

const HASH = 'a'.repeat(64);

const flag = (feature: unknown, changes: object = {}) => ({
  feature,
  project: 'demo',
  environment: 'dev',
  kind: 'boolean',
  state: 'on',
  variations: [{ identifier: 'true', value: 'true' }],
  offVariation: 'true',
  defaultServe: { variation: 'true' },
  version: 1,
  ...changes,
});
const segment = (identifier: unknown, changes: object = {}) => ({ identifier, name: 'Beta', ...changes });
const without = (entity: object, field: string) =>
  Object.fromEntries(Object.entries(entity).filter(([name]) => name !== field));
const token = (claims: unknown) => `e30.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`;

describe('A list of flags', () => {
  it('is taken as it is: the same objects, with unknown fields and their order of keys', () => {
    const odd = { newField: { deep: [1] }, ...flag('a') };
    const { items, faults } = flagsIn([odd]);
    expect(items[0]).toBe(odd);
    expect(JSON.stringify(items[0])).toMatch(/^\{"newField":\{"deep":\[1\]\},"feature":"a"/);
    expect(faults).toEqual([]);
  });

  it.each([
    ['lacks a field', without(flag('bad'), 'defaultServe'), /^bad: defaultServe: /],
    ['is of an unknown kind', flag('bad', { kind: 'float' }), /^bad: kind: /],
    ['is in an unknown state', flag('bad', { state: 'ON' }), /^bad: state: /],
    ['has text for a version', flag('bad', { version: '7' }), /^bad: version: /],
    ['has a negative version', flag('bad', { version: -1 }), /^bad: version: /],
    [
      'has a fraction for a weight',
      flag('bad', {
        defaultServe: {
          distribution: { bucketBy: 'identifier', variations: [{ variation: 'true', weight: 0.5 }] },
        },
      }),
      /^bad: defaultServe\.distribution\.variations\.0\.weight: /,
    ],
    [
      'has a rule whose clauses are no list',
      flag('bad', { rules: [{ priority: 1, clauses: {}, serve: {} }] }),
      /^bad: rules\.0\.clauses: /,
    ],
    ['is named by half a character', flag('\uD800'), /feature: is no whole Unicode text/],
    ['is named by nothing', flag(''), /feature: /],
    ['is named at too great a length', flag('x'.repeat(1025)), /feature: /],
    ['is named by a number', flag(7), /^entry 1: feature: /],
    ['is null', null, /^entry 1: it: /],
    ['is text', 'flag', /^entry 1: it: /],
    ['is a list', [], /^entry 1: it: /],
  ])('keeps the good ones when one %s, and names the fault', (_, bad, fault) => {
    const { items, faults } = flagsIn([flag('first'), bad, flag('last')]);
    expect(items.map(({ feature }) => feature)).toEqual(['first', 'last']);
    expect(faults).toEqual([expect.stringMatching(fault)]);
  });

  it('keeps the first of those with the same name', () => {
    const { items, faults } = flagsIn([flag('a', { version: 1 }), flag('a', { version: 2 })]);
    expect(items.map(({ version }) => version)).toEqual([1]);
    expect(faults).toEqual(['a: is listed twice']);
  });

  it('may leave out or null whatever is optional', () => {
    const nothing = { rules: null, prerequisites: null, variationToTargetMap: null, version: null };
    const bare = without(flag('bare'), 'version');
    const nulls = flag('nulls', nothing);
    const inner = flag('inner', {
      variationToTargetMap: [{ variation: 'true', targets: null, targetSegments: null }],
      defaultServe: { variation: null, distribution: null },
      rules: [
        { priority: 1, serve: {}, clauses: null },
        { priority: 2, serve: {}, clauses: [{ attribute: 'a', op: 'equal', values: null }] },
      ],
      prerequisites: [{ feature: 'bare', variations: null }],
    });
    expect(flagsIn([bare, nulls, inner])).toEqual({ items: [bare, nulls, inner], faults: [] });
  });

  it('shows a few faults of a flag and counts the others', () => {
    const { faults } = flagsIn([{ feature: 'hollow' }]);
    expect(faults).toEqual([expect.stringMatching(/^hollow: .*; .*; .* and 4 more$/)]);
  });

  it.each([[{}], [null], ['[]'], [undefined]])('cannot be %j', (payload) => {
    expect(() => flagsIn(payload)).toThrow(UnusableAnswer);
  });
});

describe('A list of target groups', () => {
  it('is taken as it is: the same objects, with unknown fields', () => {
    const odd = {
      tags: [{ name: 't' }],
      ...segment('beta', { included: [{ identifier: 'a', name: 'A', extra: 1 }] }),
    };
    const { items, faults } = segmentsIn([odd]);
    expect(items[0]).toBe(odd);
    expect(faults).toEqual([]);
  });

  it.each([
    ['lacks its name', without(segment('bad'), 'name'), /^bad: name: /],
    [
      'lists a target without an identifier',
      segment('bad', { included: [{ name: 'A' }] }),
      /^bad: included\.0\.identifier: /,
    ],
    [
      'has a clause without an attribute',
      segment('bad', { rules: [{ op: 'equal', values: ['a'] }] }),
      /^bad: rules\.0\.attribute: /,
    ],
    ['is named by half a character', segment('a\uDC00'), /identifier: is no whole Unicode text/],
  ])('keeps the good ones when one %s, and names the fault', (_, bad, fault) => {
    const { items, faults } = segmentsIn([segment('first'), bad, segment('last')]);
    expect(items.map(({ identifier }) => identifier)).toEqual(['first', 'last']);
    expect(faults).toEqual([expect.stringMatching(fault)]);
  });

  it('keeps the first of those with the same name', () => {
    expect(segmentsIn([segment('a'), segment('a')]).faults).toEqual(['a: is listed twice']);
  });

  it('may leave out or null whatever is optional', () => {
    const nulls = segment('a', {
      included: null,
      excluded: null,
      rules: null,
      servingRules: null,
      version: null,
    });
    const inner = segment('c', {
      rules: [{ attribute: 'a', op: 'equal', values: null }],
      servingRules: [{ priority: 1, clauses: null }],
    });
    const list = [nulls, segment('b'), inner];
    expect(segmentsIn(list)).toEqual({ items: list, faults: [] });
  });
});

describe('A page of the configuration', () => {
  const page = (...environments: object[]) => configPageIn({ itemCount: 1, pageCount: 1, environments });

  it('tells flags, target groups and SDK keys of each environment', () => {
    const told = { id: 'dev', apiKeys: [HASH], featureConfigs: [flag('a')], segments: [segment('beta')] };
    expect(configPageIn({ itemCount: 12, pageCount: 2, pageIndex: 0, environments: [told] })).toEqual({
      unknownFields: [],
      itemCount: 12,
      pageCount: 2,
      environments: [
        {
          id: 'dev',
          apiKeys: { items: [HASH], faults: [] },
          flags: { items: [flag('a')], faults: [] },
          segments: { items: [segment('beta')], faults: [] },
        },
      ],
    });
  });

  it.each([
    ['absent', { id: 'dev' }],
    ['null', { id: 'dev', apiKeys: null, featureConfigs: null, segments: null }],
  ])('did not tell what is %s', (_, environment) => {
    expect(page(environment).environments).toEqual([
      { id: 'dev', apiKeys: undefined, flags: undefined, segments: undefined },
    ]);
  });

  it('tells that there is nothing by an empty list', () => {
    const nothing = { items: [], faults: [] };
    expect(page({ id: 'dev', apiKeys: [], featureConfigs: [], segments: [] }).environments).toEqual([
      { id: 'dev', apiKeys: nothing, flags: nothing, segments: nothing },
    ]);
  });

  it('keeps the good SDK keys beside what is none', () => {
    const keys = [HASH, 'A'.repeat(64), 'raw-key', 7, HASH];
    const [environment] = page({ id: 'dev', apiKeys: keys }).environments;
    expect(environment?.apiKeys?.items).toEqual([HASH]);
    expect(environment?.apiKeys?.faults).toHaveLength(4);
  });

  it.each([
    ['has no counts', { environments: [] }],
    ['has no environments', { itemCount: 0, pageCount: 0 }],
    ['has null for environments', { itemCount: 0, pageCount: 0, environments: null }],
    ['has an environment without an id', { itemCount: 1, pageCount: 1, environments: [{ apiKeys: [] }] }],
    [
      'has an environment named by half a character',
      { itemCount: 1, pageCount: 1, environments: [{ id: '\uD800' }] },
    ],
    [
      'has flags that are no list',
      { itemCount: 1, pageCount: 1, environments: [{ id: 'dev', featureConfigs: {} }] },
    ],
    ['is a list', []],
    ['is null', null],
  ])('cannot be used when it %s', (_, payload) => {
    expect(() => configPageIn(payload)).toThrow(UnusableAnswer);
  });
});

describe('A message of the stream', () => {
  it('is read with all its fields', () => {
    const message = {
      event: 'patch',
      domain: 'flag',
      identifier: 'f1',
      version: 20,
      environment: 'dev',
      environments: ['dev', 'prod'],
      apiKey: HASH,
    };
    expect(streamMessageIn(JSON.stringify({ ...message, added: 'later' }))).toEqual({
      ...message,
      unknownFields: ['message.added'],
    });
  });

  it.each([
    ['absent', {}],
    ['null', { identifier: null, version: null, environment: null, environments: null, apiKey: null }],
  ])('has empty fields where they are %s', (_, rest) => {
    expect(streamMessageIn(JSON.stringify({ event: 'proxyKeyDeleted', domain: 'proxy', ...rest }))).toEqual({
      unknownFields: [],
      event: 'proxyKeyDeleted',
      domain: 'proxy',
      identifier: '',
      version: 0,
      environment: '',
      environments: [],
      apiKey: '',
    });
  });

  it.each([
    ['no JSON', '{"event":'],
    ['no object', '"patch"'],
    ['without an event', '{"domain":"flag"}'],
    ['without a domain', '{"event":"patch"}'],
    ['with a version in words', '{"event":"patch","domain":"flag","version":"two"}'],
    [
      'with an empty environment in its list',
      '{"event":"environmentsRemoved","domain":"proxy","environments":[""]}',
    ],
    [
      'with something for an SDK key that is no hash',
      '{"event":"apiKeyAdded","domain":"proxy","apiKey":"raw-key"}',
    ],
  ])('cannot be used when it is %s', (_, data) => {
    expect(() => streamMessageIn(data)).toThrow(UnusableAnswer);
  });
});

describe('The claims of a token', () => {
  it('are the account and the cluster', () => {
    expect(claimsIn(token({ account: 'acc', cluster_identifier: '2', key_type: 'Proxy' }))).toEqual({
      account: 'acc',
      cluster: '2',
    });
  });

  it.each([[{}], [{ account: null, cluster_identifier: null }], [{ account: '', cluster_identifier: '' }]])(
    'may lack both: %j is cluster 1 of an account that was not told',
    (claims) => {
      expect(claimsIn(token(claims))).toEqual({ account: undefined, cluster: '1' });
    },
  );

  it.each([
    ['has no payload', 'secret'],
    ['has a payload that is no JSON', 'e30.secret.x'],
    ['names an account that no header can carry', token({ account: 'a\nsecret' })],
    ['has a list for claims', token([])],
  ])('are not there when the token %s, and the reason does not show it', (_, given) => {
    expect(() => claimsIn(given)).toThrow(UnusableAnswer);
    expect(() => claimsIn(given)).toThrow(/^(?!.*secret)/s);
  });
});

describe('A body that is no JSON', () => {
  it('is shown by its beginning only', () => {
    expect(() => json('<!DOCTYPE html><title>Sign in</title>')).toThrow(
      '"<!DOCTYPE html><titl" is how it begins',
    );
    expect(() => json('<!DOCTYPE html><title>Sign in</title>')).not.toThrow('Sign in');
  });
});

describe('Fields that the protocol does not document', () => {
  it('are named by where they are, each once', () => {
    const rule = {
      priority: 1,
      clauses: [{ attribute: 'a', op: 'equal', values: [], colour: 1 }],
      serve: {},
    };
    const odd = flag('a', { rules: [rule, { ...rule, ruleId: 'r' }], parent: 'b' });
    expect(unknownFieldsOfFlag(odd as unknown as Flag)).toEqual(['flag.rules.clauses.colour', 'flag.parent']);
    expect(unknownFieldsOfSegment(segment('beta', { tags: [], shade: 2 }) as unknown as Segment)).toEqual([
      'segment.shade',
    ]);
  });

  it('are not searched for without end', () => {
    const many = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`${'x'.repeat(200)}${i}`, i]));
    const found = unknownFieldsOfFlag(flag('a', many) as unknown as Flag);
    expect(found.length).toBeLessThanOrEqual(20);
    expect(Math.max(...found.map((name) => name.length))).toBeLessThanOrEqual(100);
  });
});
