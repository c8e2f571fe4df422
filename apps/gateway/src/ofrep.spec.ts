import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import fc from 'fast-check';

import type { Flag } from '#libs/domain';

import { keyOf, serve } from './serving.suite.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const KEY = { 'x-api-key': keyOf(DEV) };
const FLAGS = '/ofrep/v1/evaluate/flags';
const EVENTS = /^\/ofrep\/v1\/events\?token=[\w.-]+$/;

const aFlag = (feature: string, kind: Flag['kind'], value: string, more: Partial<Flag> = {}): Flag => ({
  project: 'demo',
  environment: 'dev',
  feature,
  state: 'on',
  kind,
  variations: [
    { identifier: 'on', value },
    { identifier: 'off', value: '0' },
  ],
  offVariation: 'off',
  defaultServe: { variation: 'on' },
  version: 3,
  ...more,
});
const when = (attribute: string, value: string) => [
  { priority: 1, clauses: [{ attribute, op: 'equal', values: [value] }], serve: { variation: 'off' } },
];

let gateway: Awaited<ReturnType<typeof serve>>;
beforeAll(async () => {
  gateway = await serve([
    {
      id: DEV,
      flags: [
        aFlag('a-boolean', 'boolean', 'TRUE'),
        aFlag('a-broken', 'string', '1', { defaultServe: { variation: 'neither' } }),
        aFlag('a-number', 'int', '1.50'),
        aFlag('a-rule', 'int', '1', { rules: when('plan', 'gold') }),
        aFlag('a-rule-by-name', 'int', '1', { rules: when('name', 'Anna') }),
        aFlag('a-split', 'int', '1', {
          defaultServe: {
            distribution: { bucketBy: 'identifier', variations: [{ variation: 'on', weight: 100 }] },
          },
        }),
        aFlag('a-text', 'string', '"1"'),
        aFlag('an-object', 'json', '{"a":[1,null]}'),
        aFlag('an-odd-number', 'int', 'seven'),
        aFlag('an-odd-object', 'json', '{"a":'),
        aFlag('off', 'boolean', 'true', { state: 'off' }),
      ],
    },
    { id: PROD, flags: [aFlag('elsewhere', 'string', 'x')] },
  ]);
});
afterAll(() => gateway.stop());

const post = (path: string, body: unknown, headers: Record<string, string> = KEY) =>
  gateway.call(
    'POST',
    `${FLAGS}${path}`,
    headers,
    typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body),
  );
const context = (targetingKey: unknown, more: object = {}) => ({ context: { targetingKey, ...more } });
const anna = context('anna');
const metadata = { version: 3 };

describe('A flag alone, by OFREP', () => {
  it.each([
    ['a-boolean', { value: true, reason: 'DEFAULT', variant: 'on' }],
    ['a-number', { value: 1.5, reason: 'DEFAULT', variant: 'on' }],
    ['a-text', { value: '"1"', reason: 'DEFAULT', variant: 'on' }],
    ['an-object', { value: { a: [1, null] }, reason: 'DEFAULT', variant: 'on' }],
    ['a-split', { value: 1, reason: 'SPLIT', variant: 'on' }],
    ['off', { value: false, reason: 'DISABLED', variant: 'off' }],
  ])('has the type of its kind, and says why: %s', async (key, result) => {
    const { status, headers, json } = await post(`/${key}`, anna);
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8');
    const position = headers.get('ff-position');
    expect(position).toMatch(/:\d+$/);
    expect(json()).toEqual({ key, ...result, metadata: { ...metadata, position } });
  });

  it('is evaluated for the target that the context tells of', async () => {
    const variants = async (more: object) => [
      ((await post('/a-rule', context('anna', more))).json() as { variant: string }).variant,
      ((await post('/a-rule-by-name', context('anna', more))).json() as { variant: string }).variant,
    ];
    expect(await variants({})).toEqual(['on', 'on']);
    expect(await variants({ plan: 'gold' })).toEqual(['off', 'on']);
    expect(await variants({ name: 'Anna', plan: { level: 'gold' } })).toEqual(['on', 'off']);
    expect(await variants({ name: { first: 'Anna' }, plan: ['gold'] })).toEqual(['on', 'on']);
  });

  it.each(['no-such-flag', 'elsewhere', 'constructor'])(
    'is answered 404 if there is none: %s',
    async (key) => {
      const { status, json } = await post(`/${key}`, anna);
      expect(status).toBe(404);
      expect(json()).toEqual({ key, errorCode: 'FLAG_NOT_FOUND', errorDetails: `there is no flag ${key}` });
    },
  );

  it.each([
    ['a-broken', 'GENERAL', /neither/],
    ['an-odd-number', 'PARSE_ERROR', /int/],
    ['an-odd-object', 'PARSE_ERROR', /json/],
  ])('that has no value is an error: %s', async (key, errorCode, details) => {
    const { status, json } = await post(`/${key}`, anna);
    expect(status).toBe(400);
    expect(json()).toMatchObject({ key, errorCode, errorDetails: expect.stringMatching(details) });
  });
});

describe('All flags, by OFREP', () => {
  it('come with their errors one by one, and with how new they are', async () => {
    const { status, headers, json } = await post('', anna);
    expect(status).toBe(200);
    const { flags, ...rest } = json() as { flags: { key: string }[] };
    expect(rest).toEqual({
      metadata: { position: headers.get('ff-position') },
      eventStreams: [{ type: 'sse', endpoint: { requestUri: expect.stringMatching(EVENTS) } }],
    });
    expect(flags.map(({ key }) => key)).toEqual([
      'a-boolean',
      'a-broken',
      'a-number',
      'a-rule',
      'a-rule-by-name',
      'a-split',
      'a-text',
      'an-object',
      'an-odd-number',
      'an-odd-object',
      'off',
    ]);
    expect(flags.slice(0, 2)).toEqual([
      { key: 'a-boolean', value: true, reason: 'DEFAULT', variant: 'on', metadata },
      { key: 'a-broken', errorCode: 'GENERAL', errorDetails: expect.any(String), metadata },
    ]);
  });

  it('are answered 304 as long as they are the same for the context', async () => {
    const tag = (await post('', anna)).headers.get('etag') ?? '';
    const again = (body: object, held = tag) => post('', body, { ...KEY, 'if-none-match': held });
    expect(tag).toMatch(/^W\/"/);
    const { status, text, headers } = await again(anna);
    expect([status, text, headers.get('etag')]).toEqual([304, '', tag]);
    expect((await again(anna, `"other", ${tag.slice(2)}`)).status).toBe(304);
    expect((await again(anna, '"other"')).status).toBe(200);
    const gold = await again(context('anna', { plan: 'gold' }));
    expect([gold.status, gold.headers.get('etag') === tag]).toEqual([200, false]);
  });

  it('are another answer after a change, and an empty list where there are none', async () => {
    const empty = await serve([{ id: DEV }]);
    const ask = (headers: Record<string, string> = {}) =>
      empty.call('POST', FLAGS, { ...KEY, ...headers }, JSON.stringify(anna));
    const first = await ask();
    expect(first.json()).toMatchObject({ flags: [] });
    await empty.happens({ type: 'FlagPublished', environment: DEV, flag: aFlag('f', 'string', 'v') });
    const next = await ask({ 'if-none-match': first.headers.get('etag') ?? '' });
    expect(next.status).toBe(200);
    expect(next.json()).toMatchObject({ flags: [{ key: 'f', value: 'v' }] });
    await empty.stop();
  });
});

describe('OFREP', () => {
  it('takes an SDK key as X-API-Key or as bearer, and a token of this relay as bearer', async () => {
    const token = await gateway.signIn(DEV);
    for (const headers of [
      KEY,
      { authorization: `Bearer ${keyOf(DEV)}` },
      { authorization: `bearer ${token}` },
      { ...KEY, authorization: 'Bearer of-somebody-else' },
    ]) {
      expect((await post('/a-text', anna, headers)).status).toBe(200);
    }
    expect((await post('/a-text', anna, { 'x-api-key': keyOf(PROD) })).status).toBe(404);
  });

  it.each([
    ['no key', {}],
    ['a key that nobody knows', { 'x-api-key': 'unknown' }],
    ['a bearer that nobody knows', { authorization: 'Bearer unknown' }],
    ['what is no bearer', { authorization: `Basic ${keyOf(DEV)}` }],
    ['the hash of a key', { 'x-api-key': 'a'.repeat(64) }],
    ['a token of others', { authorization: 'Bearer eyJhbGciOiJub25lIn0.e30.' }],
  ])('answers 401 to %s', async (_, headers: Record<string, string>) => {
    for (const path of ['', '/a-text']) {
      const { status, json } = await post(path, anna, headers);
      expect(status).toBe(401);
      expect(json()).toMatchObject({
        errorCode: 'GENERAL',
        errorDetails: expect.stringContaining('unauthorised'),
      });
    }
  });

  it('answers 401 to a key that was removed, and to its tokens', async () => {
    const other = await serve([{ id: DEV, flags: [aFlag('f', 'string', 'v')] }]);
    const authorization = `Bearer ${await other.signIn(DEV)}`;
    const status = async (headers: Record<string, string>) =>
      (await other.call('POST', FLAGS, headers, JSON.stringify(anna))).status;
    expect([await status(KEY), await status({ authorization })]).toEqual([200, 200]);
    await other.happens({ type: 'EnvironmentRemoved', environment: DEV });
    expect([await status(KEY), await status({ authorization })]).toEqual([401, 401]);
    await other.stop();
  });

  it('answers 503 to a key that may only not be loaded yet', async () => {
    const complete = jest.spyOn(gateway.views, 'areComplete', 'get').mockReturnValue(false);
    const { status, headers, json } = await post('/a-text', anna, { 'x-api-key': 'unknown' });
    complete.mockRestore();
    expect([status, headers.get('retry-after')]).toEqual([503, '5']);
    expect(json()).toMatchObject({ key: 'a-text', errorCode: 'GENERAL' });
  });

  it('lets everybody in where BYPASS_AUTH is on, who names an environment', async () => {
    const open = await serve([{ id: DEV, flags: [aFlag('f', 'string', 'v')] }], { BYPASS_AUTH: 'true' });
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const forged = `${part({ alg: 'none' })}.${part({ environment: DEV, apiKey: 'auth-key-x' })}.`;
    const status = async (headers: Record<string, string>) =>
      (await open.call('POST', FLAGS, headers, JSON.stringify(anna))).status;
    expect(await status({ authorization: `Bearer ${forged}` })).toBe(200);
    expect(await status(KEY)).toBe(200);
    const malformed = `${part({ alg: 'HS256', typ: 'JWT' })}.${Buffer.from('not JSON').toString('base64url')}.x`;
    for (const bad of ['nothing', malformed]) {
      expect(await status({ authorization: `Bearer ${bad}` })).toBe(401);
    }
    await open.stop();
  });

  it.each([
    ['nothing', '', 'PARSE_ERROR'],
    ['what is not JSON', '{"context":', 'PARSE_ERROR'],
    ['a list', '[]', 'PARSE_ERROR'],
    ['null', 'null', 'PARSE_ERROR'],
    ['no context', '{}', 'TARGETING_KEY_MISSING'],
    ['a context that is null', '{"context":null}', 'TARGETING_KEY_MISSING'],
    ['a context without key', '{"context":{"plan":"gold"}}', 'TARGETING_KEY_MISSING'],
    ['an empty key', context(''), 'TARGETING_KEY_MISSING'],
    ['a key that is null', context(null), 'TARGETING_KEY_MISSING'],
    ['a key that is a number', context(7), 'INVALID_CONTEXT'],
    ['a context that is a list', '{"context":["targetingKey"]}', 'INVALID_CONTEXT'],
    ['a context that is text', '{"context":"anna"}', 'INVALID_CONTEXT'],
  ])('answers 400 to %s', async (_, body, errorCode) => {
    const one = await post('/a-text', body);
    expect(one.status).toBe(400);
    expect(one.json()).toEqual({ key: 'a-text', errorCode, errorDetails: expect.any(String) });
    const all = await post('', body);
    expect(all.status).toBe(400);
    expect(all.json()).toEqual({ errorCode, errorDetails: expect.any(String) });
  });

  it('answers 413 above 256 KB, and takes what is below', async () => {
    const text = 'x'.repeat(255 * 1024);
    expect((await post('/a-text', context('anna', { text }))).status).toBe(200);
    const { status, json } = await post('/a-text', context('anna', { text: `${text}${text}` }));
    expect(status).toBe(413);
    expect(json()).toMatchObject({
      errorCode: 'GENERAL',
      errorDetails: expect.stringContaining('OFREP_BODY_LIMIT'),
    });
  });

  it('answers 405 to another method', async () => {
    const { status, headers } = await gateway.call('GET', FLAGS, KEY);
    expect([status, headers.get('allow')]).toEqual([405, 'POST, OPTIONS']);
  });

  it('answers the preflight of a browser for what its providers send, and lets scripts read the tag', async () => {
    const { status, headers } = await gateway.call('OPTIONS', FLAGS, {
      origin: 'http://shop.test',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type,if-none-match,x-api-key',
    });
    expect(status).toBe(204);
    expect(headers.get('access-control-allow-origin')).toBe('*');
    const allowed = headers.get('access-control-allow-headers') ?? '';
    for (const header of ['authorization', 'content-type', 'if-none-match', 'x-api-key']) {
      expect(allowed.split(/, */)).toContain(header);
    }
    const refused = await post('', anna, { origin: 'http://shop.test' });
    expect(refused.status).toBe(401);
    expect(refused.headers.get('access-control-allow-origin')).toBe('*');
    expect(refused.headers.get('access-control-expose-headers')).toMatch(/etag.*retry-after/);
  });

  it('is counted for the environment of its key, and for none if it is refused, as are sign-ins', async () => {
    const other = await serve([{ id: DEV, flags: [aFlag('f', 'string', 'v')] }]);
    const ask = (path: string, headers: Record<string, string>, body: object) =>
      other.call('POST', path, headers, JSON.stringify(body));
    await ask(FLAGS, KEY, anna);
    await ask(`${FLAGS}/f`, KEY, anna);
    await ask(`${FLAGS}/f`, KEY, {});
    await ask(FLAGS, { 'x-api-key': 'unknown' }, anna);
    await other.signIn(DEV);
    await ask('/client/auth', {}, { apiKey: 'unknown' });
    await other.stop();
    const counted = (await other.telemetry.page()).matchAll(
      /^ff_proxy_http_requests_total\{url="(.*)",envID="(.*)",code="(.*)"\} (\d+)$/gm,
    );
    expect([...counted].map(([, ...labels]) => labels)).toEqual([
      [FLAGS, DEV, '200', '1'],
      [`${FLAGS}/:key`, DEV, '200', '1'],
      [`${FLAGS}/:key`, DEV, '400', '1'],
      [FLAGS, '', '401', '1'],
      ['/client/auth', DEV, '200', '1'],
      ['/client/auth', '', '401', '1'],
    ]);
  });

  it('is counted for an environment as long as that exists', async () => {
    const other = await serve([DEV, PROD].map((id) => ({ id, flags: [aFlag('f', 'string', 'v')] })));
    for (const id of [DEV, PROD]) {
      await other.call('POST', FLAGS, { 'x-api-key': keyOf(id) }, JSON.stringify(anna));
      await other.signIn(id);
    }
    await other.happens({ type: 'EnvironmentRemoved', environment: DEV });
    await other.stop();
    const page = await other.telemetry.page();
    expect(page).not.toContain(DEV);
    expect(page).toContain(`{url="${FLAGS}",envID="${PROD}",code="200"} 1`);
  });

  it('answers any body with a status that OFREP knows', async () => {
    const values = fc.anything({ withNullPrototype: false, maxDepth: 3 });
    const bodies = fc.oneof(
      fc.uint8Array().map((bytes) => Buffer.from(bytes)),
      fc.json(),
      values.map((value) => JSON.stringify({ context: value }) ?? ''),
      fc
        .tuple(values, fc.json())
        .map(
          ([key, rest]) =>
            `{"context":{"targetingKey":${JSON.stringify(key) ?? 'null'},"a":${rest},"__proto__":${rest}}}`,
        ),
      fc
        .nat(20_000)
        .map((depth) => `{"context":{"targetingKey":"a","plan":${'['.repeat(depth)}${']'.repeat(depth)}}}`),
    );
    const paths = fc.constantFrom('', '/a-rule', '/a-broken', '/nobody');
    const codes = ['PARSE_ERROR', 'TARGETING_KEY_MISSING', 'INVALID_CONTEXT'];
    await fc.assert(
      fc.asyncProperty(paths, bodies, async (path, body) => {
        const { status, json } = await post(path, body);
        const answer = json() as { flags?: unknown[]; errorCode?: string; key?: string };
        expect(answer.key).toBe(path === '' ? undefined : path.slice(1));
        if (status === 200) expect(path === '' ? answer.flags?.length === 11 : path === '/a-rule').toBe(true);
        else if (path === '/nobody' && status === 404) expect(answer.errorCode).toBe('FLAG_NOT_FOUND');
        else {
          expect(status).toBe(400);
          expect(path === '/a-broken' ? [...codes, 'GENERAL'] : codes).toContain(answer.errorCode);
        }
      }),
      { numRuns: 500 },
    );
  });
});
