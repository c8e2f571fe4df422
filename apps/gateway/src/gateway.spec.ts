import { createHmac } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createServer as createHttpServer, request as httpRequest, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';

import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import fc from 'fast-check';

import {
  type EnvironmentFact,
  type Fact,
  type Flag,
  type MetricsReport,
  type Notice,
  reportIn,
  type Segment,
} from '#libs/domain';
import { StatusBoard, UpstreamStatus } from '#libs/observability';

import { RememberedTargets } from './remembered-targets.js';
import { callsOf, cleanUp, cleanUps, SECRET, sha256, startEmpty, Wire } from './serving.suite.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const DEV_KEY = 'dev-key';
const OTHER_DEV_KEY = 'other-dev-key';
const PROD_KEY = 'prod-key';

const aFlag = (feature: string, version = 1): Flag => ({
  project: 'demo',
  environment: 'dev',
  feature,
  state: 'on',
  kind: 'boolean',
  variations: [
    { identifier: 'yes', value: 'true' },
    { identifier: 'no', value: 'false' },
  ],
  offVariation: 'no',
  defaultServe: { variation: 'yes' },
  rules: [],
  prerequisites: [],
  variationToTargetMap: [],
  version,
});
const flag = (feature: string, version = 1, environment = DEV): EnvironmentFact => ({
  type: 'FlagPublished',
  environment,
  flag: aFlag(feature, version),
});
const noFlag = (identifier: string, version = 1, environment = DEV): EnvironmentFact => ({
  type: 'FlagRemoved',
  environment,
  identifier,
  version,
});
const segment = (identifier: string, more: Partial<Segment> = {}, environment = DEV): EnvironmentFact => ({
  type: 'SegmentPublished',
  environment,
  segment: { identifier, name: identifier, version: 1, ...more },
});
const added = (environment: string): EnvironmentFact => ({
  type: 'EnvironmentAdded',
  environment,
  account: 'acme',
});
const removed = (environment: string): EnvironmentFact => ({ type: 'EnvironmentRemoved', environment });
const keyAdded = (key: string, environment: string): EnvironmentFact => ({
  type: 'ApiKeyAdded',
  environment,
  apiKey: sha256(key),
});
const keyRemoved = (key: string, environment: string): EnvironmentFact => ({
  type: 'ApiKeyRemoved',
  environment,
  apiKey: sha256(key),
});
const snapshot: Fact = { type: 'SnapshotCompleted', account: 'acme', environments: 2 };
const ACCOUNT: readonly Fact[] = [
  added(DEV),
  keyAdded(DEV_KEY, DEV),
  keyAdded(OTHER_DEV_KEY, DEV),
  added(PROD),
  keyAdded(PROD_KEY, PROD),
];

type Gateway = Awaited<ReturnType<typeof start>>;

/** A gateway that serves two environments, and what SDKs do with it. */
async function start(facts: readonly Fact[] = [], settings?: NodeJS.ProcessEnv) {
  const { upstream, views, hub, upstreamStatus, serving } = await startEmpty({
    STREAM_REPLAY: '0',
    ...settings,
  });
  await upstream.happens(...ACCOUNT, ...facts, snapshot);
  const app = await serving;
  const server = app.getHttpServer();
  const { port } = server.address() as AddressInfo;
  const sockets: Socket[] = [];
  server.on('connection', (socket: Socket) => sockets.push(socket));
  /** The gateway's end of a connection. */
  const serverSide = ({ socket }: Wire) => sockets.find(({ remotePort }) => remotePort === socket.localPort);
  const url = `http://127.0.0.1:${port}`;

  const { call, signIn: signInWith } = callsOf(url);
  const signIn = (key = DEV_KEY) => signInWith(key);
  const bearer = async (key = DEV_KEY) => ({ authorization: `Bearer ${await signIn(key)}` });
  const read = async (path: string, key = DEV_KEY, environment = key === PROD_KEY ? PROD : DEV) =>
    call('GET', `/client/env/${environment}/${path}`, await bearer(key));
  /** A stream that is open: the first heartbeat has come. */
  const stream = async (key = DEV_KEY, more: Record<string, string> = {}) => {
    const headers = { ...(await bearer(key)), 'API-Key': key, ...more };
    const wire = new Wire(port);
    wire.send('GET', '/stream?cluster=1', headers);
    await wire.until(':\n\n');
    return wire;
  };

  // What was told so far is nothing that a stream opened later may still hear.
  const last = await stream();
  const here = await upstream.log.head('FF_FACTS');
  await upstream.tell(
    { event: 'delete', kind: 'flag', environment: DEV, identifier: 'told', version: 1 },
    here,
  );
  await last.until('"told"');
  last.socket.destroy();
  await until(() => hub.openStreams === 0);
  return {
    app,
    port,
    url,
    upstream,
    views,
    hub,
    upstreamStatus,
    call,
    signIn,
    bearer,
    read,
    stream,
    serverSide,
  };
}

const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
function token(claims: object, { alg = 'HS256', secret = SECRET } = {}): string {
  const signed = `${part({ alg, typ: 'JWT' })}.${part(claims)}`;
  if (alg === 'none') return `${signed}.`;
  const hash = alg.replace('HS', 'sha');
  return `${signed}.${createHmac(hash, secret).update(signed).digest('base64url')}`;
}
const JWT = { alg: 'HS256', typ: 'JWT' };
/** A token that nobody signed, whose claims are the text. */
const unsigned = (header: object, text: string) =>
  `${part(header)}.${Buffer.from(text).toString('base64url')}.x`;
const claimsOf = (jwt: string) =>
  JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>;
const anError = (status: number, message: unknown = expect.any(String)) => ({
  error: message,
  code: String(status),
  message,
});

describe('Signing in', () => {
  let gateway: Gateway;
  beforeAll(async () => {
    gateway = await start([flag('dark-mode')]);
  });
  afterAll(cleanUp);
  const auth = (
    body: string | Buffer | undefined,
    headers: Record<string, string> = {},
    path = '/client/auth',
  ) => gateway.call('POST', path, headers, body);
  const withKey = (apiKey: unknown, more: object = {}) => JSON.stringify({ apiKey, ...more });

  it('is answered 200 with a token of exactly the claims that SDKs read, and no expiry', async () => {
    const earliest = Math.floor(Date.now() / 1000);
    const { status, json, headers } = await auth(withKey(DEV_KEY));
    expect(status).toBe(200);
    expect(headers.get('content-type')).toContain('application/json');
    const { authToken, ...rest } = json() as { authToken: string };
    expect(rest).toEqual({});
    const { iat, nbf, ...claims } = claimsOf(authToken);
    expect(claims).toEqual({
      apiKey: `auth-key-${sha256(DEV_KEY)}`,
      environment: DEV,
      environmentIdentifier: 'dev',
      accountID: 'acme',
      clusterIdentifier: '1',
    });
    expect(nbf).toBe(iat);
    expect(iat).toBeGreaterThanOrEqual(earliest);
    expect(iat).toBeLessThanOrEqual(Date.now() / 1000);
    expect(authToken).toBe(token(claimsOf(authToken)));
  });

  it('leaves out what the relay does not know of the environment', async () => {
    expect(claimsOf(await gateway.signIn(PROD_KEY))).toEqual({
      apiKey: `auth-key-${sha256(PROD_KEY)}`,
      environment: PROD,
      accountID: 'acme',
      clusterIdentifier: '1',
      iat: expect.any(Number),
      nbf: expect.any(Number),
    });
  });

  it('is answered 401 for a key that nobody knows, in a form that every SDK reads', async () => {
    const { status, json } = await auth(withKey('no such key'));
    expect(status).toBe(401);
    expect(json()).toEqual(anError(401, 'unauthorised: this relay does not know the SDK key'));
    expect((await auth(withKey(sha256(DEV_KEY)))).status).toBe(401);
  });

  it.each([
    ['nothing', undefined],
    ['an empty body', ''],
    ['no key', '{}'],
    ['an empty key', withKey('')],
    ['a key that is no text', withKey(7)],
    ['null', 'null'],
    ['a list', '[]'],
    ['what is not JSON', '{"apiKey":'],
    ['a target that is text', withKey(DEV_KEY, { target: 'anna' })],
    ['a target that is a list', withKey(DEV_KEY, { target: [] })],
    ['a target identifier that is no text', withKey(DEV_KEY, { target: { identifier: 0 } })],
    ['attributes that are a list', withKey(DEV_KEY, { target: { identifier: 'a', attributes: [] } })],
    ['attributes that are text', withKey(DEV_KEY, { target: { identifier: 'a', attributes: 'x' } })],
    ['a target identifier above 1 KB', withKey(DEV_KEY, { target: { identifier: 'x'.repeat(1025) } })],
  ])('is answered 400 for %s', async (_, body) => {
    const { status, json } = await auth(body);
    expect(status).toBe(400);
    expect(json()).toEqual(anError(400, expect.stringMatching(/^bad request: /)));
    expect((await auth(body, { 'content-type': 'application/json' })).status).toBe(400);
  });

  it.each([
    ['null', null],
    ['with an odd identifier', { identifier: 'Zoë +1 / 漢字', name: 'x', anonymous: true }],
    ['with nulls', { identifier: 'a', name: null, anonymous: null, attributes: null }],
    ['with attributes of any kind', { identifier: 'a', attributes: { a: [1], b: { c: null } } }],
  ])('takes a target %s', async (_, target) => {
    expect((await auth(withKey(DEV_KEY, { target }))).status).toBe(200);
  });

  it.each(['text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=UTF-8', 'odd'])(
    'takes a body that is called %s',
    async (type) => {
      expect((await auth(withKey(DEV_KEY), { 'content-type': type })).status).toBe(200);
    },
  );

  it('takes a body of no content type, and one in chunks', async () => {
    expect((await auth(Buffer.from(withKey(DEV_KEY)))).status).toBe(200);
    const request = httpRequest(`${gateway.url}/client/auth`, { method: 'POST' });
    request.write('{"apiKey":');
    request.end(`"${DEV_KEY}"}`);
    const [response] = (await once(request, 'response')) as [{ statusCode: number; resume: () => void }];
    response.resume();
    expect(response.statusCode).toBe(200);
  });

  it('takes a body of 500 KB and refuses one above 512 KB with 413', async () => {
    const attributes = (bytes: number) => ({ identifier: 'a', attributes: { x: 'x'.repeat(bytes) } });
    expect((await auth(withKey(DEV_KEY, { target: attributes(500 * 1024) }))).status).toBe(200);
    const { status, json } = await auth(withKey(DEV_KEY, { target: attributes(512 * 1024) }));
    expect(status).toBe(413);
    expect(json()).toEqual(anError(413));
  });

  it('works with the double slash that a base URL with a trailing slash makes', async () => {
    expect((await auth(withKey(DEV_KEY), {}, '//client/auth')).status).toBe(200);
    expect(
      (await gateway.call('GET', `//client/env/${DEV}/feature-configs`, await gateway.bearer())).status,
    ).toBe(200);
  });
});

describe('An unknown key', () => {
  afterEach(cleanUp);

  it('is answered 403 where that is set', async () => {
    const { call } = await start([], { UNKNOWN_KEY_STATUS: '403' });
    const { status, json } = await call('POST', '/client/auth', {}, '{"apiKey":"no such key"}');
    expect(status).toBe(403);
    expect(json()).toEqual(anError(403));
  });

  it('opens the environment from the moment it is added', async () => {
    const { upstream, read, call } = await start();
    expect((await call('POST', '/client/auth', {}, '{"apiKey":"late"}')).status).toBe(401);
    await upstream.happens(keyAdded('late', DEV));
    expect((await read('feature-configs', 'late')).status).toBe(200);
  });
});

describe('Reading', () => {
  const andRules = [
    { ruleId: 'both', priority: 1, clauses: ['a', 'b'].map((value) => equal(value)) },
    { ruleId: 'one', priority: 2, clauses: [equal('c')] },
  ];
  const ODD = [
    'with spaces and +',
    'a/b?c#d',
    '..',
    '%2F',
    'ünï-漢字-😀',
    'x'.repeat(1000),
    '漢'.repeat(1000),
  ];
  let gateway: Gateway;
  beforeAll(async () => {
    gateway = await start([
      flag('b', 2),
      flag('a', 3),
      flag('c'),
      noFlag('c'),
      segment('beta', { servingRules: andRules }),
      segment('alpha', { rules: [equal('x')] }),
      flag('only-in-prod', 1, PROD),
      ...ODD.map((identifier) => flag(identifier)),
      ...ODD.map((identifier) => segment(identifier)),
    ]);
  });
  afterAll(cleanUp);

  function equal(value: string) {
    return { attribute: 'email', op: 'equal', values: [value], negate: false };
  }

  it('gives all flags, by identifier, as JSON that nobody may keep', async () => {
    const { status, headers, json } = await gateway.read('feature-configs?cluster=1');
    expect(status).toBe(200);
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8');
    expect(headers.get('cache-control')).toBe('no-cache');
    const flags = json() as Flag[];
    expect(flags.map(({ feature }) => feature)).toEqual(['a', 'b', ...ODD].toSorted());
    expect(flags.find(({ feature }) => feature === 'a')).toEqual(aFlag('a', 3));
  });

  it('gives a flag alone with the bytes that the list has', async () => {
    const { status, text, headers } = await gateway.read('feature-configs/a');
    expect(status).toBe(200);
    expect(headers.get('cache-control')).toBe('no-cache');
    expect((await gateway.read('feature-configs')).text).toContain(text);
    expect(text).toBe(JSON.stringify(aFlag('a', 3)));
  });

  it('gives an empty list of an environment that has nothing', async () => {
    expect((await gateway.read('target-segments', PROD_KEY)).text).toBe('[]');
  });

  it('gives target groups, by identifier, with serving rules to those who ask for them', async () => {
    const { json } = await gateway.read('target-segments?cluster=1&rules=v2');
    const groups = json() as Segment[];
    expect(groups.map(({ identifier }) => identifier)).toEqual(['alpha', 'beta', ...ODD].toSorted());
    const beta = groups.find(({ identifier }) => identifier === 'beta');
    expect(beta).toMatchObject({ servingRules: andRules });
    expect(beta).not.toHaveProperty('rules');
    const alone = await gateway.read('target-segments/beta?rules=v2');
    expect(alone.json()).toEqual(beta);
  });

  it.each(['target-segments', 'target-segments?rules=v1'])(
    'gives %s with the rules that decide alone',
    async (path) => {
      const groups = (await gateway.read(path)).json() as Segment[];
      const beta = groups.find(({ identifier }) => identifier === 'beta');
      expect(beta).toMatchObject({ rules: [equal('c')] });
      expect(beta).not.toHaveProperty('servingRules');
      expect((await gateway.read('target-segments/beta')).json()).toEqual(beta);
    },
  );

  it('gives nobody serving rules where that is not wanted, and widens no group', async () => {
    const facts = [
      segment('beta', { servingRules: andRules }),
      segment('both', { servingRules: andRules.slice(0, 1) }),
    ];
    const { read } = await start(facts, { AND_RULES: 'false' });
    const groups = (await read('target-segments?rules=v2')).json() as Segment[];
    expect(groups.map(({ identifier, rules, servingRules }) => [identifier, rules, servingRules])).toEqual([
      ['beta', [equal('c')], undefined],
      ['both', [], undefined],
    ]);
    expect((await read('target-segments/both?rules=v2')).json()).toEqual(groups[1]);
  });

  it('takes ; for & in queries, and parameters that it does not know', async () => {
    const { json } = await gateway.read('target-segments/beta?cluster=undefined;rules=v2;stream=%2A');
    expect(json()).toHaveProperty('servingRules');
  });

  it.each(ODD)('finds %j', async (identifier) => {
    const path = encodeURIComponent(identifier).replace(/^\.\.$/, '%2E%2E');
    const wire = new Wire(gateway.port);
    wire.send('GET', `/client/env/${DEV}/feature-configs/${path}`, {
      ...(await gateway.bearer()),
      connection: 'close',
    });
    await wire.closed;
    expect(wire.head).toMatch(/^http\/1.1 200 /);
    expect(JSON.parse(Buffer.from(wire.body, 'latin1').toString())).toEqual(aFlag(identifier));
    expect((await gateway.read(`target-segments/${path === '%2E%2E' ? 'beta' : path}`)).status).toBe(200);
  });

  it.each([
    'feature-configs/none',
    'feature-configs/c',
    'target-segments/none',
    'feature-configs/only-in-prod',
  ])('answers %s, which is not there, 404 at once', async (path) => {
    const { status, json } = await gateway.read(path);
    expect(status).toBe(404);
    expect(json()).toEqual(anError(404, expect.stringMatching(/^not found: (flag|target group) /)));
  });

  it('answers HEAD as GET, without a body', async () => {
    const { status, headers, text } = await gateway.call(
      'HEAD',
      `/client/env/${DEV}/feature-configs`,
      await gateway.bearer(),
    );
    expect(status).toBe(200);
    expect(text).toBe('');
    const list = await gateway.read('feature-configs');
    for (const name of ['content-length', 'content-encoding', 'etag']) {
      expect(headers.get(name)).toBe(list.headers.get(name));
    }
    expect(Number(headers.get('content-length'))).toBeGreaterThan(0);
  });

  it('takes headers of 300 KB', async () => {
    const headers = { ...(await gateway.bearer()), 'Harness-Target': 'x'.repeat(300 * 1024) };
    expect((await gateway.call('GET', `/client/env/${DEV}/feature-configs`, headers)).status).toBe(200);
  });

  describe('in an encoding', () => {
    const get = async (path: string, headers: Record<string, string>) => {
      const wire = new Wire(gateway.port);
      wire.send('GET', `/client/env/${DEV}/${path}`, {
        ...(await gateway.bearer()),
        connection: 'close',
        ...headers,
      });
      await wire.closed;
      const header = (name: string) => new RegExp(`\r\n${name}: ([^\r]*)`, 'i').exec(wire.text)?.[1];
      const body = Buffer.from(wire.body, 'latin1');
      return { status: Number(wire.head.slice(9, 12)), header, body };
    };

    it.each<[string, string | undefined]>([
      ['', undefined],
      ['gzip, deflate', 'gzip'],
      ['gzip, deflate, br', 'br'],
      ['GZIP;q=1.0, br;q=0.5', 'gzip'],
      ['br;q=0, gzip;q=0', undefined],
      ['*', 'br'],
      ['*, br;q=0', 'gzip'],
      ['identity, gzip;q=0.5', undefined],
      ['identity;q=0.5, gzip', 'gzip'],
      ['deflate', undefined],
      ['gzip;q=much', undefined],
    ])('that suits Accept-Encoding %j it is %s', async (accepted, encoding) => {
      const headers: Record<string, string> = accepted ? { 'accept-encoding': accepted } : {};
      const { header, body } = await get('feature-configs', headers);
      const decode =
        { gzip: gunzipSync, br: brotliDecompressSync }[encoding ?? ''] ?? ((same: Buffer) => same);
      expect(header('content-encoding')).toBe(encoding);
      expect(header('content-length')).toBe(String(body.length));
      expect(header('vary')).toBe('Accept-Encoding');
      expect(decode(body).toString()).toBe((await gateway.read('feature-configs')).text);
    });

    it('is not compressed where that is not worth it', async () => {
      const { header, body } = await get('feature-configs/a', { 'accept-encoding': 'gzip, br' });
      expect(header('content-encoding')).toBeUndefined();
      expect(JSON.parse(body.toString())).toEqual(aFlag('a', 3));
    });

    it('has a tag of its own, and whoever holds any of them is told so', async () => {
      const encodings = ['', 'gzip', 'br'];
      const tags = new Set<string>();
      for (const encoding of encodings) {
        const { header } = await get('feature-configs', { 'accept-encoding': encoding });
        tags.add(header('etag') ?? '');
      }
      expect(tags.size).toBe(3);
      for (const tag of tags) {
        for (const held of [tag, `W/${tag}`, `"other", ${tag}`]) {
          for (const encoding of encodings) {
            const { status, header, body } = await get('feature-configs', {
              'accept-encoding': encoding,
              'if-none-match': held,
            });
            expect([status, header('etag'), body.length]).toEqual([304, tag, 0]);
            expect(header('ff-position')).toMatch(/:\d+$/);
          }
        }
      }
    });
  });

  it('is answered 304 for If-None-Match of any content, and 200 for that of another', async () => {
    const read = async (held: string, path: string) =>
      gateway.call('GET', `/client/env/${DEV}/${path}`, {
        ...(await gateway.bearer()),
        'if-none-match': held,
      });
    const tag = (await gateway.read('feature-configs/a')).headers.get('etag') ?? '';
    expect(tag).toMatch(/^"[\w-]+"$/);
    expect((await read('*', 'feature-configs')).status).toBe(304);
    expect((await read(tag, 'feature-configs/a')).status).toBe(304);
    for (const [held, path] of [
      [tag, 'feature-configs/b'],
      [tag, 'feature-configs'],
      [tag.slice(1, -1), 'feature-configs/a'],
      ['"', 'feature-configs/a'],
      ['', 'feature-configs/a'],
    ] as const) {
      expect([held, (await read(held, path)).status]).toEqual([held, 200]);
    }
    expect((await read('*', 'feature-configs/none')).status).toBe(404);
  });

  it('says at which position of the log it is', async () => {
    const { epoch, sequence } = await gateway.upstream.log.head('FF_FACTS');
    for (const path of ['feature-configs', 'feature-configs/a', 'target-segments', 'target-segments/beta']) {
      expect((await gateway.read(path)).headers.get('ff-position')).toBe(`${epoch}:${sequence}`);
    }
  });

  it('of an environment by a token of another is refused with 401', async () => {
    for (const path of ['feature-configs', 'feature-configs/a', 'target-segments', 'target-segments/beta']) {
      const { status, json } = await gateway.read(path, PROD_KEY, DEV);
      expect(status).toBe(401);
      expect(json()).toEqual(anError(401, `Environment ID [${PROD}] mismatch with requested ${DEV}`));
    }
  });

  describe('with a token', () => {
    const now = () => Math.floor(Date.now() / 1000);
    const good = () => ({
      apiKey: `auth-key-${sha256(DEV_KEY)}`,
      environment: DEV,
      clusterIdentifier: '1',
      iat: now(),
      nbf: now(),
    });
    const readWith = async (authorization: string | undefined, path = `/client/env/${DEV}/feature-configs`) =>
      gateway.call('GET', path, authorization === undefined ? {} : { authorization });

    it('of another gateway with the same secret is allowed', async () => {
      expect((await readWith(`Bearer ${token(good())}`)).status).toBe(200);
      expect((await readWith(`bearer ${token(good())}`)).status).toBe(200);
    });

    it('of a gateway whose clock is two minutes ahead is allowed', async () => {
      const ahead = { iat: now() + 120, nbf: now() + 120 };
      expect((await readWith(`Bearer ${token({ ...good(), ...ahead })}`)).status).toBe(200);
    });

    it('that is years old is allowed', async () => {
      expect(
        (await readWith(`Bearer ${token({ ...good(), iat: 1_500_000_000, nbf: 1_500_000_000 })}`)).status,
      ).toBe(200);
    });

    it.each<[string, () => string | undefined]>([
      ['that is missing', () => undefined],
      ['that is empty', () => 'Bearer '],
      ['of another scheme', () => `Basic ${token(good())}`],
      ['that is garbled', () => 'Bearer abc.def.ghi'],
      ['whose claims are no JSON', () => `Bearer ${unsigned(JWT, 'not JSON')}`],
      [
        'with a changed claim',
        () => `Bearer ${token(good()).replace(/\..*\./, `.${part({ ...good(), x: 1 })}.`)}`,
      ],
      ['that somebody else signed', () => `Bearer ${token(good(), { secret: 'b'.repeat(32) })}`],
      ['that nobody signed', () => `Bearer ${token(good(), { alg: 'none' })}`],
      ['of another algorithm', () => `Bearer ${token(good(), { alg: 'HS512' })}`],
      ['without a key', () => `Bearer ${token({ ...good(), apiKey: undefined })}`],
      ['without an environment', () => `Bearer ${token({ ...good(), environment: undefined })}`],
      [
        'of a key that does not exist',
        () => `Bearer ${token({ ...good(), apiKey: `auth-key-${sha256('x')}` })}`,
      ],
      [
        'of a key of another environment',
        () => `Bearer ${token({ ...good(), apiKey: `auth-key-${sha256(PROD_KEY)}` })}`,
      ],
      ['of an environment that does not exist', () => `Bearer ${token({ ...good(), environment: 'none' })}`],
      ['that is no object', () => `Bearer ${token(['x'])}`],
    ])('%s is refused with 401', async (_, authorization) => {
      for (const path of [`/client/env/${DEV}/feature-configs`, '/stream']) {
        const { status, json } = await readWith(authorization(), path);
        expect(status).toBe(401);
        expect(json()).toEqual(anError(401));
      }
    });
  });
});

describe('The SDK port', () => {
  let gateway: Gateway;
  beforeAll(async () => {
    gateway = await start([flag('a')]);
  });
  afterAll(cleanUp);
  const flagsPath = `/client/env/${DEV}/feature-configs`;

  it.each<[string, string, string]>([
    ['GET', '/client/auth', 'POST, OPTIONS'],
    ['DELETE', flagsPath, 'GET, HEAD, OPTIONS'],
    ['POST', `${flagsPath}/a`, 'GET, HEAD, OPTIONS'],
    ['PUT', `/client/env/${DEV}/target-segments`, 'GET, HEAD, OPTIONS'],
    ['POST', '/stream', 'GET, HEAD, OPTIONS'],
    ['POST', '/health', 'GET, HEAD, OPTIONS'],
    ['GET', `/metrics/${DEV}`, 'POST, OPTIONS'],
  ])('answers %s %s with 405 and what is allowed', async (method, path, allow) => {
    const { status, headers, json } = await gateway.call(method, path);
    expect(status).toBe(405);
    expect(headers.get('allow')).toBe(allow);
    expect(json()).toEqual(anError(405));
  });

  it.each(['/', '/nothing/here', '/client', `/client/env/${DEV}`, `${flagsPath}/a/b`])(
    'answers 404 for %s, which is no route',
    async (path) => {
      const { status, json } = await gateway.call('GET', path);
      expect(status).toBe(404);
      expect(json()).toEqual(anError(404));
    },
  );

  it('answers 400 for a path that cannot be decoded, in the same form', async () => {
    const { status, json, headers } = await gateway.call('GET', `${flagsPath}/%zz`);
    expect(status).toBe(400);
    expect(json()).toEqual(anError(400));
    expect(headers.get('access-control-allow-origin')).toBe('*');
  });

  it('answers 400 to HTTP/1.1 without Host, in the same form, and takes HTTP/1.0 without', async () => {
    const asked = async (version: string) => {
      const wire = new Wire(gateway.port);
      wire.socket.write(`GET /health HTTP/${version}\r\nx-request-id: r-1\r\nconnection: close\r\n\r\n`);
      await wire.closed;
      return wire;
    };
    const { head, body } = await asked('1.1');
    expect(head).toMatch(/^http\/1.1 400 /);
    expect(head.split('\r\n')).toEqual(
      expect.arrayContaining(['access-control-allow-origin: *', 'x-request-id: r-1']),
    );
    expect(JSON.parse(body)).toEqual(anError(400, expect.stringContaining('Host')));
    expect((await asked('1.0')).head).toMatch(/^http\/1.1 200 /);
  });

  it.each(['/client/auth', flagsPath, `${flagsPath}/a`, '/stream', `/metrics/${DEV}`, '/health'])(
    'lets browsers call %s with the headers that SDKs send',
    async (path) => {
      const asked =
        'authorization,api-key,cache-control,content-type,harness-sdk-info,harness-accountid,harness-environmentid,harness-target';
      const { status, headers } = await gateway.call('OPTIONS', path, {
        origin: 'https://app.example',
        'access-control-request-method': 'GET',
        'access-control-request-headers': asked,
      });
      expect(status).toBe(204);
      expect(headers.get('access-control-allow-origin')).toBe('*');
      const allowed = headers.get('access-control-allow-headers')?.toLowerCase().split(/, */);
      expect(allowed).toEqual(expect.arrayContaining(asked.split(',')));
      const methods = headers.get('access-control-allow-methods')?.split(/, */);
      expect(methods).toEqual(expect.arrayContaining(['GET', 'POST', 'OPTIONS']));
    },
  );

  it('answers an OPTIONS request that is no preflight', async () => {
    expect((await gateway.call('OPTIONS', flagsPath)).status).toBe(204);
  });

  it('lets scripts in browsers read the tag, the age and the position', async () => {
    const { headers } = await gateway.call('GET', flagsPath, await gateway.bearer());
    const exposed = headers.get('access-control-expose-headers')?.split(/, */);
    expect(exposed).toEqual(expect.arrayContaining(['etag', 'ff-data-age', 'ff-position']));
  });

  it.each<[number, string, string, string | undefined]>([
    [200, 'GET', '/health', undefined],
    [400, 'POST', '/client/auth', '{'],
    [401, 'POST', '/client/auth', '{"apiKey":"x"}'],
    [401, 'GET', flagsPath, undefined],
    [401, 'GET', '/stream', undefined],
    [404, 'GET', '/none', undefined],
    [405, 'PUT', '/stream', undefined],
    [413, 'POST', '/client/auth', 'x'.repeat(600 * 1024)],
  ])('lets browsers see a %d, and names the request', async (status, method, path, body) => {
    const answer = await gateway.call(
      method,
      path,
      { origin: 'https://a.example', 'x-request-id': 'r-1' },
      body,
    );
    expect(answer.status).toBe(status);
    expect(answer.headers.get('access-control-allow-origin')).toBe('*');
    expect(answer.headers.get('x-request-id')).toBe('r-1');
  });

  it.each<[string, Record<string, string>]>([
    ['it has none', {}],
    ['its own is long', { 'x-request-id': 'x'.repeat(201) }],
    ['its own is odd', { 'x-request-id': 'ü' }],
  ])('gives a request a name if %s', async (_, sent) => {
    const { headers } = await gateway.call('GET', '/health', sent);
    expect(headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('tells its health in the words of the Go relay', async () => {
    const { status, json } = await gateway.call('GET', '/health');
    expect(status).toBe(200);
    expect(json()).toEqual({
      configStatus: { state: 'FAILED_TO_SYNC', since: expect.any(Number) },
      streamStatus: { state: 'INITIALIZING', since: expect.any(Number) },
      cacheStatus: 'healthy',
    });
  });
});

describe('Counts of SDKs', () => {
  let gateway: Gateway;
  beforeAll(async () => (gateway = await start()));
  afterAll(cleanUp);

  const reported = (...flags: string[]) => ({
    targetData: [{ identifier: 'anna', name: 'Anna', attributes: [] }],
    metricsData: flags.map((value) => ({
      timestamp: 1,
      count: 2,
      metricsType: 'FFMETRICS',
      attributes: [
        { key: 'featureIdentifier', value },
        { key: 'target', value: null },
      ],
    })),
  });
  const post = (body: string | Buffer, headers: Record<string, string>, path = `/metrics/${DEV}?cluster=1`) =>
    gateway.call('POST', path, headers, body);
  /** What is in the log, read to the end and acknowledged. */
  const inTheLog = async () => {
    const reports: MetricsReport[] = [];
    const stop = new AbortController();
    const { log } = gateway.upstream;
    for (let { messages: left } = await log.backlog(); left > 0;) {
      for await (const taken of log.take(stop.signal)) {
        reports.push(reportIn(taken.body).report);
        await taken.done();
        if (--left === 0) break;
      }
    }
    stop.abort();
    return reports;
  };

  it.each(['application/json', 'application/json; charset=utf-8', 'text/plain', ''])(
    'are in the log when they are answered, sent as %j',
    async (type) => {
      const headers = { ...(await gateway.bearer()), ...(type && { 'content-type': type }) };
      const { status, text, headers: answered } = await post(JSON.stringify(reported('a', 'b')), headers);
      expect([status, text]).toEqual([200, 'null']);
      expect(answered.get('content-type')).toBe('application/json; charset=utf-8');
      const reports = await inTheLog();
      expect(reports.every(({ environment }) => environment === DEV)).toBe(true);
      expect(reports.flatMap(({ counts }) => counts)).toMatchObject([
        { count: 2, attributes: { featureIdentifier: 'a', target: '' } },
        { count: 2, attributes: { featureIdentifier: 'b', target: '' } },
      ]);
      expect(reports.flatMap(({ targets }) => targets)).toMatchObject([{ identifier: 'anna' }]);
    },
  );

  it('of 9 MB are taken', async () => {
    const flags = Array.from({ length: 50_000 }, (_, i) => `flag-${i}-${'x'.repeat(60)}`);
    const body = JSON.stringify(reported(...flags));
    expect(body.length).toBeGreaterThan(9_000_000);
    expect((await post(body, await gateway.bearer(), `//metrics/${DEV}`)).status).toBe(200);
    expect((await inTheLog()).flatMap(({ counts }) => counts)).toHaveLength(50_000);
  });

  it.each<[string, string]>([
    ['cannot be read', '{"metricsData":'],
    ['are none', '{"metricsData":"x"}'],
    ['are of 40 MB', JSON.stringify({ metricsData: 'x'.repeat(40_000_000) })],
  ])('that %s are refused with the 400 after which SDKs let them go', async (_, body) => {
    const { status, json } = await post(body, await gateway.bearer());
    expect(status).toBe(400);
    expect(json()).toEqual(anError(400));
  });

  it.each(['{}', 'x'.repeat(1_000_000)])('of strangers are refused with 401, unread', async (body) => {
    expect((await post(body, {})).status).toBe(401);
    expect((await post(body, await gateway.bearer(PROD_KEY))).status).toBe(401);
  });

  it('that never come to an end are let go with their sender', async () => {
    const { authorization } = await gateway.bearer();
    const wire = new Wire(gateway.port);
    wire.send('POST', `/metrics/${DEV}`, { authorization, 'content-length': '1000' });
    wire.socket.write('{"metricsData":[');
    wire.socket.destroy();
    await wire.closed;
    expect((await post(JSON.stringify(reported('a')), { authorization })).status).toBe(200);
    await inTheLog();
  });
});

describe('A gateway that starts', () => {
  afterEach(cleanUp);

  it('opens its port only when the whole account is there', async () => {
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    await new Promise((done) => probe.close(done));

    const { upstream, serving } = await startEmpty({ PORT: String(port) });
    let isServing = false;
    void serving.then(() => (isServing = true));
    await upstream.happens(...ACCOUNT, flag('a'));
    const socket = connect(port, '127.0.0.1');
    const [refusal] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
    expect(refusal.code).toBe('ECONNREFUSED');
    expect(isServing).toBe(false);

    await upstream.append(snapshot);
    await serving;
    const response = await fetch(`http://127.0.0.1:${port}/client/auth`, {
      method: 'POST',
      body: JSON.stringify({ apiKey: DEV_KEY }),
    });
    expect(response.status).toBe(200);
  });
});

describe('A stream', () => {
  afterEach(cleanUp);

  it('opens with an empty comment in a chunk of its own, and says what SDKs look at', async () => {
    const { stream } = await start();
    const wire = await stream(DEV_KEY, { 'x-request-id': 'r-1', origin: 'https://a.example' });
    expect(wire.body).toBe('3\r\n:\n\n\r\n');
    expect(wire.head).toMatch(/^http\/1\.1 200 /);
    for (const header of [
      'content-type: text/event-stream',
      'cache-control: no-cache',
      'transfer-encoding: chunked',
      'connection: close',
      'access-control-allow-origin: *',
      'x-request-id: r-1',
    ]) {
      expect(wire.head.split('\r\n')).toContain(header);
    }
  });

  it('carries each event as one chunk, byte for byte', async () => {
    const { stream, upstream } = await start();
    const wire = await stream();
    await upstream.happens(flag('ünï "code"\n', 7), segment('beta', { version: 3 }));
    await wire.until('"beta"');
    await upstream.happens(noFlag('ünï "code"\n', 8));
    await wire.until('"delete"');
    const name = Buffer.from(JSON.stringify('ünï "code"\n')).toString('latin1');
    const ids = wire.events.map(({ id }) => id);
    const event = (event: string, domain: string, identifier: string, version: number) =>
      `event: *\nid: ${ids.shift()}\ndata: {"event":"${event}","domain":"${domain}","identifier":${identifier},"version":${version},"environment":"${DEV}"}\n\n`;
    expect(wire.chunks).toEqual([
      ':\n\n',
      event('create', 'flag', name, 7),
      event('create', 'target-segment', '"beta"', 3),
      event('delete', 'flag', name, 8),
    ]);
    expect(new Set(wire.events.map(({ id }) => id)).size).toBe(3);
  });

  it.each(['gzip', 'gzip, deflate, br', '*'])(
    'is not compressed for those who accept %s',
    async (encoding) => {
      const { stream, upstream } = await start();
      const wire = await stream(DEV_KEY, { 'accept-encoding': encoding });
      await upstream.happens(flag('a'));
      await wire.until('"identifier":"a"');
      expect(wire.head).not.toContain('content-encoding');
    },
  );

  it('beats in a chunk of its own', async () => {
    jest.useFakeTimers({ doNotFake: timersBut('setInterval', 'clearInterval') });
    cleanUps.push(() => jest.useRealTimers());
    const { stream, upstream } = await start();
    const wire = await stream();
    jest.advanceTimersByTime(10_000);
    await upstream.happens(flag('a'));
    await wire.until('"identifier":"a"');
    expect(wire.chunks).toEqual([':\n\n', ':\n\n', expect.stringMatching(/^event: /)]);
  });

  it('comes unchunked to a client of HTTP/1.0', async () => {
    const { port, bearer, upstream } = await start();
    const wire = new Wire(port);
    wire.send('GET', '/stream', { ...(await bearer()), 'API-Key': DEV_KEY }, '1.0');
    await wire.until(':\n\n');
    await upstream.happens(flag('a'));
    await wire.until('"identifier":"a"');
    expect(wire.head).not.toContain('transfer-encoding');
    expect(wire.body).toMatch(/^:\n\nevent: \*\nid: \S+\ndata: \{.*\}\n\n$/);
  });

  it('needs the key once more, of the same environment', async () => {
    const { call, bearer } = await start();
    const dev = await bearer();
    const refusals = [
      [400, dev],
      [400, { ...dev, 'API-Key': '' }],
      [401, { ...dev, 'API-Key': PROD_KEY }],
      [401, { ...dev, 'API-Key': 'no such key' }],
      [401, { 'API-Key': DEV_KEY }],
    ] as const;
    for (const [status, headers] of refusals) {
      const answer = await call('GET', '/stream?cluster=1', headers);
      expect(answer.status).toBe(status);
      expect(answer.json()).toEqual(anError(status));
    }
  });

  it('answers HEAD with its headers alone', async () => {
    const { port, bearer, upstream } = await start();
    const wire = new Wire(port);
    wire.send('HEAD', '/stream', { ...(await bearer()), 'API-Key': DEV_KEY });
    await wire.closed;
    await upstream.happens(flag('a'));
    expect(wire.head).toContain('content-type: text/event-stream');
    expect(wire.body).toBe('');
  });

  it('is gone when its reader is, and so is one that was asked for behind it on the same connection', async () => {
    const { port, bearer, hub } = await start();
    const headers = { ...(await bearer()), 'API-Key': DEV_KEY };
    const wire = new Wire(port);
    wire.send('GET', '/stream', headers);
    wire.send('GET', '/stream', headers);
    await wire.until(':\n\n');
    expect(hub.openStreams).toBe(1);
    wire.socket.destroy();
    await until(() => hub.openStreams === 0);
  });

  it('tells of flags and target groups, and of nothing else', async () => {
    const { stream, upstream } = await start();
    const wire = await stream();
    await upstream.happens(keyAdded('another', DEV), keyRemoved('another', DEV), flag('a'));
    await wire.until('"identifier":"a"');
    expect(wire.events).toHaveLength(1);
  });

  it('carries every change of its environment in order, beside many others', async () => {
    const { stream, upstream } = await start();
    const wires = await Promise.all(Array.from({ length: 25 }, () => stream()));
    const versions = Array.from({ length: 100 }, (_, i) => i + 1);
    await upstream.happens(
      ...versions.flatMap((version) => [flag('a', version), flag('b', version)]),
      flag('end'),
    );
    for (const wire of wires) {
      await wire.until('"identifier":"end"');
      expect(wire.events.map(({ identifier, version }) => `${identifier} ${version}`)).toEqual([
        ...versions.flatMap((version) => [`a ${version}`, `b ${version}`]),
        'end 1',
      ]);
    }
  });

  it('never carries a change of another environment (P10)', async () => {
    const { stream, upstream } = await start();
    const [dev, prod] = [await stream(DEV_KEY), await stream(PROD_KEY)];
    await upstream.happens(flag('a', 1, PROD), flag('b', 1, DEV), flag('c', 1, PROD), flag('end', 1, DEV));
    await upstream.happens(flag('end', 1, PROD));
    await dev.until('"identifier":"end"');
    await prod.until('"identifier":"end"');
    expect(dev.events.map(({ identifier }) => identifier)).toEqual(['b', 'end']);
    expect(prod.events.map(({ identifier }) => identifier)).toEqual(['a', 'c', 'end']);
  });

  it('tells only what can be read at once (P3)', async () => {
    const { stream, upstream, bearer, call } = await start();
    const wire = await stream();
    const authorization = await bearer();
    const published = upstream.happens(...Array.from({ length: 200 }, (_, i) => flag('a', i + 1)));
    for (let told = 0; told < 200; told = wire.events.at(-1)?.version ?? 0) {
      await wire.until(`"version":${told + 1},`);
      const newest = wire.events.at(-1)?.version ?? 0;
      const { json } = await call('GET', `/client/env/${DEV}/feature-configs/a`, authorization);
      expect((json() as Flag).version).toBeGreaterThanOrEqual(newest);
    }
    await published;
  });

  it('waits with a notice that comes before its fact', async () => {
    const { stream, upstream, read, views } = await start([flag('a', 1)]);
    const wire = await stream();
    const { promise: waited, resolve: wait } = Promise.withResolvers<void>();
    const caughtUp = views.caughtUp.bind(views);
    views.caughtUp = (position) => {
      if (position.sequence === of.sequence) wait();
      return caughtUp(position);
    };
    const head = await upstream.log.head('FF_FACTS');
    const of = { ...head, sequence: head.sequence + 1 };
    await upstream.tell({ event: 'patch', kind: 'flag', environment: DEV, identifier: 'a', version: 2 }, of);
    await waited;
    expect((await read('feature-configs/a')).json()).toMatchObject({ version: 1 });
    expect(wire.events).toEqual([]);
    await upstream.append(flag('a', 2));
    await wire.until('"version":2');
    expect((await read('feature-configs/a')).json()).toMatchObject({ version: 2 });
  });

  it('does not tell of a flag or target group that is gone by now, but that it is gone', async () => {
    const { stream, upstream } = await start();
    const wire = await stream();
    const group = (event: Notice['event']): Notice => ({
      event,
      kind: 'segment',
      environment: DEV,
      identifier: 'g',
      version: 1,
    });
    const facts = [flag('a'), noFlag('a', 2), segment('g')];
    const positions = await Promise.all(facts.map((fact) => upstream.append(fact)));
    const gone = await upstream.append({
      type: 'SegmentRemoved',
      environment: DEV,
      identifier: 'g',
      version: 1,
    });
    const notice = (event: Notice['event'], version: number): Notice => ({
      event,
      kind: 'flag',
      environment: DEV,
      identifier: 'a',
      version,
    });
    await upstream.tell(notice('create', 1), { ...gone });
    await upstream.tell(notice('delete', 2), { ...gone });
    await upstream.tell(group('create'), { ...gone });
    await upstream.tell(group('delete'), { ...gone });
    await wire.until('"identifier":"g"');
    expect(positions).toHaveLength(3);
    expect(wire.events.map(({ event, identifier }) => `${event} ${identifier}`)).toEqual([
      'delete a',
      'delete g',
    ]);
  });

  it('goes on after a notice that cannot be read', async () => {
    const { stream, upstream } = await start();
    const wire = await stream();
    await upstream.log.append('FF_CHANGES', {
      subject: 'ff.changes.v1.x.flag.y',
      id: 'bad',
      body: 'not JSON',
    });
    await upstream.happens(flag('a'));
    await wire.until('"identifier":"a"');
    expect(wire.events).toHaveLength(1);
  });

  it('goes on after a fact that cannot be read', async () => {
    const { stream, upstream, read } = await start();
    const wire = await stream();
    await upstream.log.append('FF_FACTS', { subject: 'ff.facts.v1.x.flag.y', id: 'bad', body: 'not JSON' });
    await upstream.happens(flag('a'));
    await wire.until('"identifier":"a"');
    expect((await read('feature-configs/a')).status).toBe(200);
  });

  it('that nobody reads is let go once too much waits for it, and others notice nothing', async () => {
    const { stream, upstream, serverSide, call } = await start();
    const [reader, sleeper] = [await stream(), await stream()];
    sleeper.socket.pause();
    const head = await upstream.log.head('FF_FACTS');
    const identifier = 'x'.repeat(1000);
    let version = 0;
    while (!serverSide(sleeper)?.destroyed) {
      const notices = Array.from({ length: 300 }, () => ++version);
      await Promise.all(
        notices.map((version) =>
          upstream.tell({ event: 'delete', kind: 'flag', environment: DEV, identifier, version }, head),
        ),
      );
      await reader.until(`"version":${version},`);
    }
    sleeper.socket.resume();
    await sleeper.closed;
    expect(sleeper.text).not.toContain(`"version":${version},`);
    expect(reader.events.map(({ version }) => version)).toEqual(
      Array.from({ length: version }, (_, i) => i + 1),
    );
    expect((await call('GET', '/metrics')).text).toContain('let_go_total{reason="slow"} 1\n');
  });

  it('is not let go for what it missed, however much that is, and however slowly it reads', async () => {
    const names = Array.from({ length: 600 }, (_, i) => `${i}-${'x'.repeat(10_000)}`);
    const { stream, upstream, serverSide } = await start(names.map((name) => flag(name)));
    const wire = await stream(DEV_KEY, { 'Last-Event-ID': 'ABCDEFGH.1' });
    wire.socket.pause();
    await until(() => (serverSide(wire)?.writableLength ?? 0) > 1024 * 1024);
    await upstream.happens(flag('one-more'));
    expect(serverSide(wire)?.destroyed).toBe(false);
    wire.socket.resume();
    await wire.until('"identifier":"one-more"');
    const heard = new Set(wire.events.map(({ identifier }) => identifier));
    expect(names.filter((name) => !heard.has(name))).toEqual([]);
  });
});

describe('The age of what is served', () => {
  afterEach(cleanUp);
  const statusOf = (app: NestFastifyApplication) => app.get(StatusBoard, { strict: false }).look()['gateway'];

  it('is told with each read once it is known, and changes no tag', async () => {
    const { app, read } = await start([flag('a')]);
    const before = await read('feature-configs');
    expect(before.headers.get('ff-data-age')).toBeNull();
    app.get(UpstreamStatus, { strict: false }).agreed();
    const after = await read('feature-configs');
    expect(Number(after.headers.get('ff-data-age') ?? Number.NaN)).toBeGreaterThanOrEqual(0);
    expect(after.headers.get('etag')).toBe(before.headers.get('etag'));
  });

  it('makes the gateway unready when it is above MAX_DATA_AGE, and reads go on', async () => {
    const { app, read } = await start([flag('a')], { MAX_DATA_AGE: '600' });
    const upstream = app.get(UpstreamStatus, { strict: false });
    expect(statusOf(app)).toMatchObject({
      ready: false,
      notReadyBecause: expect.stringContaining('nobody knows when'),
    });
    upstream.agreed();
    expect(statusOf(app)).toMatchObject({ ready: true });
    const now = Date.now();
    upstream.adopt({ ...upstream.snapshot(), lastAgreedMs: now - 700_000, at: now });
    expect(statusOf(app)).toMatchObject({
      ready: false,
      notReadyBecause: expect.stringMatching(/last agreed 70\d s ago, and MAX_DATA_AGE is 600 s/),
    });
    const { status, headers } = await read('feature-configs');
    expect([status, headers.get('ff-data-age')]).toEqual([200, expect.stringMatching(/^70\d$/)]);
    upstream.agreed();
    expect(statusOf(app)).toMatchObject({ ready: true });
  });

  it('does not matter without MAX_DATA_AGE', async () => {
    const { app } = await start();
    expect(statusOf(app)).toMatchObject({ ready: true });
    expect(statusOf(app)).not.toHaveProperty('bypassAuth');
  });
});

describe('A gateway with former secrets', () => {
  afterEach(cleanUp);

  it('takes tokens that were signed with one, and signs none with it', async () => {
    const { call, signIn } = await start([flag('a')], { AUTH_SECRET_PREVIOUS: `secret,${'o'.repeat(32)}` });
    const claims = { apiKey: `auth-key-${sha256(DEV_KEY)}`, environment: DEV };
    const statusWith = async (secret: string) =>
      (
        await call('GET', `/client/env/${DEV}/feature-configs`, {
          authorization: `Bearer ${token(claims, { secret })}`,
        })
      ).status;
    expect(await statusWith('secret')).toBe(200);
    expect(await statusWith('o'.repeat(32))).toBe(200);
    expect(await statusWith('other')).toBe(401);
    const issued = await signIn();
    expect(issued).toBe(token(claimsOf(issued)));
  });
});

describe('A gateway with BYPASS_AUTH', () => {
  afterEach(cleanUp);
  const bypassing = () => start([flag('a'), flag('b', 1, PROD)], { BYPASS_AUTH: 'true' });

  it('warns of it when it starts', async () => {
    const said = jest.spyOn(process.stdout, 'write').mockReturnValue(true);
    cleanUps.push(() => said.mockRestore());
    const warnings = () => said.mock.calls.filter(([text]) => String(text).includes('BYPASS_AUTH is on'));
    await start([], { LOG_LEVEL: 'WARN' });
    expect(warnings()).toHaveLength(0);
    await start([], { LOG_LEVEL: 'WARN', BYPASS_AUTH: 'true' });
    expect(warnings()).toHaveLength(1);
  });

  it('gives every environment that it knows to everybody, and says so', async () => {
    const { app, call, bearer, url } = await bypassing();
    for (const headers of [
      {},
      { authorization: 'Bearer x' },
      await bearer(DEV_KEY),
      await bearer(PROD_KEY),
    ]) {
      const answer = await call('GET', `/client/env/${DEV}/feature-configs`, headers);
      expect([answer.status, answer.json()]).toEqual([200, [aFlag('a')]]);
      expect((await call('GET', `/client/env/${PROD}/feature-configs/b`, headers)).status).toBe(200);
      expect((await call('POST', `/metrics/${DEV}`, headers, '{}')).status).toBe(200);
    }
    expect((await call('GET', '/client/env/none/feature-configs')).status).toBe(404);
    expect((await fetch(`${url}/client/env/${DEV}/feature-configs/none`)).status).toBe(404);
    const status = app.get(StatusBoard, { strict: false }).look()['gateway'];
    expect(status).toMatchObject({ ready: true, bypassAuth: true });
  });

  it('still asks for a key that it knows at the sign-in, since it is the key that names the environment', async () => {
    const { call, signIn } = await bypassing();
    expect(claimsOf(await signIn())).toMatchObject({ environment: DEV });
    expect((await call('POST', '/client/auth', {}, '{"apiKey":"none"}')).status).toBe(401);
  });

  it('streams the environment of the API-Key, or else of the token, whoever wrote it', async () => {
    const { port, upstream, call, bearer } = await bypassing();
    const forged = `Bearer ${token({ apiKey: 'auth-key-x', environment: DEV }, { secret: 'x' })}`;
    const wires: Wire[] = [];
    for (const headers of [
      { 'API-Key': DEV_KEY },
      { 'API-Key': DEV_KEY, ...(await bearer(PROD_KEY)) },
      { authorization: forged },
    ] as Record<string, string>[]) {
      const wire = new Wire(port);
      wire.send('GET', '/stream', headers);
      await wire.until(':\n\n');
      wires.push(wire);
    }
    await upstream.happens(flag('c', 1, PROD), flag('d'));
    for (const wire of wires) {
      await wire.until('"identifier":"d"');
      expect(wire.events.map(({ identifier }) => identifier)).not.toContain('c');
    }
    expect((await call('GET', '/stream')).status).toBe(400);
    for (const bad of ['x', unsigned(JWT, 'not JSON')]) {
      expect((await call('GET', '/stream', { authorization: `Bearer ${bad}` })).status).toBe(400);
    }
    expect((await call('GET', '/stream', { 'API-Key': 'none' })).status).toBe(401);
  });

  it('ends every stream of an environment that is gone, by whatever it was opened', async () => {
    const { port, upstream } = await bypassing();
    const opened = async (headers: Record<string, string>) => {
      const wire = new Wire(port);
      wire.send('GET', '/stream', headers);
      await wire.until(':\n\n');
      return wire;
    };
    const forged = (environment: string) => ({
      authorization: `Bearer ${token({ apiKey: 'auth-key-x', environment }, { secret: 'x' })}`,
    });
    const wires = [await opened(forged(DEV)), await opened({ 'API-Key': DEV_KEY })];
    const other = await opened(forged(PROD));
    await upstream.happens(removed(DEV), flag('c', 1, PROD));
    await Promise.all(wires.map(({ closed }) => closed));
    for (const { body } of wires) expect(body.endsWith('0\r\n\r\n')).toBe(true);
    await other.until('"identifier":"c"');
  });
});

describe('The target of a sign-in', () => {
  afterEach(cleanUp);

  it('is remembered for the environment of its key, and that of a stranger is not', async () => {
    const { app, call } = await start();
    const remembered = app.get(RememberedTargets, { strict: false });
    const auth = async (apiKey: string, target?: object) =>
      (await call('POST', '/client/auth', {}, JSON.stringify({ apiKey, target }))).status;
    expect(await auth(DEV_KEY, { identifier: 'anna', name: null, attributes: { plan: 'pro' } })).toBe(200);
    expect(await auth('stranger', { identifier: 'mallory' })).toBe(401);
    expect(await auth(PROD_KEY)).toBe(200);
    expect(remembered.target(DEV, 'anna')).toEqual({
      identifier: 'anna',
      name: 'anna',
      attributes: { plan: 'pro' },
    });
    expect(remembered.target(PROD, 'anna')).toBeUndefined();
    expect(remembered.target(DEV, 'mallory')).toBeUndefined();
  });

  it('is remembered and forwarded with its attributes as they came, whatever they are called', async () => {
    const forwarded = Promise.withResolvers<string>();
    const upstream = createHttpServer((request, response) => {
      void request.toArray().then((chunks) => forwarded.resolve(String(Buffer.concat(chunks))));
      response.end('{}');
    }).listen(0, '127.0.0.1');
    cleanUps.push(() => upstream.close());
    await once(upstream, 'listening');
    const { port } = upstream.address() as AddressInfo;
    const { app, call } = await start([], {
      FORWARD_TARGETS: 'true',
      CLIENT_SERVICE: `http://127.0.0.1:${port}`,
    });
    const attributes = '{"__proto__":{"plan":"pro"},"constructor":1,"":[null]}';
    const target = `{"identifier":"anna","name":"Anna","attributes":${attributes}}`;
    const body = `{"apiKey":"${DEV_KEY}","target":${target}}`;
    expect((await call('POST', '/client/auth', {}, body)).status).toBe(200);
    const remembered = app.get(RememberedTargets, { strict: false }).target(DEV, 'anna');
    expect(JSON.stringify(remembered)).toBe(target);
    expect(await forwarded.promise).toBe(body);
    expect({}).not.toHaveProperty('plan');
  });

  it.each([
    ['as SDKs of .NET write it that have none', { identifier: '' }],
    ['with other fields', { identifier: '', name: 'x', attributes: { plan: 'pro' } }],
    ['without an identifier', {}],
    ['whose identifier is null', { identifier: null }],
  ])('%s is none: it is neither remembered nor forwarded', async (_, target) => {
    const { app, call } = await start([], {
      FORWARD_TARGETS: 'true',
      CLIENT_SERVICE: 'http://127.0.0.1:1',
    });
    const body = JSON.stringify({ apiKey: DEV_KEY, target });
    const { status, json } = await call('POST', '/client/auth', {}, body);
    expect(status).toBe(200);
    expect(json()).toEqual({ authToken: expect.any(String) });
    expect(app.get(RememberedTargets, { strict: false }).target(DEV, '')).toBeUndefined();
    expect(app.get(StatusBoard, { strict: false }).look()['gateway']).toMatchObject({
      targets: { forwarded: 0, waiting: 0, dropped: 0 },
    });
  });
});

describe('Whatever is asked', () => {
  const STATUSES = [200, 204, 304, 400, 401, 404, 405, 413, 414];
  let gateway: Gateway;
  let errors: jest.SpiedFunction<typeof process.stdout.write>;
  beforeAll(async () => {
    gateway = await start([flag('a'), segment('beta')]);
    errors = jest.spyOn(process.stderr, 'write');
  });
  afterAll(async () => {
    errors.mockRestore();
    await cleanUp();
  });

  /** Of use at every door, and too deep for whoever descends. */
  const nested = (depth: number) => {
    const deep = `${'['.repeat(depth)}${']'.repeat(depth)}`;
    const target = `{"identifier":"a","attributes":{"x":${deep}}}`;
    return `{"apiKey":"${DEV_KEY}","target":${target},"context":{"targetingKey":"a","x":${deep}},"metricsData":[${deep}]}`;
  };

  const anyText = fc.oneof(
    fc.string(),
    fc.string({ unit: 'binary' }),
    fc.constantFrom('..', '%', '%zz', '\0'),
  );
  const part = fc.oneof(
    anyText,
    anyText.map((text) => encodeURIComponent(text.toWellFormed())),
    fc.constantFrom('client', 'env', DEV, PROD, 'feature-configs', 'target-segments', 'a', 'beta'),
    fc.constantFrom(
      'auth',
      'stream',
      'metrics',
      'health',
      'target',
      'evaluations',
      '__proto__',
      'constructor',
    ),
    fc.integer({ min: 1, max: 40_000 }).map((length) => 'x'.repeat(length)),
  );
  const path = fc.oneof(
    fc.array(part, { maxLength: 7 }).map((parts) => `/${parts.join('/')}`),
    part.map((last) => `/client/env/${DEV}/feature-configs/${last}`),
    part.map((environment) => `/client/env/${environment}/target-segments?rules=v2`),
    fc
      .tuple(part, part)
      .map(([name, value]) => `/client/env/${DEV}/target-segments?${name}=${value};${value}`),
    fc.tuple(part, part).map(([target, flag]) => `/client/env/${DEV}/target/${target}/evaluations/${flag}`),
    part.map((target) => `/client/env/${DEV}/target/${target}/evaluations`),
    part.map((key) => `/ofrep/v1/evaluate/flags/${key}`),
    part.map((word) => `/ofrep/v1/events?token=${word}`),
    fc.constantFrom('/ofrep/v1/evaluate/flags', '/ofrep/v1/evaluate/flags/a', '/metrics'),
    fc.constantFrom('/client/auth', `/metrics/${DEV}`, '/stream', '/health'),
  );
  // What Node takes from the wire.
  const headerText = fc.string({
    unit: fc
      .integer({ min: 0x20, max: 0xff })
      .map((code) => String.fromCharCode(code === 0x7f ? 0x20 : code)),
  });
  const authorization = fc.oneof(
    fc.constant('good'),
    headerText,
    headerText.map((text) => `Bearer ${text}`),
    fc.jsonValue().map((claims) => `Bearer ${token(Object(claims) as object)}`),
    fc
      .record({ apiKey: fc.jsonValue(), environment: fc.constantFrom(DEV, PROD, '', null, 7, 'toString') })
      .map((claims) => `Bearer ${token(claims)}`),
    fc
      .tuple(fc.oneof(fc.constant(JWT), fc.object()), fc.oneof(anyText, fc.json()))
      .map(([header, text]) => `Bearer ${unsigned(header, text)}`),
  );
  const headers = fc.record(
    {
      authorization,
      // Not that of the token: a stream that opens has no end.
      'api-key': fc.oneof(fc.constant(PROD_KEY), headerText),
      'accept-encoding': fc.oneof(headerText, fc.constantFrom('br', 'gzip;q=0', '*;q=0.1, ,;;q=')),
      'if-none-match': fc.oneof(headerText, fc.constantFrom('*', '"', 'W/"x", ,')),
      'content-type': headerText,
      'x-request-id': headerText,
      'x-api-key': fc.oneof(fc.constant(DEV_KEY), headerText),
      'harness-target': fc.oneof(
        headerText,
        fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('base64')),
        fc.json().map((json) => Buffer.from(json).toString('base64')),
        fc
          .record({ identifier: anyText, attributes: fc.object() })
          .map((target) => Buffer.from(JSON.stringify(target)).toString('base64')),
      ),
      'last-event-id': headerText,
      origin: headerText,
      'access-control-request-method': headerText,
    },
    { requiredKeys: [] },
  );
  const body = fc.oneof(
    fc.constant(undefined),
    anyText,
    fc.json(),
    fc.jsonValue().map((value) => JSON.stringify({ apiKey: DEV_KEY, target: value })),
    fc.jsonValue().map((value) => JSON.stringify({ metricsData: [value], targetData: value })),
    fc.jsonValue().map((value) => JSON.stringify({ context: { targetingKey: 'a', value } })),
    fc.jsonValue().map((value) => JSON.stringify({ context: value })),
    fc.nat(100_000).map((depth) => nested(depth)),
    fc.constant(`{"apiKey":"${DEV_KEY}","target":{"identifier":"a","attributes":{"__proto__":{"a":1}}}}`),
    fc.integer({ min: 1, max: 700_000 }).map((length) => `"${'x'.repeat(length)}"`),
  );
  const method = fc.constantFrom(
    'GET',
    'GET',
    'GET',
    'HEAD',
    'POST',
    'POST',
    'OPTIONS',
    'PUT',
    'DELETE',
    'PATCH',
  );

  /** Asks, and expects an answer of the documented form. Returns its status. */
  const ask = async (
    { app }: Gateway,
    method: string,
    path: string,
    headers: Record<string, string | undefined>,
    body?: string,
  ) => {
    const answer = await app.inject({
      method: method as 'GET',
      url: path,
      headers,
      ...(body !== undefined && method !== 'GET' && method !== 'HEAD' && { payload: body }),
    });
    expect(STATUSES).toContain(answer.statusCode);
    expect(answer.headers['access-control-allow-origin']).toBe('*');
    if (answer.statusCode < 400 || method === 'HEAD') return answer.statusCode;
    const said = answer.json<{ errorCode?: string }>();
    const text = expect.any(String);
    if (path.startsWith('/ofrep/v1/evaluate/') && said.errorCode !== undefined)
      expect(said).toMatchObject({ errorCode: text, errorDetails: text });
    else expect(said).toEqual(anError(answer.statusCode));
    return answer.statusCode;
  };

  it('is answered with a documented status, in the form that SDKs and browsers read', async () => {
    const good = await gateway.bearer();
    await fc.assert(
      fc.asyncProperty(method, path, headers, body, async (method, path, headers, body) => {
        // What injects the request reads the path as a browser does.
        fc.pre(URL.canParse(path, 'http://localhost'));
        const sent = headers.authorization === 'good' ? { ...headers, ...good } : headers;
        await ask(gateway, method, path, sent, body);
      }),
      { numRuns: 1000, timeout: 5000 },
    );
    expect(errors).not.toHaveBeenCalled();
    expect((await gateway.read('feature-configs')).status).toBe(200);
  });

  it('is answered so whatever the token is, also where BYPASS_AUTH is on', async () => {
    const open = await start([flag('a')], { BYPASS_AUTH: 'true' });
    await fc.assert(
      fc.asyncProperty(authorization, async (authorization) => {
        const sent = { authorization };
        // A stream that opens has no end, so it is first asked whether it would.
        if ((await ask(open, 'HEAD', '/stream', sent)) !== 200)
          expect([400, 401]).toContain(await ask(open, 'GET', '/stream', sent));
        const evaluated = '{"context":{"targetingKey":"a"}}';
        expect([200, 401]).toContain(await ask(open, 'POST', '/ofrep/v1/evaluate/flags', sent, evaluated));
        expect(await ask(open, 'GET', `/client/env/${DEV}/feature-configs`, sent)).toBe(200);
      }),
      { numRuns: 500, timeout: 5000 },
    );
    expect(errors).not.toHaveBeenCalled();
  });

  it('is answered so whatever is expected beside it', async () => {
    const { authorization } = await gateway.bearer();
    const asked = fc.constantFrom<[method: string, path: string, status: number]>(
      ['GET', `/client/env/${DEV}/feature-configs`, 200],
      ['HEAD', '/health', 200],
      ['POST', '/client/auth', 400],
      ['GET', '/none', 404],
      ['DELETE', '/stream', 405],
    );
    const expected = fc.oneof(
      headerText,
      fc.constantFrom('', '100-continue', '100-CONTINUE, x', '101-continue', '200-ok'),
    );
    await fc.assert(
      fc.asyncProperty(asked, expected, async ([method, path, status], value) => {
        const wire = new Wire(gateway.port);
        const more = { connection: 'close', 'x-request-id': 'r-1', authorization };
        wire.send(method, path, { ...more, 'content-length': '0', expect: value });
        await wire.closed;
        wire.text = wire.text.replace('HTTP/1.1 100 Continue\r\n\r\n', '');
        expect(wire.head).toMatch(`http/1.1 ${status} `);
        expect(wire.head.split('\r\n')).toEqual(
          expect.arrayContaining(['access-control-allow-origin: *', 'x-request-id: r-1']),
        );
        if (status >= 400) expect(JSON.parse(wire.body)).toEqual(anError(status));
      }),
      { numRuns: 200 },
    );
    expect(errors).not.toHaveBeenCalled();
  });

  it('is a stream to whoever may have one, from whatever event they say that they go on', async () => {
    const wire = await gateway.stream();
    await gateway.upstream.happens(flag('a', 2));
    await wire.until('"identifier":"a"');
    const [log = ''] = wire.lastEventId.split('.');
    const ids = fc.oneof(
      headerText,
      fc.nat().map((sequence) => `${log}.${sequence}`),
      fc.maxSafeNat().map((sequence) => `${log}.${sequence}`),
      fc.nat().map((sequence) => `otherlog.${sequence}`),
    );
    await fc.assert(
      fc.asyncProperty(ids, async (id) => {
        const { head, socket } = await gateway.stream(DEV_KEY, { 'last-event-id': id });
        expect(head).toMatch(/^http\/1.1 200 /);
        socket.destroy();
      }),
      { numRuns: 100 },
    );
    expect(errors).not.toHaveBeenCalled();
  });

  it('does not keep the next from being answered, though it is no HTTP at all', async () => {
    const beginning = fc.constantFrom('', 'GET / HTTP/1.1\r\n', 'POST /client/auth HTTP/1.1\r\nhost: a\r\n');
    const line = fc.constantFrom(
      'transfer-encoding: chunked\r\n\r\n',
      'content-length: 5\r\n',
      'content-length: -1\r\n',
      'expect: 100-continue\r\n',
      'expect: miracles\r\n',
      'upgrade: websocket\r\nconnection: upgrade\r\n',
      '\r\n',
      'ffffffffff\r\n',
      '0\r\n\r\n',
      'a: b\0c\r\n',
    );
    const rubbish = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes).toString('latin1'));
    await fc.assert(
      fc.asyncProperty(
        beginning,
        fc.array(fc.oneof(line, rubbish), { maxLength: 6 }),
        async (first, rest) => {
          const socket = connect(gateway.port, '127.0.0.1').on('error', () => undefined);
          const closed = once(socket, 'close');
          socket.resume().end(Buffer.from(first + rest.join(''), 'latin1'));
          await closed;
        },
      ),
      { numRuns: 200 },
    );
    expect(errors).not.toHaveBeenCalled();
    expect((await gateway.read('feature-configs')).status).toBe(200);
  });
});

describe('A stream that comes back', () => {
  afterEach(cleanUp);

  const REPLAY = { STREAM_REPLAY: '300' };
  let markers = 0;
  /** Changes, of which streams that are open were told when this resolves. */
  const told = async ({ stream, upstream }: Gateway, ...facts: readonly Fact[]) => {
    const wire = await stream();
    const marker = `marker-${++markers}`;
    await upstream.happens(...facts, flag(marker));
    await wire.until(`create","domain":"flag","identifier":"${marker}"`);
    wire.socket.destroy();
    return wire.lastEventId;
  };
  /** What a stream is told when it opens, once it hears what all hear: then events have ids. */
  const level = async ({ stream, upstream }: Gateway, lastEventId?: string) => {
    const wire = await stream(DEV_KEY, lastEventId === undefined ? {} : { 'Last-Event-ID': lastEventId });
    for (let marker = ''; wire.events.find(({ identifier }) => identifier === marker)?.id === undefined;) {
      marker = `marker-${++markers}`;
      await upstream.happens(flag(marker));
      await wire.until(`"${marker}"`);
    }
    return wire.heard.filter((text) => !text.includes('marker'));
  };

  it('is told of what changed after the event that it names, once for each entity, as it is now', async () => {
    const gateway = await start([flag('a'), flag('b'), flag('c'), segment('g'), flag('untouched')]);
    const id = await told(gateway, flag('a', 2));
    await told(
      gateway,
      flag('b', 2),
      flag('c', 2),
      flag('b', 3),
      noFlag('c', 3),
      segment('g', { version: 2 }),
    );
    expect(await level(gateway, id)).toEqual(['patch b 3', 'delete c 3', 'patch g 2']);
  });

  it('gets each of those as a chunk of its own, with the id that it had', async () => {
    const { stream, upstream } = await start([flag('a')]);
    const wire = await stream();
    await upstream.happens(flag('a', 2));
    await wire.until('"version":2');
    await upstream.happens(flag('b'), flag('c'), flag('d'));
    await wire.until('"d"');
    const back = await stream(DEV_KEY, { 'Last-Event-ID': wire.events[0]?.id ?? '' });
    await back.until('"d"');
    expect(back.chunks[0]).toBe(':\n\n');
    expect(back.heard).toEqual(['patch b 1', 'patch c 1', 'patch d 1']);
    expect(back.events.map(({ id }) => id)).toEqual(wire.events.slice(1).map(({ id }) => id));
  });

  it('that heard everything is told nothing', async () => {
    const gateway = await start([flag('a')], REPLAY);
    const id = await told(gateway, flag('a', 2));
    await told(gateway, flag('b', 1, PROD));
    expect(await level(gateway, id)).toEqual([]);
  });

  it('and says nothing is told what changed in the last minutes', async () => {
    const gateway = await start([], REPLAY);
    await told(gateway, flag('a'), flag('b'), flag('a', 2), noFlag('b', 2), flag('x', 1, PROD));
    expect(await level(gateway)).toEqual(['delete told 1', 'patch a 2', 'delete b 2']);
  });

  it('and says nothing is told nothing that is longer ago, and nothing where that is set', async () => {
    const gateway = await start([], { STREAM_REPLAY: '1' });
    await told(gateway, flag('a'));
    const now = Date.now();
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now + 2000);
    cleanUps.push(() => clock.mockRestore());
    const wire = await gateway.stream();
    clock.mockRestore();
    await gateway.upstream.happens(flag('end'));
    await wire.until('"end"');
    expect(wire.heard).toEqual(['create end 1']);
  });

  it('is not told of what was there before anybody could read it', async () => {
    const NEW = '10000000-0000-4000-8000-000000000003';
    const { stream, upstream } = await start([], REPLAY);
    await upstream.happens(added(NEW), flag('a', 1, NEW), flag('b', 1, NEW), keyAdded('new', NEW));
    await upstream.happens(flag('b', 2, NEW));
    const wire = await stream('new');
    await upstream.happens(flag('end', 1, NEW));
    await wire.until('"end"');
    expect(wire.heard).toEqual(['patch b 2', 'create end 1']);
  });

  it('to an environment that was removed and added again is told what is gone', async () => {
    const gateway = await start([flag('a'), flag('b')], REPLAY);
    const id = await told(gateway, flag('a', 2));
    await gateway.upstream.happens(removed(DEV), added(DEV), flag('b', 1), keyAdded(DEV_KEY, DEV));
    await told(gateway);
    expect(await level(gateway, id)).toEqual(['patch b 1', 'delete told 1', 'delete a 2']);
    expect(await level(gateway)).toEqual(['patch b 1', 'delete told 1', 'delete a 2']);
  });

  it.each(['nonsense', '', 'AAAAAAAA.', 'AAAAAAAA.1x', '%', '9'.repeat(20)])(
    'and names %p is as one that names nothing',
    async (lastEventId) => {
      const gateway = await start([flag('a')]);
      await told(gateway, flag('b'));
      expect(await level(gateway, lastEventId)).toEqual([]);
    },
  );

  it('and names an event of another log is told of everything', async () => {
    const gateway = await start([flag('a', 3), segment('g', { version: 2 }), flag('b'), noFlag('b', 2)]);
    expect(await level(gateway, 'AAAAAAAA.3')).toEqual([
      'patch a 3',
      'patch g 2',
      'delete b 2',
      'delete told 1',
    ]);
  });

  it('and names an event beyond the end of the log is told of everything', async () => {
    const gateway = await start([flag('a')]);
    const id = await told(gateway, flag('a', 2));
    expect(await level(gateway, `${id}000`)).toContain('patch a 2');
  });

  it('and names an event that is not kept any more is told of everything', async () => {
    const gateway = await start([flag('a'), flag('b')]);
    const id = await told(gateway, flag('a', 2));
    await told(gateway, flag('c'));
    const { log } = gateway.upstream;
    const head = await log.head('FF_CHANGES');
    log.beginning = () => Promise.resolve(head);
    expect(await level(gateway, id)).toEqual(['patch a 2', 'patch b 1', 'patch c 1', 'delete told 1']);
  });

  it('costs no read of the log when one was there before', async () => {
    const { stream, upstream } = await start([flag('a')], REPLAY);
    const reads = jest.spyOn(upstream.log, 'latest');
    const wires = await Promise.all(Array.from({ length: 50 }, () => stream()));
    await upstream.happens(flag('b'));
    for (const wire of wires) await wire.until('"b"');
    const again = await Promise.all(
      wires.map((wire, i) => stream(DEV_KEY, i % 2 ? {} : { 'Last-Event-ID': wire.lastEventId })),
    );
    await upstream.happens(flag('c'));
    for (const wire of again) await wire.until('"c"');
    expect(reads.mock.calls.filter(([name]) => name === 'FF_CHANGES')).toEqual([]);
  });

  it('while the log is away hears of what it missed when it is back, and meanwhile beats', async () => {
    const { stream, upstream } = await start([flag('a')]);
    const wire = await stream();
    await upstream.happens(flag('a', 2));
    await wire.until('"version":2');
    const id = wire.lastEventId;
    await upstream.happens(flag('b'));
    await wire.until('"b"');
    const latest = jest.spyOn(upstream.log, 'latest').mockImplementationOnce(() => {
      throw new Error('away');
    });
    const back = await stream(DEV_KEY, { 'Last-Event-ID': id });
    await upstream.happens(flag('c'));
    await back.until('"c"');
    expect(latest).toHaveBeenCalledTimes(1);
    await back.until('"b"');
    // What was told before it was level has no id that would hide the rest.
    expect(back.events.map(({ identifier, id }) => [identifier, id === undefined])).toEqual([
      ['c', true],
      ['b', false],
    ]);
  });
});

describe('Changes that come together', () => {
  afterEach(cleanUp);

  it('share writes of less than a segment, each in a chunk of its own, and the first waits for nobody', async () => {
    const { stream, upstream, serverSide } = await start();
    // The other environment was just told something, to find the stream open.
    const wire = await stream(PROD_KEY);
    const server = serverSide(wire);
    const writes: string[] = [];
    const write = server?.write.bind(server);
    if (server && write) {
      server.write = (bytes: Uint8Array) => {
        writes.push(String(bytes));
        return write(bytes);
      };
    }
    const head = await upstream.log.head('FF_FACTS');
    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        upstream.tell(
          { event: 'delete', kind: 'flag', environment: PROD, identifier: `f${i}`, version: 1 },
          head,
        ),
      ),
    );
    await wire.until('"f99"');
    expect(wire.events.map(({ identifier }) => identifier)).toEqual(
      Array.from({ length: 100 }, (_, i) => `f${i}`),
    );
    expect(writes.length).toBeLessThan(50);
    expect(writes[0]?.match(/data:/g)).toHaveLength(1);
    expect(Math.max(...writes.map((text) => text.length))).toBeLessThanOrEqual(1200);
  });
});

describe('The number of streams', () => {
  afterEach(cleanUp);

  it.each([
    ['MAX_STREAMS', PROD_KEY],
    ['MAX_STREAMS_PER_KEY', DEV_KEY],
  ])('is bounded by %s: more are answered 503 and asked to come later', async (name, key) => {
    const { stream, call, bearer, hub } = await start([], { [name]: '2' });
    const [wire] = [await stream(), await stream()];
    const headers = { ...(await bearer(key)), 'API-Key': key };
    const { status, headers: answered, json } = await call('GET', '/stream', headers);
    expect([status, answered.get('retry-after')]).toEqual([503, '10']);
    expect(json()).toEqual(anError(503));
    if (name === 'MAX_STREAMS_PER_KEY') await stream(OTHER_DEV_KEY);
    const before = hub.openStreams;
    wire.socket.destroy();
    await until(() => hub.openStreams < before);
    await stream(key);
  });

  it('and their age: one that is old ends, and its reader comes back', async () => {
    jest.useFakeTimers({ doNotFake: timersBut('setInterval', 'clearInterval', 'Date') });
    cleanUps.push(() => jest.useRealTimers());
    const { stream } = await start([], { STREAM_MAX_AGE: '100' });
    const wire = await stream();
    jest.advanceTimersByTime(74_000);
    await wire.until(':\n\n\r\n3\r\n:');
    expect(wire.text).not.toMatch(/\r\n0\r\n\r\n$/);
    jest.advanceTimersByTime(40_000);
    await wire.closed;
    expect(wire.text).toMatch(/\r\n0\r\n\r\n$/);
  });
});

describe('The upstream being away', () => {
  afterEach(cleanUp);

  it('closes no stream', async () => {
    const { stream, upstream, upstreamStatus } = await start();
    const wire = await stream();
    upstreamStatus.stream('DISCONNECTED');
    await upstream.happens(flag('a'));
    await wire.until('"a"');
    await stream();
  });

  it('closes streams where that is set, and refuses others in the words of the Go relay', async () => {
    const { stream, call, bearer, upstreamStatus } = await start([], {
      CLOSE_STREAMS_ON_UPSTREAM_LOSS: 'true',
    });
    const wire = await stream();
    upstreamStatus.stream('DISCONNECTED');
    await wire.closed;
    expect(wire.text).toMatch(/0\r\n\r\n$/);
    const { status, json } = await call('GET', '/stream', { ...(await bearer()), 'API-Key': DEV_KEY });
    expect(status).toBe(503);
    expect(json()).toEqual(anError(503, 'SaaS stream disconnected: streaming endpoint disabled'));
    upstreamStatus.stream('CONNECTED');
    await stream();
  });
});

describe('A revoked key', () => {
  afterEach(cleanUp);

  it('is refused and its streams end, and other keys of the environment notice nothing', async () => {
    const { upstream, stream, bearer, call } = await start([flag('a')]);
    const [revoked, kept] = [await bearer(DEV_KEY), await bearer(OTHER_DEV_KEY)];
    const [ending, staying, prod] = [
      await stream(DEV_KEY),
      await stream(OTHER_DEV_KEY),
      await stream(PROD_KEY),
    ];
    const path = `/client/env/${DEV}/feature-configs`;
    expect((await call('GET', path, revoked)).status).toBe(200);
    await upstream.happens(keyRemoved(DEV_KEY, DEV));
    expect((await call('GET', '/metrics')).text).toContain('let_go_total{reason="revoked"} 1\n');
    expect((await call('GET', path, revoked)).status).toBe(401);
    expect((await call('GET', '/stream', { ...revoked, 'API-Key': OTHER_DEV_KEY })).status).toBe(401);
    expect((await call('POST', '/client/auth', {}, JSON.stringify({ apiKey: DEV_KEY }))).status).toBe(401);
    expect((await call('GET', path, kept)).status).toBe(200);
    await ending.closed;
    expect(ending.body).toBe('3\r\n:\n\n\r\n0\r\n\r\n');
    await upstream.happens(flag('a', 2), flag('a', 1, PROD));
    await staying.until('"version":2');
    await prod.until('"identifier":"a"');
  });

  it('hears nothing more and loses its streams, also where nobody reads', async () => {
    const { upstream, stream, serverSide, hub } = await start();
    const [slow, other] = [await stream(DEV_KEY), await stream(OTHER_DEV_KEY)];
    slow.socket.pause();
    const head = await upstream.log.head('FF_FACTS');
    const tell = (identifier: string) =>
      upstream.tell({ event: 'delete', kind: 'flag', environment: DEV, identifier, version: 1 }, head);
    // Enough to fill what the system holds between the two, and not enough to be let go for it.
    const waiting = () => serverSide(slow)?.writableLength ?? 0;
    for (let i = 0; waiting() < 100_000; i++) {
      await Promise.all(Array.from({ length: 100 }, () => tell('x'.repeat(1000))));
      await tell(`filled ${i}`);
      await other.until(`"filled ${i}"`);
    }
    await upstream.happens(keyRemoved(DEV_KEY, DEV));
    await tell('secret');
    await other.until('"identifier":"secret"');
    await until(() => hub.openStreams === 1);
    slow.socket.resume();
    await slow.closed;
    expect(slow.text).not.toContain('"identifier":"secret"');
  });
});

describe('A removed environment', () => {
  afterEach(cleanUp);

  it('is refused and all its streams end, and other environments notice nothing', async () => {
    const { upstream, stream, bearer, call } = await start([flag('a')]);
    const headers = await bearer();
    const ending = [await stream(DEV_KEY), await stream(OTHER_DEV_KEY)];
    const prod = await stream(PROD_KEY);
    await upstream.happens(removed(DEV));
    expect((await call('GET', `/client/env/${DEV}/feature-configs`, headers)).status).toBe(401);
    expect((await call('POST', '/client/auth', {}, JSON.stringify({ apiKey: DEV_KEY }))).status).toBe(401);
    for (const wire of ending) {
      await wire.closed;
      expect(wire.text).toMatch(/0\r\n\r\n$/);
    }
    await upstream.happens(flag('a', 1, PROD));
    await prod.until('"identifier":"a"');
  });

  it('that is added again starts empty, with the keys that it has now', async () => {
    const { upstream, read, call } = await start([flag('a')]);
    await upstream.happens(removed(DEV), added(DEV), keyAdded('new', DEV), flag('b'));
    expect((await call('POST', '/client/auth', {}, JSON.stringify({ apiKey: DEV_KEY }))).status).toBe(401);
    expect((await read('feature-configs', 'new')).json()).toEqual([aFlag('b')]);
  });
});

describe('A key that moves to another environment', () => {
  afterEach(cleanUp);

  it.each([
    ['added first', [keyAdded(DEV_KEY, PROD), keyRemoved(DEV_KEY, DEV)]],
    ['removed first', [keyRemoved(DEV_KEY, DEV), keyAdded(DEV_KEY, PROD)]],
  ])('opens that one and no more the first, %s', async (_, facts) => {
    const { upstream, signIn, bearer, call } = await start();
    const headers = await bearer();
    await upstream.happens(...facts);
    expect(claimsOf(await signIn())).toMatchObject({ environment: PROD });
    expect((await call('GET', `/client/env/${DEV}/feature-configs`, headers)).status).toBe(401);
  });
});

describe('A gateway that stops', () => {
  afterEach(cleanUp);

  it('ends its streams cleanly and is done', async () => {
    const { app, stream } = await start();
    const wires = await Promise.all([stream(DEV_KEY), stream(DEV_KEY), stream(PROD_KEY)]);
    await app.close();
    for (const wire of wires) {
      await wire.closed;
      expect(wire.body).toBe('3\r\n:\n\n\r\n0\r\n\r\n');
    }
  });

  /** A gateway that begins to stop while many streams are open, on a clock that stands still. */
  const stopping = async (streams: number, drainS: number) => {
    const { hub } = await start([], { DRAIN_SECONDS: String(drainS), MAX_STREAMS: '0' });
    jest.useFakeTimers({ doNotFake: timersBut('setTimeout', 'clearTimeout') });
    cleanUps.push(() => {
      jest.runAllTimers();
      jest.useRealTimers();
    });
    const opening = { environment: DEV, apiKey: sha256(DEV_KEY), reader: 'harness' } as const;
    for (let i = 0; i < streams; i++) hub.add(opening, aResponse());
    const drained = hub.drain();
    expect(hub.openStreams).toBe(streams);
    return { hub, drained };
  };

  it.each([
    [1000, 5, 2],
    [1000, 1, 1],
    [5000, 3, 3],
  ])('ends %d streams one by one, with DRAIN_SECONDS=%d within %d s', async (streams, drainS, withinS) => {
    const { hub, drained } = await stopping(streams, drainS);
    const parts = 20;
    for (let part = 0; part < parts; part++) {
      const before = hub.openStreams;
      jest.advanceTimersByTime((withinS * 1000) / parts);
      // Whatever chance says: twice as many as on average are seven deviations from it.
      expect(before - hub.openStreams).toBeGreaterThan(0);
      expect(before - hub.openStreams).toBeLessThan((2 * streams) / parts);
    }
    expect(hub.openStreams).toBe(0);
    await drained;
  });

  it('ends all streams at once where DRAIN_SECONDS is 0', async () => {
    const { hub, drained } = await stopping(1000, 0);
    jest.advanceTimersByTime(1);
    expect(hub.openStreams).toBe(0);
    await drained;
  });

  /** To a reader who sees the end at once. */
  function aResponse(): ServerResponse {
    const response = Object.assign(new EventEmitter(), {
      socket: { destroyed: false, writableLength: 0, write: () => true, destroy: () => undefined },
      chunkedEncoding: true,
      writableEnded: false,
      end: () => {
        response.writableEnded = true;
        response.emit('close');
      },
    });
    return response as unknown as ServerResponse;
  }

  it('finishes an answer that is under way, however slowly it is read', async () => {
    const value = 'x'.repeat(1_000_000);
    const large = Array.from({ length: 16 }, (_, i): EnvironmentFact => ({
      type: 'FlagPublished',
      environment: DEV,
      flag: { ...aFlag(`large-${i}`), variations: [{ identifier: 'a', value }] },
    }));
    const { app, hub, port, bearer } = await start(large);
    const wire = new Wire(port);
    wire.send('GET', `/client/env/${DEV}/feature-configs`, await bearer());
    await once(wire.socket, 'data');
    wire.socket.pause();
    const closed = app.close();
    await until(() => !hub.takes(DEV, sha256(DEV_KEY)));
    wire.socket.resume();
    await Promise.all([closed, wire.closed]);
    expect(wire.body.length).toBe(Number(/content-length: (\d+)/.exec(wire.head)?.[1]));
    expect(wire.body.length).toBeGreaterThan(16_000_000);
  });

  it('is done although a reader of a stream does not read its end', async () => {
    const { app, stream } = await start();
    const wire = await stream();
    wire.socket.pause();
    await app.close();
  });

  it('is done although a connection is open that asks for nothing', async () => {
    const { app, port } = await start();
    const idle = new Wire(port);
    await once(idle.socket, 'connect');
    await app.close();
    await idle.closed;
  });

  it('opens no stream any more', async () => {
    const { hub, call, bearer } = await start();
    const headers = { ...(await bearer()), 'API-Key': DEV_KEY };
    await hub.stop();
    const { status, headers: answered, json } = await call('GET', '/stream', headers);
    expect(status).toBe(503);
    expect(answered.get('retry-after')).toMatch(/^\d+$/);
    expect(json()).toEqual(anError(503));
  });
});

async function until(holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 120_000; !holds();) {
    if (Date.now() > deadline) throw new Error(`it did not come about: ${holds.toString()}`);
    await new Promise((done) => setImmediate(done));
  }
}

/** Everything that could be faked but these. */
function timersBut(...faked: string[]) {
  const all = [
    'Date',
    'hrtime',
    'nextTick',
    'performance',
    'queueMicrotask',
    'setImmediate',
    'clearImmediate',
    'setInterval',
    'clearInterval',
    'setTimeout',
    'clearTimeout',
  ] as const;
  return all.filter((timer) => !faked.includes(timer));
}
