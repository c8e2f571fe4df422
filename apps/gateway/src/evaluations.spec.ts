import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import fc from 'fast-check';

import type { Flag, Segment } from '#libs/domain';
import type { Target } from '#libs/evaluation';

import { factsOf, serve } from './serving.suite.js';

const DEV = '10000000-0000-4000-8000-000000000001';

const aFlag = (feature: string, more: Partial<Flag> = {}): Flag => ({
  project: 'demo',
  environment: 'dev',
  feature,
  state: 'on',
  kind: 'string',
  variations: [
    { identifier: 'one', value: '1' },
    { identifier: 'two', value: '2' },
  ],
  offVariation: 'two',
  defaultServe: { variation: 'one' },
  version: 1,
  ...more,
});
/** Serves `two` to those whose attribute has the value. */
const ruled = (feature: string, attribute: string, value: string): Flag =>
  aFlag(feature, {
    rules: [
      {
        priority: 1,
        clauses: [{ attribute, op: 'equal', values: [value] }],
        serve: { variation: 'two' },
      },
    ],
  });
const broken = (feature: string, version = 1) =>
  aFlag(feature, { defaultServe: { variation: 'three' }, version });

type Gateway = Awaited<ReturnType<typeof serve>>;

const inBase64 = (text: string | Buffer) => Buffer.from(text).toString('base64');
const header = (target: object) => ({ 'harness-target': inBase64(JSON.stringify(target)) });

/** What a client SDK does. */
async function client(gateway: Gateway, environment = DEV, signInAs?: object) {
  const authorization = `Bearer ${await gateway.signIn(environment, signInAs)}`;
  const evaluations = (path: string, headers: Record<string, string> = {}) =>
    gateway.call('GET', `/client/env/${environment}/target/${path}`, { authorization, ...headers });
  /** Which variation of a flag a target gets, by the list. */
  const variation = async (flag: string, target: string, headers?: Record<string, string>) => {
    const { json } = await evaluations(`${target}/evaluations`, headers);
    return (json() as { flag: string; identifier: string }[]).find((each) => each.flag === flag)?.identifier;
  };
  return { evaluations, variation, authorization };
}

let gateway: Gateway;
afterEach(() => void jest.restoreAllMocks());

describe('Evaluations for client SDKs', () => {
  let anna: Awaited<ReturnType<typeof client>>;
  beforeAll(async () => {
    gateway = await serve([
      {
        id: DEV,
        flags: [
          aFlag('plain'),
          aFlag('an-object', {
            kind: 'json',
            variations: [{ identifier: 'one', value: '{"a":"<b>"}' }],
          }),
          aFlag('evaluations'),
          ruled('by-plan', 'plan', 'gold'),
          ruled('by-name', 'name', 'Zoë 😀'),
          ruled('by-proto', '__proto__', 'gold'),
          ruled('by-identifier', 'identifier', 'a+b c@d/é%'),
          broken('broken'),
        ],
      },
    ]);
    anna = await client(gateway);
  });
  afterAll(() => gateway.stop());

  it('are a bare array, by flag, with values as text', async () => {
    const { status, headers, json } = await anna.evaluations('anna/evaluations?cluster=1');
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect(json()).toEqual([
      { flag: 'an-object', identifier: 'one', kind: 'json', value: '{"a":"<b>"}' },
      { flag: 'by-identifier', identifier: 'one', kind: 'string', value: '1' },
      { flag: 'by-name', identifier: 'one', kind: 'string', value: '1' },
      { flag: 'by-plan', identifier: 'one', kind: 'string', value: '1' },
      { flag: 'by-proto', identifier: 'one', kind: 'string', value: '1' },
      { flag: 'evaluations', identifier: 'one', kind: 'string', value: '1' },
      { flag: 'plain', identifier: 'one', kind: 'string', value: '1' },
    ]);
  });

  it('give a flag alone as the list has it', async () => {
    const { status, json } = await anna.evaluations('anna/evaluations/plain');
    expect(status).toBe(200);
    expect(json()).toEqual({ flag: 'plain', identifier: 'one', kind: 'string', value: '1' });
    expect((await anna.evaluations('anna/evaluations/evaluations')).json()).toMatchObject({
      flag: 'evaluations',
    });
  });

  it.each(['no-such-flag', 'constructor', '%F0%9F%98%80', 'broken'])(
    'are 404 for %s alone, in a form that every SDK reads',
    async (flag) => {
      const { status, json } = await anna.evaluations(`anna/evaluations/${flag}`);
      expect(status).toBe(404);
      expect(json()).toEqual({
        error: expect.stringContaining('not found'),
        code: '404',
        message: expect.stringContaining(decodeURIComponent(flag)),
      });
    },
  );

  it('are of the environment of the token only', async () => {
    const path = `/client/env/${DEV.replace('1', '2')}/target/anna/evaluations`;
    expect((await gateway.call('GET', path, { authorization: anna.authorization })).status).toBe(401);
    expect((await gateway.call('GET', path)).status).toBe(401);
    expect((await gateway.call('GET', `/client/env/${DEV}/target/anna/evaluations`)).status).toBe(401);
  });

  it('are answered 405 for another method, and 404 for a path that is neither list nor flag', async () => {
    const post = await gateway.call('POST', `/client/env/${DEV}/target/anna/evaluations`, {}, '{}');
    expect(post.status).toBe(405);
    expect(post.headers.get('allow')).toBe('GET, HEAD, OPTIONS');
    for (const path of ['anna', 'anna/evaluations/a/b', 'evaluations']) {
      expect((await anna.evaluations(path)).status).toBe(404);
    }
  });

  it('carry a tag, which changes with what they say and not with whom they are for', async () => {
    const { headers } = await anna.evaluations('anna/evaluations');
    const tag = headers.get('etag') ?? '';
    expect(headers.get('ff-position')).toMatch(/:\d+$/);
    const same = await anna.evaluations('bert/evaluations', { 'if-none-match': tag });
    expect(same.status).toBe(304);
    const gold = header({ identifier: 'carl', attributes: { plan: 'gold' } });
    const other = await anna.evaluations('carl/evaluations', { ...gold, 'if-none-match': tag });
    expect(other.status).toBe(200);
    expect(other.headers.get('etag')).not.toBe(tag);
    const one = await anna.evaluations('anna/evaluations/by-plan');
    const again = { 'if-none-match': one.headers.get('etag') ?? '' };
    expect((await anna.evaluations('anna/evaluations/by-plan', again)).status).toBe(304);
    expect((await anna.evaluations('carl/evaluations/by-plan', { ...gold, ...again })).status).toBe(200);
  });

  describe('know their target', () => {
    const variationBy = (headers?: Record<string, string>, path = 'dora') =>
      anna.variation('by-plan', path, headers);

    it('by the header Harness-Target, whatever the path says', async () => {
      expect(await variationBy(header({ identifier: 'x', attributes: { plan: 'gold' } }))).toBe('two');
      expect(await variationBy(header({ identifier: 'x', attributes: { plan: 'tin' } }))).toBe('one');
    });

    it('by a header of 262,143 characters', async () => {
      const attributes = { plan: 'gold', rest: 'x'.repeat(196_500) };
      const large = header({ identifier: 'x', name: 'x', attributes });
      expect(large['harness-target'].length).toBeGreaterThan(262_000);
      expect(large['harness-target'].length).toBeLessThanOrEqual(262_143);
      expect(await variationBy(large)).toBe('two');
    });

    it('by a header that is not UTF-8: SDKs in browsers write a character beyond 16 bits in halves', async () => {
      const halves = Buffer.from([0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]);
      const json = Buffer.concat([
        Buffer.from('{"identifier":"x","name":"Zoë '),
        halves,
        Buffer.from('","attributes":{"plan":"gold"}}'),
      ]);
      const headers = { 'harness-target': inBase64(json) };
      expect(await anna.variation('by-name', 'dora', headers)).toBe('two');
      const torn = Buffer.from(json).fill(0x80, json.indexOf(0xed), json.indexOf(0xed) + 2);
      expect(await variationBy({ 'harness-target': inBase64(torn) })).toBe('two');
    });

    it('by its sign-in if there is no header, or one that cannot be used', async () => {
      const target = { identifier: 'erna', name: 'Erna', attributes: { plan: 'gold' } };
      const erna = await client(gateway, DEV, target);
      expect(await erna.variation('by-plan', 'erna')).toBe('two');
      expect(await erna.variation('by-plan', 'erna', { 'harness-target': 'undefined' })).toBe('two');
      expect(await erna.variation('by-plan', 'erna', header({ identifier: '' }))).toBe('two');
      expect(await erna.variation('by-plan', 'erna', header({ identifier: 'erna' }))).toBe('one');
      expect(await erna.variation('by-plan', 'frieda')).toBe('one');
    });

    it('by attributes of any name, and by no others', async () => {
      const variations = async (attributes: string) => {
        const target = `{"identifier":"gerda","attributes":${attributes}}`;
        const gerda = await client(gateway, DEV, JSON.parse(target) as object);
        const told = { 'harness-target': inBase64(target) };
        return [await gerda.variation('by-proto', 'gerda'), await gerda.variation('by-proto', 'gerda', told)];
      };
      expect(await variations('{"__proto__":"gold"}')).toEqual(['two', 'two']);
      expect(await variations('{"plan":"gold"}')).toEqual(['one', 'one']);
      // What it holds is no attribute of the target, nor of anybody else.
      const hidden = JSON.parse(
        '{"identifier":"gerda","attributes":{"__proto__":{"plan":"gold"}}}',
      ) as object;
      const gerda = await client(gateway, DEV, hidden);
      expect(await gerda.variation('by-plan', 'gerda')).toBe('one');
      expect(await gerda.variation('by-plan', 'gerda', header(hidden))).toBe('one');
      expect(await gerda.variation('by-plan', 'frieda')).toBe('one');
    });

    it.each([
      ['a+b%20c@d%2F%C3%A9%25', 'encoded'],
      ['a+b%20c@d/%C3%A9%25', 'with a slash that is not'],
    ])('by the path %s otherwise (%s)', async (path) => {
      expect(await anna.variation('by-identifier', path)).toBe('two');
      expect((await anna.evaluations(`${path}/evaluations/by-identifier`)).json()).toMatchObject({
        identifier: 'two',
      });
    });

    it('by a path of 1,024 characters of any language', async () => {
      const { status } = await anna.evaluations(`${encodeURIComponent('漢'.repeat(1024))}/evaluations`);
      expect(status).toBe(200);
    });

    it('and warn once of headers that cannot be used, without what they say', async () => {
      const said = jest.spyOn(process.stdout, 'write').mockReturnValue(true);
      const fresh = await serve([{ id: DEV, flags: [aFlag('plain')] }], { LOG_LEVEL: 'WARN' });
      const sdk = await client(fresh);
      for (let i = 0; i < 10; i++)
        await sdk.evaluations('anna/evaluations', { 'harness-target': 'c2VjcmV0' });
      await fresh.stop();
      const warnings = said.mock.calls
        .map(([text]) => String(text))
        .filter((line) => line.includes('Harness-T'));
      expect(warnings).toHaveLength(1);
      expect(warnings[0]).not.toMatch(/c2VjcmV0|secret/);
    });
  });

  it('are 200 or 404 whatever bytes the header has', async () => {
    const { port } = new URL(gateway.url);
    const get = (path: string, value: Buffer) =>
      new Promise<number | undefined>((resolve, reject) => {
        const headers = { authorization: anna.authorization, 'harness-target': value.toString('latin1') };
        request({ port, path: `/client/env/${DEV}/target/anna/${path}`, headers }, (response) => {
          response.resume().on('end', () => resolve(response.statusCode));
        })
          .on('error', reject)
          .end();
      });
    const targets = fc.oneof(
      fc.json({ maxDepth: 4 }),
      fc
        .record({ identifier: fc.string({ unit: 'binary' }), attributes: fc.object() })
        .map((t) => JSON.stringify(t)),
    );
    const values = fc.oneof(
      // What a header may have.
      fc.uint8Array().map((bytes) => Buffer.from(bytes.filter((byte) => byte > 31 && byte !== 127))),
      fc.uint8Array().map((bytes) => Buffer.from(inBase64(Buffer.from(bytes)))),
      targets.map((json) => Buffer.from(inBase64(json))),
      targets.map((json) => Buffer.from(inBase64(json).slice(0, -3))),
    );
    const flags = fc.constantFrom('evaluations', 'evaluations/by-plan', 'evaluations/nobody');
    await fc.assert(
      fc.asyncProperty(flags, values, async (path, value) => {
        expect(await get(path, value)).toBe(path.endsWith('nobody') ? 404 : 200);
      }),
      { numRuns: 300 },
    );
  });

  it('are other ones from the moment that the gateway holds a change, of a flag or of a group', async () => {
    const fresh = await serve([{ id: DEV, flags: [aFlag('plain')] }]);
    const sdk = await client(fresh);
    expect(await sdk.variation('plain', 'anna')).toBe('one');
    await fresh.happens({
      type: 'FlagPublished',
      environment: DEV,
      flag: aFlag('plain', {
        version: 2,
        variationToTargetMap: [{ variation: 'two', targetSegments: ['beta'] }],
      }),
    });
    expect(await sdk.variation('plain', 'anna')).toBe('one');
    const included = [{ identifier: 'anna', name: 'Anna' }];
    await fresh.happens({
      type: 'SegmentPublished',
      environment: DEV,
      segment: { identifier: 'beta', name: 'Beta', included, version: 1 },
    });
    expect(await sdk.variation('plain', 'anna')).toBe('two');
    expect(await sdk.variation('plain', 'bert')).toBe('one');
    await fresh.happens(
      { type: 'EnvironmentRemoved', environment: DEV },
      ...factsOf({ id: DEV, flags: [aFlag('plain', { state: 'off' })] }),
    );
    const again = await client(fresh);
    expect(await again.variation('plain', 'bert')).toBe('two');
    await fresh.stop();
  });

  it('count a flag without a variation each time, and say it once for each of its versions', async () => {
    const said = jest.spyOn(process.stdout, 'write').mockReturnValue(true);
    const fresh = await serve([{ id: DEV, flags: [broken('broken'), aFlag('plain')] }], {
      LOG_LEVEL: 'WARN',
    });
    const sdk = await client(fresh);
    const warnings = () =>
      said.mock.calls.map(([text]) => String(text)).filter((line) => line.includes('Flag broken of'));
    const counted = async () =>
      /^ff_relay_unanswerable_evaluations_total (\d+)$/m.exec(await fresh.telemetry.page())?.[1];
    expect(await sdk.variation('broken', 'anna')).toBeUndefined();
    expect((await sdk.evaluations('anna/evaluations/broken')).status).toBe(404);
    expect(await sdk.variation('broken', 'bert')).toBeUndefined();
    expect(warnings()).toHaveLength(1);
    expect(warnings()[0]).toContain('three');
    expect(await counted()).toBe('3');
    await fresh.happens({ type: 'FlagPublished', environment: DEV, flag: aFlag('plain', { version: 2 }) });
    await sdk.evaluations('anna/evaluations');
    expect(warnings()).toHaveLength(1);
    await fresh.happens({ type: 'FlagPublished', environment: DEV, flag: broken('broken', 2) });
    await sdk.evaluations('anna/evaluations');
    expect(warnings()).toHaveLength(2);
    expect(await counted()).toBe('5');
    await fresh.stop();
  });
});

interface World {
  readonly id: string;
  readonly flags: readonly Flag[];
  readonly segments: readonly Segment[];
  readonly target: Target;
  readonly expected: Readonly<
    Record<string, { variationIdentifier: string; value: string; relayValue?: string } | { error: true }>
  >;
}

describe('The recorded answers of published evaluators', () => {
  const vectors = join(import.meta.dirname, '../../../libs/evaluation/vectors/evaluation.jsonl.br');
  const worlds = brotliDecompressSync(readFileSync(vectors))
    .toString()
    .split('\n')
    .flatMap((line) => (line === '' ? [] : (JSON.parse(line) as World)))
    .filter((_, i) => i % 25 === 0);

  it.each([
    ['value', {}],
    ['relayValue', { GO_RELAY_JSON_VALUES: 'true' }],
  ] as const)('are what client SDKs get (%s)', async (field, settings) => {
    const recorded = await serve(
      worlds.map(({ id, flags, segments }) => ({ id: `world-${id}`, flags, segments })),
      settings,
    );
    for (const { id, target, expected, flags } of worlds) {
      const sdk = await client(recorded, `world-${id}`);
      const { json } = await sdk.evaluations('anybody/evaluations', header(target));
      const wanted = flags.map(({ feature: flag, kind }) => {
        const answer = expected[flag];
        if (!answer || 'error' in answer) return [];
        return [{ flag, identifier: answer.variationIdentifier, kind, value: answer[field] ?? answer.value }];
      });
      expect(new Set(json() as object[])).toEqual(new Set(wanted.flat()));
    }
    await recorded.stop();
  });
});
