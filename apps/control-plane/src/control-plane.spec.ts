import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

import { afterEach, describe, expect, it } from '@jest/globals';
import type { HttpException } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

import { AccountStream } from './account-stream.js';
import { ControlPlaneConfig } from './control-plane-config.js';
import { startControlPlane } from './control-plane.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const PROXY_KEY = '30000000-0000-4000-8000-000000000001';
const SCOPE = { accountIdentifier: 'demo', orgIdentifier: 'demo', projectIdentifier: 'demo' };
const IN_DEV = { ...SCOPE, environmentIdentifier: 'dev' };
const ADMIN = { 'x-api-key': 'any' };

const NEW_FLAG = {
  identifier: 'checkout.v2',
  name: 'Checkout',
  project: 'demo',
  kind: 'boolean',
  permanent: false,
  variations: [
    { identifier: 'yes', value: 'true' },
    { identifier: 'no', value: 'false' },
  ],
  defaultOnVariation: 'yes',
  defaultOffVariation: 'no',
};

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const stateOf = (state: 'on' | 'off') => ({
  instructions: [{ kind: 'setFeatureFlagState', parameters: { state } }],
});

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'control-plane-'));
  cleanUps.push(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function start(dataDir = newFolder(), environment: NodeJS.ProcessEnv = {}) {
  const config = new ControlPlaneConfig({
    CONTROL_PLANE_PORT: '0',
    DATA_DIR: dataDir,
    LOG_LEVEL: 'ERROR',
    ...environment,
  });
  const { app, url } = await startControlPlane(config);
  cleanUps.push(() => app.close());

  /** Sends a body as JSON, text as it is. Gives the status and the parsed answer. */
  const call = async (
    method: string,
    path: string,
    given: { query?: Record<string, string>; headers?: Record<string, string>; body?: unknown } = {},
  ) => {
    const { query, headers = {}, body } = given;
    const response = await fetch(`${url}${path}?${new URLSearchParams(query).toString()}`, {
      method,
      headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, text, body: text ? JSON.parse(text) : undefined };
  };
  const admin = (method: string, path: string, query: Record<string, string> = SCOPE, body?: unknown) =>
    call(method, `/gateway/cf/admin${path}`, { query, headers: ADMIN, body });
  const signIn = async () => {
    const { body } = await call('POST', '/api/1.0/proxy/auth', { body: { proxyKey: PROXY_KEY } });
    return { authorization: `Bearer ${body.authToken}` };
  };
  return { app, url, call, admin, signIn };
}
type Running = Awaited<ReturnType<typeof start>>;

/** Reads a stream of server-sent events frame by frame; `ended` holds once the server closed it. */
async function follow(url: string, headers: Record<string, string>) {
  const response = await fetch(url, { headers });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  cleanUps.push(() => reader.cancel().catch(() => undefined));
  let rest = '';
  const frame = async (): Promise<string | undefined> => {
    while (!rest.includes('\n\n')) {
      const { done, value } = await reader.read();
      if (done) return undefined;
      rest += value;
    }
    const end = rest.indexOf('\n\n') + 2;
    const found = rest.slice(0, end);
    rest = rest.slice(end);
    return found;
  };
  const message = async () => JSON.parse((await frame())!.replace(/^event: \*\ndata: /, ''));
  return { response, frame, message };
}

async function accountStream(running: Running) {
  const stream = await follow(`${running.url}/api/1.0/stream?cluster=1`, {
    ...(await running.signIn()),
    'API-Key': PROXY_KEY,
  });
  expect(await stream.frame()).toBe(':\n\n');
  return stream;
}

/** An account stream of other limits, on a server of its own, for readers of DEV. */
async function bareStream(limits: Partial<ConstructorParameters<typeof AccountStream>[0]>) {
  const stream = new AccountStream({ heartbeatMs: 60_000, streams: 10, waitingBytes: 1 << 20, ...limits });
  const refused: string[] = [];
  const server = createServer((_request, raw) => {
    try {
      stream.open(
        { hijack: () => undefined, raw } as unknown as FastifyReply,
        ({ environment }) => environment === DEV,
      );
    } catch (error) {
      refused.push((error as Error).message);
      raw.writeHead((error as HttpException).getStatus()).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanUps.push(() => {
    stream.onModuleDestroy();
    server.closeAllConnections();
    server.close();
  });
  return { stream, refused, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

describe('A relay that signs in', () => {
  it('gets a token that says what the protocol says, and no more', async () => {
    const { signIn } = await start();
    const { authorization } = await signIn();
    const [header, claims] = authorization
      .slice('Bearer '.length)
      .split('.')
      .map((part) => Buffer.from(part, 'base64url').toString());
    expect(JSON.parse(header!)).toEqual({ alg: 'HS256', typ: 'JWT' });
    expect(JSON.parse(claims!)).toEqual({
      cluster_identifier: '1',
      account: 'demo',
      organization: 'demo',
      key_type: 'Proxy',
      key: sha256(PROXY_KEY),
      environments: [DEV, PROD],
    });
  });

  it('is refused with an unknown key, and told what is wrong with a bad body', async () => {
    const { call } = await start();
    const signIn = (body: unknown) => call('POST', '/api/1.0/proxy/auth', { body });
    expect(await signIn({ proxyKey: 'unknown' })).toMatchObject({ status: 401, body: { code: '401' } });
    expect(await signIn({})).toMatchObject({ status: 400, body: { code: '400' } });
    expect((await signIn({})).body.message).toContain('proxyKey');
    expect(await signIn('{"proxyKey":')).toMatchObject({ status: 400, body: { code: '400' } });
    expect(await signIn({ proxyKey: 'x'.repeat(5 << 20) })).toMatchObject({
      status: 413,
      body: { code: '413' },
    });
  });
});

describe('The config', () => {
  const query = { key: PROXY_KEY, cluster: '1' };

  it('has the demo data of both environments', async () => {
    const { call, signIn } = await start();
    const { status, body } = await call('GET', '/api/1.0/proxy/config', { query, headers: await signIn() });
    expect(status).toBe(200);
    expect(body).toMatchObject({ itemCount: 2, pageCount: 1, pageIndex: 0, pageSize: 10, version: 1 });
    expect(body.environments.map(({ id }: { id: string }) => id)).toEqual([DEV, PROD]);
    const [dev, prod] = body.environments;
    expect(dev.apiKeys.toSorted()).toEqual(
      ['20000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000002'].map(sha256).toSorted(),
    );
    expect(dev.featureConfigs.map(({ feature }: { feature: string }) => feature)).toEqual([
      'banner-text',
      'dark-mode',
      'page-size',
      'theme',
    ]);
    expect(prod.featureConfigs).not.toEqual(dev.featureConfigs);
  });

  it('has every field that SDKs ask for, and no list that is null', async () => {
    const { call, signIn } = await start();
    const { body } = await call('GET', '/api/1.0/proxy/config', { query, headers: await signIn() });
    for (const { featureConfigs, segments } of body.environments) {
      for (const flag of featureConfigs) {
        expect(flag).toMatchObject({
          project: 'demo',
          environment: expect.stringMatching(/^(dev|prod)$/),
          state: expect.stringMatching(/^(on|off)$/),
          offVariation: expect.any(String),
          defaultServe: expect.any(Object),
          variations: expect.any(Array),
          rules: expect.any(Array),
          prerequisites: expect.any(Array),
          variationToTargetMap: expect.any(Array),
          version: 1,
        });
      }
      expect(segments[0]).toMatchObject({
        identifier: 'beta-testers',
        name: 'Beta testers',
        version: 1,
        excluded: [],
      });
      expect(segments[0].included[0]).toEqual({
        identifier: 'ada',
        name: 'Ada',
        account: 'demo',
        org: 'demo',
        project: 'demo',
        environment: segments[0].environment,
      });
    }
    const text = JSON.stringify(body);
    expect(text).toContain('"op":"segmentMatch"');
    expect(text).toContain('"distribution"');
    expect(text).toContain('"prerequisites":[{');
    expect(text).not.toContain('null');
  });

  it('comes in pages that count from 0, or for one environment', async () => {
    const { call, signIn } = await start();
    const headers = await signIn();
    const config = (more: Record<string, string>) =>
      call('GET', '/api/1.0/proxy/config', { query: { ...query, ...more }, headers });
    const second = await config({ pageNumber: '1', pageSize: '1' });
    expect(second.body).toMatchObject({
      itemCount: 2,
      pageCount: 2,
      pageIndex: 1,
      environments: [{ id: PROD }],
    });
    expect((await config({ pageNumber: '7' })).body).toMatchObject({ itemCount: 2, environments: [] });
    expect((await config({ environment: PROD })).body).toMatchObject({
      itemCount: 1,
      environments: [{ id: PROD }],
    });
    expect((await config({ environment: 'other' })).status).toBe(403);
    expect((await config({ pageSize: '0' })).status).toBe(400);
    expect((await config({ pageSize: '101' })).status).toBe(400);
    expect((await config({ pageNumber: '-1' })).body.message).toContain('pageNumber');
  });

  it('agrees byte for byte with the routes for flags and groups', async () => {
    const { call, signIn } = await start();
    const headers = await signIn();
    const { body } = await call('GET', '/api/1.0/proxy/config', { query, headers });
    const environment = `/api/1.0/client/env/${DEV}`;
    const flags = await call('GET', `${environment}/feature-configs`, { headers });
    const segments = await call('GET', `${environment}/target-segments`, { headers, query: { rules: 'v2' } });
    expect(flags.text).toBe(JSON.stringify(body.environments[0].featureConfigs));
    expect(segments.text).toBe(JSON.stringify(body.environments[0].segments));
  });

  it('wants a token, and the key that the token is for', async () => {
    const { call, signIn } = await start();
    const config = (headers: Record<string, string>, key = PROXY_KEY) =>
      call('GET', '/api/1.0/proxy/config', { query: { key }, headers });
    expect(await config({})).toMatchObject({ status: 401, body: { code: '401' } });
    expect(await config({ authorization: 'Bearer nonsense' })).toMatchObject({ status: 401 });
    const { authorization } = await signIn();
    expect(await config({ authorization: `${authorization}x` })).toMatchObject({ status: 401 });
    expect(await config({ authorization }, 'another key')).toMatchObject({ status: 401 });
    expect(await config({ authorization })).toMatchObject({ status: 200 });
  });
});

describe('Flags and groups', () => {
  it('are read one by one', async () => {
    const { call, signIn } = await start();
    const headers = await signIn();
    const read = (path: string) => call('GET', `/api/1.0/client/env/${path}`, { headers });
    expect(await read(`${DEV}/feature-configs/dark-mode`)).toMatchObject({
      status: 200,
      body: { feature: 'dark-mode', environment: 'dev' },
    });
    expect(await read(`${DEV}/feature-configs/unknown`)).toMatchObject({
      status: 404,
      body: { code: '404' },
    });
    expect(await read(`${DEV}/target-segments/beta-testers`)).toMatchObject({ status: 200 });
    expect(await read(`${DEV}/target-segments/unknown`)).toMatchObject({ status: 404 });
    expect(await read('00000000-0000-4000-8000-000000000000/feature-configs')).toMatchObject({ status: 403 });
    expect(await read('00000000-0000-4000-8000-000000000000/target-segments/x')).toMatchObject({
      status: 403,
    });
  });

  it('come as servingRules to who asks for rules=v2, as rules to who does not', async () => {
    const { call, signIn } = await start();
    const headers = await signIn();
    const path = `/api/1.0/client/env/${DEV}/target-segments`;
    for (const each of ['', '/beta-testers']) {
      const segmentIn = (body: unknown) => (Array.isArray(body) ? body[0] : body);
      const v2 = segmentIn((await call('GET', path + each, { headers, query: { rules: 'v2' } })).body);
      const v1 = segmentIn((await call('GET', path + each, { headers })).body);
      expect(v2.servingRules).toHaveLength(1);
      expect(v2).not.toHaveProperty('rules');
      expect(v1.rules).toHaveLength(1);
      expect(v1).not.toHaveProperty('servingRules');
    }
  });
});

describe('The account stream', () => {
  it('tells of each write once it can be read, in the order of the writes', async () => {
    const running = await start();
    const { admin, call, signIn } = running;
    const headers = await signIn();
    const stream = await accountStream(running);
    expect(stream.response.headers.get('content-type')).toBe('text/event-stream');
    expect(stream.response.headers.get('cache-control')).toBe('no-cache');

    await Promise.all([
      admin('PATCH', '/features/dark-mode', IN_DEV, stateOf('off')),
      admin('PATCH', '/features/theme', IN_DEV, stateOf('off')),
    ]);
    await admin('PATCH', '/features/dark-mode', IN_DEV, stateOf('on'));
    await admin('POST', '/features', SCOPE, NEW_FLAG);
    await admin('DELETE', '/features/checkout.v2');

    const versions = new Map<string, number>();
    for (let heard = 0; heard < 3; heard++) {
      const message = await stream.message();
      expect(message).toMatchObject({ event: 'patch', domain: 'flag', environment: DEV, apiKey: '' });
      expect(message.version).toBe((versions.get(message.identifier) ?? 1) + 1);
      versions.set(message.identifier, message.version);
      const { body } = await call('GET', `/api/1.0/client/env/${DEV}/feature-configs/${message.identifier}`, {
        headers,
      });
      expect(body.version).toBeGreaterThanOrEqual(message.version);
    }
    const about = { domain: 'flag', identifier: 'checkout.v2', version: 1 };
    expect(await stream.message()).toEqual({ event: 'create', ...about, environment: DEV, apiKey: '' });
    expect(await stream.message()).toEqual({ event: 'create', ...about, environment: PROD, apiKey: '' });
    expect(await stream.message()).toEqual({ event: 'delete', ...about, environment: DEV, apiKey: '' });
    expect(await stream.message()).toEqual({ event: 'delete', ...about, environment: PROD, apiKey: '' });
  });

  it('writes each message as one line of data of the event *', async () => {
    const running = await start();
    const stream = await accountStream(running);
    await running.admin('PATCH', '/features/theme', IN_DEV, stateOf('on'));
    expect(await stream.frame()).toBe(
      `event: *\ndata: {"event":"patch","domain":"flag","identifier":"theme","version":2,"environment":"${DEV}","apiKey":""}\n\n`,
    );
  });

  it('is refused without a token, and without the key that the token is for', async () => {
    const { call, signIn } = await start();
    const { authorization } = await signIn();
    const open = (headers: Record<string, string>) => call('GET', '/api/1.0/stream', { headers });
    expect(await open({ 'API-Key': PROXY_KEY })).toMatchObject({ status: 401, body: { code: '401' } });
    expect(await open({ authorization })).toMatchObject({ status: 401 });
    expect(await open({ authorization, 'API-Key': 'another key' })).toMatchObject({ status: 401 });
  });

  it('ends cleanly when the process stops, and lets the stop through', async () => {
    const running = await start();
    const stream = await accountStream(running);
    await running.app.close();
    expect(await stream.frame()).toBeUndefined();
  });

  it('is closed for a reader that does not read, and others notice nothing', async () => {
    const running = await start();
    const { authorization } = await running.signIn();
    const attentive = await accountStream(running);
    const slow = connect(Number(new URL(running.url).port), '127.0.0.1');
    cleanUps.push(() => slow.destroy());
    slow.write(
      `GET /api/1.0/stream HTTP/1.1\r\nHost: x\r\nAPI-Key: ${PROXY_KEY}\r\nAuthorization: ${authorization}\r\n\r\n`,
    );
    await new Promise((resolve) => slow.once('data', resolve));
    slow.pause();
    const closed = new Promise((resolve) => slow.once('close', resolve));

    const stream = running.app.get(AccountStream);
    const identifier = 'x'.repeat(100_000);
    let heard = 0;
    while (stream.openStreams > 1) {
      const message = { event: 'patch', domain: 'flag', version: heard, environment: DEV, apiKey: '' };
      stream.publish({ ...message, identifier });
      expect((await attentive.message()).version).toBe(heard++);
      expect(heard).toBeLessThan(1_000);
    }
    slow.resume();
    await closed;
    stream.publish({
      event: 'patch',
      domain: 'flag',
      identifier: 'after',
      version: 1,
      environment: DEV,
      apiKey: '',
    });
    expect((await attentive.message()).identifier).toBe('after');
  });

  it('beats at once and ever after, and keeps to the environments of its reader', async () => {
    const { stream, url } = await bareStream({ heartbeatMs: 5 });
    const reader = await follow(url, {});
    expect([await reader.frame(), await reader.frame()]).toEqual([':\n\n', ':\n\n']);
    const message = { event: 'patch', domain: 'flag', version: 1, apiKey: '' };
    stream.publish({ ...message, identifier: 'elsewhere', environment: PROD });
    stream.publish({ ...message, identifier: 'here', environment: DEV });
    let frame = await reader.frame();
    while (frame === ':\n\n') frame = await reader.frame();
    expect(frame).toContain('"identifier":"here"');
  });

  it('is refused with 503 beyond the most, and once the process stops', async () => {
    const { stream, url, refused } = await bareStream({ streams: 1 });
    const first = await follow(url, {});
    expect(await first.frame()).toBe(':\n\n');
    expect((await fetch(url)).status).toBe(503);
    expect(refused.at(-1)).toContain('which is the most');
    stream.onModuleDestroy();
    expect(await first.frame()).toBeUndefined();
    expect((await fetch(url)).status).toBe(503);
    expect(refused.at(-1)).toContain('is stopping');
  });

  it('does not answer HEAD, which would never end', async () => {
    const { call } = await start();
    expect((await call('HEAD', '/api/1.0/stream')).status).toBe(404);
  });
});

describe('The admin API', () => {
  it('is mounted where either kind of client looks for it', async () => {
    const { call } = await start();
    for (const base of ['/gateway/cf/admin', '/cf/admin']) {
      const { body } = await call('GET', `${base}/environments`, { query: SCOPE, headers: ADMIN });
      expect(body).toMatchObject({ status: 'SUCCESS', data: { itemCount: 2, pageCount: 1, pageIndex: 0 } });
    }
  });

  it('shows projects, environments and their keys, masked', async () => {
    const { admin } = await start();
    expect((await admin('GET', '/projects')).body.data.projects).toEqual([
      { identifier: 'demo', name: 'Demo', accountIdentifier: 'demo', orgIdentifier: 'demo' },
    ]);
    const { status, body, text } = await admin('GET', '/environments/dev');
    expect(status).toBe(200);
    expect(body.data).toMatchObject({ id: DEV, identifier: 'dev', name: 'Development', project: 'demo' });
    expect(body.data.apiKeys.apiKeys).toHaveLength(2);
    expect(text).not.toContain('20000000');
    expect(await admin('GET', '/environments/unknown')).toMatchObject({ status: 404, body: { code: '404' } });
    expect(await admin('GET', '/environments', { ...SCOPE, orgIdentifier: 'x' })).toMatchObject({
      status: 404,
    });
    expect((await admin('GET', '/environments', {})).body.message).toMatch(
      /accountIdentifier.*orgIdentifier.*projectIdentifier/,
    );
  });

  it('shows flags, with their state where an environment is named', async () => {
    const { admin } = await start();
    const list = await admin('GET', '/features', { ...IN_DEV, pageSize: '2', pageNumber: '1' });
    expect(list.body).toMatchObject({ itemCount: 4, pageCount: 2, pageIndex: 1, pageSize: 2 });
    expect(list.body.features.map(({ identifier }: { identifier: string }) => identifier)).toEqual([
      'page-size',
      'theme',
    ]);
    expect(list.body.features[1].envProperties).toMatchObject({
      environment: 'dev',
      state: 'on',
      version: 1,
    });
    expect((await admin('GET', '/features')).body.features[0]).not.toHaveProperty('envProperties');
    expect((await admin('GET', '/features/theme', IN_DEV)).body).toEqual(list.body.features[1]);
    expect(await admin('GET', '/features/unknown')).toMatchObject({ status: 404, body: { code: '404' } });
  });

  it('makes a flag, off, in every environment', async () => {
    const { admin, call, signIn } = await start();
    expect(await admin('POST', '/features', SCOPE, NEW_FLAG)).toMatchObject({
      status: 201,
      body: { details: { governanceMetadata: null } },
    });
    const headers = await signIn();
    for (const [id, environment] of [
      [DEV, 'dev'],
      [PROD, 'prod'],
    ]) {
      const { body } = await call('GET', `/api/1.0/client/env/${id}/feature-configs/checkout.v2`, {
        headers,
      });
      expect(body).toEqual({
        project: 'demo',
        environment,
        feature: 'checkout.v2',
        kind: 'boolean',
        state: 'off',
        variations: NEW_FLAG.variations,
        offVariation: 'no',
        defaultServe: { variation: 'yes' },
        rules: [],
        prerequisites: [],
        variationToTargetMap: [],
        version: 1,
      });
    }
    expect(await admin('POST', '/features', SCOPE, NEW_FLAG)).toMatchObject({
      status: 409,
      body: { code: '409' },
    });
  });

  it('names every fault of a new flag at once, and makes nothing', async () => {
    const { admin } = await start();
    const faulty = { ...NEW_FLAG, identifier: 'a b', kind: 'number', permanent: 'no', variations: [] };
    const { status, body } = await admin('POST', '/features', SCOPE, faulty);
    expect(status).toBe(400);
    for (const field of ['identifier', 'kind', 'permanent', 'variations'])
      expect(body.message).toContain(field);
    const inconsistent = {
      ...NEW_FLAG,
      variations: [...NEW_FLAG.variations, { identifier: 'yes', value: 'perhaps' }],
      defaultOnVariation: 'other',
    };
    const second = await admin('POST', '/features', SCOPE, inconsistent);
    expect(second.body.message).toMatch(
      /variations\.2\.identifier.*variations\.2\.value.*defaultOnVariation/,
    );
    const needy = { ...NEW_FLAG, prerequisites: [{ feature: 'unknown', variations: ['x'] }] };
    expect((await admin('POST', '/features', SCOPE, needy)).body.message).toContain('unknown');
    expect((await admin('GET', '/features')).body.itemCount).toBe(4);
  });

  it.each(['..', '.', '', 'a/b', 'ä', 'x'.repeat(257)])('refuses the identifier %j', async (identifier) => {
    const { admin } = await start();
    expect((await admin('POST', '/features', SCOPE, { ...NEW_FLAG, identifier })).status).toBe(400);
  });

  it('takes an identifier of 256 characters everywhere', async () => {
    const { admin, call, signIn } = await start();
    const identifier = '$._-'.repeat(64);
    expect((await admin('POST', '/features', SCOPE, { ...NEW_FLAG, identifier })).status).toBe(201);
    expect((await admin('PATCH', `/features/${identifier}`, IN_DEV, stateOf('on'))).status).toBe(200);
    const path = `/api/1.0/client/env/${DEV}/feature-configs/${encodeURIComponent(identifier)}`;
    expect((await call('GET', path, { headers: await signIn() })).body.version).toBe(2);
  });

  it('raises the version on every patch, also when the flag is in that state already', async () => {
    const { admin } = await start();
    for (const version of [2, 3]) {
      expect(await admin('PATCH', '/features/dark-mode', IN_DEV, stateOf('on'))).toMatchObject({
        status: 200,
      });
      const { envProperties } = (await admin('GET', '/features/dark-mode', IN_DEV)).body;
      expect(envProperties).toMatchObject({ state: 'on', version });
    }
    const inProd = await admin('GET', '/features/dark-mode', { ...SCOPE, environmentIdentifier: 'prod' });
    expect(inProd.body.envProperties.version).toBe(1);
  });

  it('takes all instructions of a patch, or none', async () => {
    const { admin } = await start();
    const mixed = {
      instructions: [...stateOf('off').instructions, { kind: 'launchRocket', parameters: {} }],
    };
    const refused = await admin('PATCH', '/features/dark-mode', IN_DEV, mixed);
    expect(refused).toMatchObject({ status: 400, body: { code: '400' } });
    expect(refused.body.message).toContain('instructions.1.kind');
    expect(await admin('PATCH', '/features/dark-mode', IN_DEV, { instructions: [] })).toMatchObject({
      status: 400,
    });
    expect(await admin('PATCH', '/features/dark-mode', SCOPE, stateOf('off'))).toMatchObject({ status: 400 });
    expect(await admin('PATCH', '/features/unknown', IN_DEV, stateOf('off'))).toMatchObject({ status: 404 });
    expect((await admin('GET', '/features/dark-mode', IN_DEV)).body.envProperties).toMatchObject({
      state: 'on',
      version: 1,
    });
  });

  it('deletes a flag everywhere, and starts again at 1 when it is made again', async () => {
    const { admin, call } = await start();
    await admin('POST', '/features', SCOPE, NEW_FLAG);
    await admin('PATCH', '/features/checkout.v2', IN_DEV, stateOf('on'));
    // As Go clients send it: a content type, and no body.
    const deleted = await call('DELETE', '/cf/admin/features/checkout.v2', {
      query: SCOPE,
      headers: { ...ADMIN, 'content-type': 'application/json' },
    });
    expect(deleted).toMatchObject({ status: 204, text: '' });
    expect((await admin('DELETE', '/features/checkout.v2')).status).toBe(404);
    await admin('POST', '/features', SCOPE, NEW_FLAG);
    expect((await admin('GET', '/features/checkout.v2', IN_DEV)).body.envProperties.version).toBe(1);
  });

  it('answers unknown routes, methods and addresses in the same shape', async () => {
    const { call } = await start();
    expect(await call('GET', '/unknown')).toMatchObject({ status: 404, body: { code: '404' } });
    expect(await call('PUT', '/api/1.0/proxy/auth', { body: {} })).toMatchObject({ status: 404 });
    expect(await call('GET', '/%zz')).toMatchObject({ status: 400, body: { code: '400' } });
    const asText = { body: '<x/>', headers: { 'content-type': 'text/xml' } };
    expect(await call('POST', '/api/1.0/proxy/auth', asText)).toMatchObject({
      status: 415,
      body: { code: '415' },
    });
  });
});

describe('Who may use the admin API', () => {
  it('is anyone on this machine who sends a token, while none is set', async () => {
    const { call } = await start();
    const environments = (headers: Record<string, string>) =>
      call('GET', '/cf/admin/environments', { query: SCOPE, headers });
    expect(await environments({})).toMatchObject({ status: 401, body: { code: '401' } });
    expect(await environments({ 'x-api-key': 'any' })).toMatchObject({ status: 200 });
    expect(await environments({ authorization: 'any' })).toMatchObject({ status: 200 });
  });

  it('is nobody who reached this machine under another name, while none is set', async () => {
    const { url } = await start();
    const statusFor = (host: string, path = '/cf/admin/projects') =>
      new Promise((resolve, reject) => {
        httpRequest(`${url}${path}`, { headers: { ...ADMIN, host } }, (response) => {
          response.destroy();
          resolve(response.statusCode);
        })
          .on('error', reject)
          .end();
      });
    for (const host of ['localhost', 'LOCALHOST:7100', '127.0.0.1', '127.0.0.1:7100', '[::1]:7100']) {
      expect([host, await statusFor(host)]).toEqual([host, 200]);
    }
    for (const host of ['evil.example.com', 'localhost.evil.example.com:7100', '10.0.0.1']) {
      expect([host, await statusFor(host)]).toEqual([host, 403]);
      expect([host, await statusFor(host, '/cf/admin/events')]).toEqual([host, 403]);
    }
  });

  it('is only who sends ADMIN_TOKEN, once it is set', async () => {
    const { call } = await start(undefined, { ADMIN_TOKEN: '0123456789abcdef' });
    for (const path of ['/cf/admin/projects', '/gateway/cf/admin/events']) {
      for (const headers of [
        {},
        ADMIN,
        { authorization: '0123456789abcdef' },
        { 'x-api-key': '0123456789abcdefg' },
      ]) {
        expect(await call('GET', path, { headers })).toMatchObject({ status: 401 });
      }
    }
    const headers = { 'x-api-key': '0123456789abcdef' };
    expect(await call('GET', '/cf/admin/projects', { headers })).toMatchObject({ status: 200 });
  });
});

describe('DATA_DIR', () => {
  it('keeps everything over a restart, tokens too, and is filled only once', async () => {
    const folder = newFolder();
    const first = await start(folder);
    const headers = await first.signIn();
    for (const identifier of ['banner-text', 'dark-mode', 'page-size', 'theme']) {
      expect((await first.admin('DELETE', `/features/${identifier}`)).status).toBe(204);
    }
    await first.admin('POST', '/features', SCOPE, NEW_FLAG);
    await first.admin('PATCH', '/features/checkout.v2', IN_DEV, stateOf('on'));
    const path = `/api/1.0/client/env/${DEV}/feature-configs`;
    const before = await first.call('GET', path, { headers });
    await first.app.close();

    const second = await start(folder);
    const after = await second.call('GET', path, { headers });
    expect(after).toMatchObject({ status: 200, text: before.text });
    expect(after.body).toMatchObject([{ feature: 'checkout.v2', state: 'on', version: 2 }]);
  });

  it('holds no key as it is', async () => {
    const folder = newFolder();
    const { app, signIn } = await start(folder);
    await signIn();
    await app.close();
    for (const name of readdirSync(folder)) {
      const content = readFileSync(join(folder, name)).toString('latin1');
      expect(content).not.toContain(PROXY_KEY);
      expect(content).not.toContain('20000000-0000');
    }
  });

  it('is closed to other users of the machine', async () => {
    const folder = newFolder();
    await start(folder);
    expect(statSync(join(folder, 'control-plane.sqlite')).mode & 0o077).toBe(0);
  });

  it('is refused to a second process, which says who holds it', async () => {
    const folder = newFolder();
    const first = await start(folder);
    await expect(start(folder)).rejects.toMatchObject({
      name: 'StartupError',
      message: expect.stringContaining(`is in use by process ${process.pid}`),
    });
    expect((await first.admin('GET', '/projects')).status).toBe(200);
    await first.app.close();
    expect((await (await start(folder)).admin('GET', '/projects')).status).toBe(200);
  });

  it('is free again when the port was not', async () => {
    const folder = newFolder();
    const { url } = await start();
    await expect(start(folder, { CONTROL_PLANE_PORT: new URL(url).port })).rejects.toMatchObject({
      name: 'StartupError',
      message: expect.stringContaining('CONTROL_PLANE_PORT'),
    });
    expect((await start(folder)).url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  });

  it('is refused when it is a file, or holds something else', async () => {
    const file = join(newFolder(), 'file');
    writeFileSync(file, '');
    await expect(start(file)).rejects.toMatchObject({
      name: 'StartupError',
      message: expect.stringMatching(/DATA_DIR .* cannot be used .* set DATA_DIR to another folder/),
    });

    const noise = newFolder();
    writeFileSync(join(noise, 'control-plane.sqlite'), 'no database, but a text of some length. '.repeat(50));
    await expect(start(noise)).rejects.toMatchObject({
      name: 'StartupError',
      message: expect.stringContaining('is no readable database'),
    });

    const foreign = newFolder();
    const other = new DatabaseSync(join(foreign, 'control-plane.sqlite'));
    other.exec('CREATE TABLE recipes (name TEXT)');
    other.close();
    await expect(start(foreign)).rejects.toMatchObject({
      name: 'StartupError',
      message: expect.stringContaining('another program'),
    });
  });

  it('is refused when a later version wrote it', async () => {
    const folder = newFolder();
    await (await start(folder)).app.close();
    const database = new DatabaseSync(join(folder, 'control-plane.sqlite'));
    database.exec('PRAGMA user_version = 99');
    database.close();
    await expect(start(folder)).rejects.toMatchObject({ message: expect.stringContaining('later version') });
  });
});

describe('Evaluation counts', () => {
  const HOUR_MS = 3_600_000;
  /** A full hour of today, or of yesterday if today has none yet. */
  const HOUR = Math.floor(Date.now() / HOUR_MS) * HOUR_MS - HOUR_MS;
  const entry = (
    flag: string | undefined,
    variation: string,
    count: unknown,
    timestamp: unknown = HOUR,
    sdk: { language?: string; type?: string } = {},
  ) => ({
    timestamp,
    count,
    metricsType: 'FFMETRICS',
    attributes: [
      ...(flag === undefined ? [] : [{ key: 'featureIdentifier', value: flag }]),
      { key: 'variationIdentifier', value: variation },
      { key: 'target', value: null },
      ...(sdk.language ? [{ key: 'SDK_LANGUAGE', value: sdk.language }] : []),
      ...(sdk.type ? [{ key: 'SDK_TYPE', value: sdk.type }] : []),
    ],
  });
  const started = async (folder?: string) => {
    const running = await start(folder);
    const { call, admin, signIn } = running;
    const headers = await signIn();
    return {
      ...running,
      headers,
      post: (body: unknown, environment = DEV, given: Record<string, string> = headers) =>
        call('POST', `/api/1.0/metrics/${environment}`, { query: { cluster: '1' }, headers: given, body }),
      read: async (more: Record<string, string> = {}) => admin('GET', '/metrics', { ...IN_DEV, ...more }),
    };
  };
  /** `flag/variation` → its total. */
  const totals = ({ body }: { body: unknown }) =>
    Object.fromEntries(
      (body as { series: { flag: string; variation: string; total: number }[] }).series.map(
        ({ flag, variation, total }) => [`${flag}/${variation}`, total],
      ),
    );

  it('are added by flag, variation and time, and outlive a restart', async () => {
    const folder = newFolder();
    const first = await started(folder);
    expect(await first.post({ metricsData: [entry('a', 'yes', 2), entry('a', 'no', 3)] })).toMatchObject({
      status: 200,
    });
    await first.post({ metricsData: [entry('a', 'yes', 5, HOUR + 59_999)], targetData: null });
    await first.post({ metricsData: [entry('a', 'yes', 7, HOUR + 60_000)] });
    await first.post({ metricsData: [entry('a', 'yes', 11)] }, PROD);
    await first.app.close();

    const { read } = await started(folder);
    const { status, body } = await read({ bucket: 'minute', from: `${HOUR}`, to: `${HOUR + HOUR_MS}` });
    expect(status).toBe(200);
    expect(body).toEqual({
      bucket: 'minute',
      from: HOUR,
      to: HOUR + HOUR_MS,
      series: [
        { flag: 'a', variation: 'no', lastAccess: HOUR, total: 3, counts: [{ time: HOUR, count: 3 }] },
        {
          flag: 'a',
          variation: 'yes',
          lastAccess: HOUR + 60_000,
          total: 14,
          counts: [
            { time: HOUR, count: 7 },
            { time: HOUR + 60_000, count: 7 },
          ],
        },
      ],
      itemCount: 2,
      pageCount: 1,
      pageIndex: 0,
      pageSize: 100,
    });
    expect(totals(await read({ environmentIdentifier: 'prod' }))).toEqual({ 'a/yes': 11 });
  });

  it('are found by flag, variation, kind of SDK and time', async () => {
    const { post, read } = await started();
    const [node, browser] = [
      { language: 'javascript', type: 'server' },
      { language: 'javascript', type: 'client' },
    ];
    await post({
      metricsData: [
        entry('a', 'yes', 1, HOUR, node),
        entry('a', 'yes', 2, HOUR, browser),
        entry('a', 'no', 4, HOUR, node),
        entry('b', 'yes', 8, HOUR, node),
        entry('b', 'yes', 16, HOUR - HOUR_MS, node),
      ],
    });
    expect(totals(await read())).toEqual({ 'a/no': 4, 'a/yes': 3, 'b/yes': 24 });
    expect(totals(await read({ flag: 'a' }))).toEqual({ 'a/no': 4, 'a/yes': 3 });
    expect(totals(await read({ flag: 'a', variation: 'yes' }))).toEqual({ 'a/yes': 3 });
    expect(totals(await read({ sdk: 'javascript client' }))).toEqual({ 'a/yes': 2 });
    expect(totals(await read({ from: `${HOUR}` }))).toEqual({ 'a/no': 4, 'a/yes': 3, 'b/yes': 8 });
    expect(totals(await read({ to: `${HOUR}`, flag: 'b' }))).toEqual({ 'b/yes': 16 });
    expect(totals(await read({ flag: 'none' }))).toEqual({});

    const bySdk = await read({ flag: 'a', groupBy: 'sdk' });
    expect(bySdk.body.series).toMatchObject([
      { sdk: 'javascript client', total: 2 },
      { sdk: 'javascript server', total: 5 },
    ]);
    const byFlag = await read({ groupBy: 'flag', pageSize: '1', pageNumber: '1' });
    expect(byFlag.body).toMatchObject({ itemCount: 2, pageCount: 2, series: [{ flag: 'b', total: 24 }] });
    expect(byFlag.body.series[0]).not.toHaveProperty('variation');
  });

  it('are told flag by flag, with when each was last asked for', async () => {
    const { post, admin, url } = await started();
    const LONG_AGO = HOUR - 8 * 24 * HOUR_MS;
    await post({
      metricsData: [
        entry('dark-mode', 'true', 2, HOUR + 7),
        entry('dark-mode', 'true', 3, HOUR),
        entry('dark-mode', 'gone', 1),
        entry('theme', 'classic', 4, LONG_AGO),
        entry('page-size', 'small', 5, HOUR - 31 * 24 * HOUR_MS),
      ],
    });
    const { status, body } = await admin('GET', '/features/metrics', IN_DEV);
    expect(status).toBe(200);
    expect(
      body.map(({ identifier, status: is }: { identifier: string; status: unknown }) => [identifier, is]),
    ).toEqual([
      ['banner-text', { status: 'never-requested', lastAccess: 0 }],
      ['dark-mode', { status: 'active', lastAccess: HOUR + 7 }],
      ['page-size', { status: 'inactive', lastAccess: HOUR - 31 * 24 * HOUR_MS }],
      ['theme', { status: 'inactive', lastAccess: LONG_AGO }],
    ]);
    expect(body[1]).toMatchObject({
      name: 'Dark mode',
      results: [
        { variationIdentifier: 'true', variationName: 'True', count: 5 },
        { variationIdentifier: 'false', variationName: 'False', count: 0 },
      ],
    });
    expect(body[3].results[0]).toMatchObject({ variationIdentifier: 'classic', count: 4 });
    const some = async (query: string) => {
      const scope = new URLSearchParams(IN_DEV).toString();
      const response = await fetch(`${url}/cf/admin/features/metrics?${scope}&${query}`, { headers: ADMIN });
      return ((await response.json()) as { identifier: string }[]).map(({ identifier }) => identifier);
    };
    expect(await some('featureIDs=theme&featureIDs=unknown&featureIDs=dark-mode')).toEqual([
      'dark-mode',
      'theme',
    ]);
    expect(await some('featureIDs=theme')).toEqual(['theme']);
    expect(await some('pageNumber=1&pageSize=3')).toEqual(['theme']);
  });

  it('are read in buckets that are whole, and no further back than those are kept', async () => {
    const { read } = await started();
    const { body: hours } = await read();
    expect(hours).toMatchObject({ bucket: 'hour', series: [] });
    expect(hours.to - hours.from).toBe(24 * HOUR_MS);
    expect([hours.from % HOUR_MS, hours.to > Date.now()]).toEqual([0, true]);
    const { body: inside } = await read({ from: `${HOUR + 5}`, to: `${HOUR + 6}` });
    expect(inside).toMatchObject({ from: HOUR, to: HOUR + HOUR_MS });
    const { body: all } = await read({ bucket: 'minute', from: '0' });
    expect(all.to - all.from).toBe(24 * HOUR_MS);
  });

  it('are asked for in a way that can be answered, or it is said what is wrong', async () => {
    const { read } = await started();
    for (const [name, value] of Object.entries({
      from: 'yesterday',
      to: '-1',
      bucket: 'week',
      groupBy: 'target',
      pageSize: '1001',
    })) {
      const { status, body } = await read({ [name]: value });
      expect([name, status]).toEqual([name, 400]);
      expect(body.message).toContain(name);
    }
    expect(await read({ from: '2', to: '2' })).toMatchObject({
      status: 400,
      body: { message: 'from: must be before to' },
    });
    const { body } = await read({ bucket: 'minute', from: '0', pageSize: '1000' });
    expect(body.message).toContain('pageSize: at most 104');
    expect(await read({ environmentIdentifier: 'none' })).toMatchObject({ status: 404 });
  });

  it('are refused, all of a report, when one is none, and told which', async () => {
    const { post, read } = await started();
    const refusal = async (...entries: unknown[]) => {
      const { status, body } = await post({ metricsData: [entry('a', 'yes', 1), ...entries] });
      expect([status, body.code]).toEqual([400, '400']);
      return body.message as string;
    };
    expect(await refusal(entry('a', 'yes', -1))).toContain('metricsData.1.count');
    expect(await refusal(entry('a', 'yes', 1.5))).toContain('metricsData.1.count');
    expect(await refusal(entry('a', 'yes', 1), entry('a', 'yes', 1, 'noon'))).toContain(
      'metricsData.2.timestamp',
    );
    expect(await refusal({ timestamp: HOUR, count: 1 })).toContain('metricsData.1.attributes');
    expect(await refusal(7)).toContain('metricsData.1');
    expect((await refusal(...Array.from({ length: 100_000 }, () => 7))).length).toBeLessThan(1000);
    expect((await post({ metricsData: {} })).body.message).toContain('metricsData');
    expect((await post('{"metricsData":')).status).toBe(400);
    expect((await read()).body.series).toEqual([]);
  });

  it('under names that are too long are added under what begins them, and others are as ever', async () => {
    const { post, read } = await started();
    const long = (length: number) => 'x'.repeat(length);
    const sdk = { language: long(80), type: 'server' };
    const entries = [
      entry('a', 'yes', 1),
      entry('a', 'no', 2, HOUR, sdk),
      entry(long(300), long(300), 4),
      entry(long(256), long(256), 8),
    ];
    expect((await post({ metricsData: entries })).status).toBe(200);
    expect(totals(await read())).toEqual({ 'a/yes': 1, 'a/no': 2, [`${long(256)}/${long(256)}`]: 12 });
    expect(totals(await read({ sdk: long(64) }))).toEqual({ 'a/no': 2 });
  });

  it('that name no flag say nothing, and a report may be empty', async () => {
    const { post, read } = await started();
    expect((await post({})).status).toBe(200);
    expect((await post({ metricsData: null })).status).toBe(200);
    expect((await post({ metricsData: [entry(undefined, 'yes', 1), entry('a', 'yes', 1)] })).status).toBe(
      200,
    );
    expect(totals(await read())).toEqual({ 'a/yes': 1 });
  });

  it('are taken only with a token that opens the environment', async () => {
    const { post } = await started();
    const body = { metricsData: [entry('a', 'yes', 1)] };
    expect((await post(body, DEV, {})).status).toBe(401);
    expect((await post(body, '10000000-0000-4000-8000-0000000000ff')).status).toBe(403);
  });

  it('are told to who follows the admin API, and not to relays', async () => {
    const running = await started();
    const relay = await accountStream(running);
    const page = await follow(`${running.url}/cf/admin/events`, ADMIN);
    expect(await page.frame()).toBe(':\n\n');
    await running.post({ metricsData: [entry('a', 'yes', 1)] });
    await running.admin('PATCH', '/features/theme', IN_DEV, stateOf('on'));
    expect(await page.message()).toMatchObject({ domain: 'metrics', environment: DEV });
    expect(await page.message()).toMatchObject({ domain: 'flag', identifier: 'theme' });
    expect(await relay.message()).toMatchObject({ domain: 'flag', identifier: 'theme' });
  });

  it.each([
    ['had none', 1, ''],
    [
      'had minutes alone',
      2,
      `CREATE TABLE counts (
         environment TEXT NOT NULL REFERENCES environments, minute INTEGER NOT NULL, flag TEXT NOT NULL,
         variation TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (environment, minute, flag, variation)
       ) STRICT, WITHOUT ROWID;
       INSERT INTO counts VALUES ('${DEV}', ${HOUR}, 'a', 'yes', 2), ('${DEV}', ${HOUR + 60_000}, 'a', 'yes', 3);`,
    ],
  ])('find a place in a file that %s, and keep what was there', async (_, version, sql) => {
    const folder = newFolder();
    await (await start(folder)).app.close();
    const database = new DatabaseSync(join(folder, 'control-plane.sqlite'));
    database.exec(
      `DROP TABLE count_series; DROP TABLE count_buckets; ${sql} PRAGMA user_version = ${version}`,
    );
    database.close();
    const first = await started(folder);
    await first.post({ metricsData: [entry('a', 'yes', 1)] });
    const expected = { 'a/yes': version === 2 ? 6 : 1 };
    expect(totals(await first.read())).toEqual(expected);
    await first.app.close();
    expect(totals(await (await started(folder)).read())).toEqual(expected);
  });
});

describe('What is imported', () => {
  const KEY = 'a proxy key of before';
  const E1 = '40000000-0000-4000-8000-000000000001';
  const E2 = '40000000-0000-4000-8000-000000000002';
  // Not in the order in which this program would write it, and with a field that it does not know.
  const flag = (feature: string, changes: object = {}) => ({
    version: 41,
    state: 'on',
    unknown: { b: 1, a: 2 },
    feature,
    project: 'shop',
    environment: 'live',
    kind: 'boolean',
    variations: [
      { value: 'true', identifier: 'yes' },
      { value: 'false', identifier: 'no' },
    ],
    offVariation: 'no',
    defaultServe: { variation: 'yes' },
    variationToTargetMap: null,
    ...changes,
  });
  const environment = (id: string, changes: object = {}) => ({
    id,
    project: 'shop',
    identifier: 'live',
    apiKeys: [sha256(`key of ${id}`)],
    flags: [flag('a'), flag('b')],
    segments: [{ identifier: 'beta', name: 'Beta', version: 3, rules: null, servingRules: [] }],
    ...changes,
  });
  const imported = (environments: readonly object[], changes: object = {}) => ({
    account: 'acme',
    organization: 'default',
    proxyKey: { identifier: 'relay', hash: sha256(KEY), isNew: false },
    environments,
    ...changes,
  });
  const send = (running: Running, body: unknown, headers: Record<string, string> = ADMIN) =>
    running.call('POST', '/gateway/cf/admin/import', {
      headers: { 'content-type': 'application/vnd.ff-relay.bundle+json', ...headers },
      body,
    });
  const authorized = async (running: Running, proxyKey = KEY) => {
    const { status, body } = await running.call('POST', '/api/1.0/proxy/auth', { body: { proxyKey } });
    return { status, headers: { authorization: `Bearer ${body.authToken}` } };
  };
  const configOf = async (running: Running) => {
    const { headers } = await authorized(running);
    const { body } = await running.call('GET', '/api/1.0/proxy/config', { query: { key: KEY }, headers });
    return body.environments;
  };

  it('is served as it was: ids, versions, hashes of keys, and every byte of the flags', async () => {
    const running = await start();
    expect(await send(running, imported([environment(E1)]))).toMatchObject({
      status: 200,
      body: { proxyKeyAdded: true },
    });
    expect(await configOf(running)).toEqual([
      {
        id: E1,
        apiKeys: [sha256(`key of ${E1}`)],
        featureConfigs: [flag('a'), flag('b')],
        segments: environment(E1).segments,
      },
    ]);
    const { headers } = await authorized(running);
    const { text } = await running.call('GET', `/api/1.0/client/env/${E1}/feature-configs`, { headers });
    expect(text).toBe(JSON.stringify([flag('a'), flag('b')]));
  });

  it('can be switched, and goes on from its versions', async () => {
    const running = await start(newFolder(), { DEMO_DATA: 'false' });
    await send(running, imported([environment(E1)]));
    const scope = { accountIdentifier: 'acme', orgIdentifier: 'default', projectIdentifier: 'shop' };
    const { body } = await running.admin('GET', '/projects', {});
    expect(body.data.projects).toMatchObject([{ identifier: 'shop', accountIdentifier: 'acme' }]);
    const inLive = { ...scope, environmentIdentifier: 'live' };
    expect((await running.admin('PATCH', '/features/a', inLive, stateOf('off'))).status).toBe(200);
    const [live] = await configOf(running);
    expect(live.featureConfigs[0]).toEqual(flag('a', { state: 'off', version: 42 }));
    const feature = await running.admin('GET', '/features/b', inLive);
    expect(feature.body).toMatchObject({ kind: 'boolean', envProperties: { state: 'on', version: 41 } });
  });

  it('replaces what is there only if that is asked for, and then all of it', async () => {
    const running = await start();
    await send(running, imported([environment(E1), environment(E2, { identifier: 'test' })]));
    const next = imported([
      environment(E1, { flags: [flag('b', { version: 50 })], segments: [], apiKeys: [] }),
    ]);
    const refused = await send(running, next);
    expect(refused).toMatchObject({ status: 409, body: { message: `environment ${E1} is here already` } });
    expect(await configOf(running)).toMatchObject([{ featureConfigs: [{}, {}] }, {}]);
    expect((await send(running, { ...next, replace: true })).status).toBe(200);
    expect(await configOf(running)).toMatchObject([
      { id: E1, apiKeys: [], featureConfigs: [{ feature: 'b', version: 50 }], segments: [] },
      { id: E2, featureConfigs: [{ feature: 'a' }, { feature: 'b' }] },
    ]);
  });

  describe('without flags, which alone tell a project,', () => {
    const empty = (id: string) => environment(id, { identifier: id, project: undefined, flags: [] });
    /** By name, of both lists. */
    const inProject = async (running: Running, projectIdentifier: string) => {
      const scope = { accountIdentifier: 'acme', orgIdentifier: 'default', projectIdentifier };
      const names = (list: { identifier: string }[]) => list.map(({ identifier }) => identifier);
      const { body: environments } = await running.admin('GET', '/environments', scope);
      const { body: features } = await running.admin('GET', '/features', scope);
      return [names(environments.data.environments), names(features.features)];
    };

    it('is in a project of its own until flags tell another', async () => {
      const running = await start();
      await send(running, imported([empty(E1), environment(E2)]));
      expect(await inProject(running, 'default')).toEqual([[E1], []]);
      const next = imported([environment(E1, { identifier: 'test', flags: [flag('c')] })], { replace: true });
      expect((await send(running, next)).status).toBe(200);
      expect(await inProject(running, 'default')).toEqual([[], []]);
      expect(await inProject(running, 'shop')).toEqual([
        ['live', 'test'],
        ['a', 'b', 'c'],
      ]);
    });

    it('stays where it was', async () => {
      const running = await start();
      await send(running, imported([environment(E1)]));
      expect((await send(running, imported([empty(E1)], { replace: true }))).status).toBe(200);
      expect(await inProject(running, 'shop')).toEqual([['live'], []]);
      expect((await send(running, imported([environment(E1)], { replace: true }))).status).toBe(200);
      const elsewhere = imported([environment(E1, { project: 'office' })], { replace: true });
      expect(await send(running, elsewhere)).toMatchObject({
        status: 409,
        body: {
          message: `environment ${E1} belongs to project shop of account acme, organization default`,
        },
      });
      const other = imported([empty(E1)], { replace: true, account: 'umbrella' });
      expect((await send(running, other)).status).toBe(409);
    });
  });

  it('moves an SDK key between environments of one import, and takes none from others', async () => {
    const running = await start();
    await send(running, imported([environment(E1), environment(E2, { identifier: 'test' })]));
    const [first, second] = [[sha256(`key of ${E1}`)], [sha256(`key of ${E2}`)]];
    const swapped = [environment(E1, { apiKeys: second }), environment(E2, { apiKeys: first })];
    expect((await send(running, imported(swapped, { replace: true }))).status).toBe(200);
    expect(await configOf(running)).toMatchObject([{ apiKeys: second }, { apiKeys: first }]);
    const demo = sha256('20000000-0000-4000-8000-000000000001');
    const other = '40000000-0000-4000-8000-000000000003';
    expect(await send(running, imported([environment(other, { apiKeys: [demo] })]))).toMatchObject({
      status: 409,
      body: { message: expect.stringContaining(`opens environment ${DEV}`) },
    });
  });

  it('is told to relays that come by the same proxy key, and to no others', async () => {
    const running = await start();
    await send(running, imported([environment(E1)]));
    const { headers } = await authorized(running);
    const own = await follow(`${running.url}/api/1.0/stream`, { ...headers, 'API-Key': KEY });
    const others = await accountStream(running);
    await own.frame();
    await send(running, imported([environment(E2, { identifier: 'test' })]));
    expect(await own.message()).toMatchObject({
      event: 'environmentsAdded',
      domain: 'proxy',
      environments: [E2],
    });
    await running.admin('PATCH', '/features/dark-mode', IN_DEV, stateOf('off'));
    expect(await others.message()).toMatchObject({ identifier: 'dark-mode' });
  });

  it('brings a new proxy key only where there is none', async () => {
    const running = await start();
    const made = (key: string) => ({ proxyKey: { identifier: key, hash: sha256(key), isNew: true } });
    expect((await send(running, imported([environment(E1)], made('one')))).body).toEqual({
      proxyKeyAdded: true,
    });
    const again = { ...made('two'), replace: true };
    expect((await send(running, imported([environment(E1)], again))).body).toEqual({ proxyKeyAdded: false });
    expect((await authorized(running, 'one')).status).toBe(200);
    expect((await authorized(running, 'two')).status).toBe(401);
  });

  it('is taken from administrators alone, and checked as a whole', async () => {
    const running = await start(newFolder(), { ADMIN_TOKEN: 'a-token-of-16-letters' });
    expect((await send(running, imported([environment(E1)]))).status).toBe(401);
    const token = { 'x-api-key': 'a-token-of-16-letters' };
    expect((await send(running, '{', token)).status).toBe(400);
    const wrong = imported([environment(E1), environment(E2, { flags: [flag('a', { state: 'maybe' })] })]);
    expect(await send(running, wrong, token)).toMatchObject({
      status: 400,
      body: { message: expect.stringContaining('environments.1.flags.0.state') },
    });
    expect((await authorized(running)).status).toBe(401);
    expect(
      (await send(running, imported([environment(E1)]), { ...token, 'content-type': 'application/json' }))
        .status,
    ).toBe(415);
  });
});

describe('The page', () => {
  it('is served with the types and the policy that keep browsers strict', async () => {
    const { url } = await start();
    for (const [path, type] of [
      ['/', 'text/html; charset=utf-8'],
      ['/page.css', 'text/css; charset=utf-8'],
      ['/page.mjs', 'text/javascript; charset=utf-8'],
      ['/icon.svg', 'image/svg+xml'],
    ]) {
      const { status, headers } = await fetch(url + path);
      expect([path, status, headers.get('content-type')]).toEqual([path, 200, type]);
      expect(headers.get('cache-control')).toBe('no-cache');
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self';/);
      expect(headers.get('content-security-policy')).not.toContain('unsafe');
    }
  });
});
