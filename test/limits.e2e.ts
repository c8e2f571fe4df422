import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

import { eventually, SdkSession } from './support/clients.js';
import { DEMO, type Service, Workspace } from './support/processes.js';
import { head, Wire } from './support/wire.js';

let workspace: Workspace;
let controlPlane: Service;
beforeAll(async () => {
  workspace = new Workspace();
  controlPlane = await workspace.controlPlane(await workspace.folder());
});
afterAll(() => workspace.dispose());

const startRelay = async (settings: NodeJS.ProcessEnv = {}) =>
  workspace.relay(await workspace.folder(), controlPlane.url, 0, settings);

function expectRefusal(wire: Wire, status: number): void {
  expect(wire.status).toBe(status);
  expect(wire.header('access-control-allow-origin')).toBe('*');
  expect(wire.header('content-type')).toContain('application/json');
  const text = expect.any(String);
  expect(wire.body).toEqual({ error: text, code: String(status), message: text });
}

describe('What is too large', () => {
  const MIB = 1024 * 1024;
  const bearer = { authorization: '' };
  const flags = `/client/env/${DEMO.dev.id}/feature-configs`;
  let relay: Service;
  beforeAll(async () => {
    relay = await startRelay();
    bearer.authorization = `Bearer ${(await SdkSession.signIn(relay.url)).token}`;
  });
  const chunked = (bytes: number) => [
    ...Array.from({ length: Math.ceil(bytes / MIB) }, () => `100000\r\n${'x'.repeat(MIB)}\r\n`),
    '0\r\n\r\n',
  ];

  it.each<[string, number, () => string[]]>([
    [
      'headers of 600 KB',
      431,
      () => [head('GET', flags, { ...bearer, 'harness-target': 'x'.repeat(600_000) })],
    ],
    [
      'headers of 5 MB',
      431,
      () => [head('GET', flags, { ...bearer, 'harness-target': 'x'.repeat(5 * MIB) })],
    ],
    ['a URL of 33 KB', 414, () => [head('GET', `${flags}?cluster=${'1'.repeat(33 * 1024)}`, bearer)]],
    ['a URL of 33 KB that is no route', 414, () => [head('GET', `/${'x'.repeat(33 * 1024)}`)]],
    [
      'a sign-in of 5 MB',
      413,
      () => [head('POST', '/client/auth', { 'content-length': 5 * MIB }), 'x'.repeat(5 * MIB)],
    ],
    [
      'a sign-in of 5 MB in chunks',
      413,
      () => [head('POST', '/client/auth', { 'transfer-encoding': 'chunked' }), ...chunked(5 * MIB)],
    ],
    [
      'counts of 34 MB',
      400,
      () => [
        head('POST', `/metrics/${DEMO.dev.id}`, { ...bearer, 'content-length': 34 * MIB }),
        'x'.repeat(34 * MIB),
      ],
    ],
    [
      'counts of 34 MB in chunks',
      400,
      () => [
        head('POST', `/metrics/${DEMO.dev.id}`, { ...bearer, 'transfer-encoding': 'chunked' }),
        ...chunked(34 * MIB),
      ],
    ],
    ['what is no HTTP', 400, () => ['EHLO relay\r\n\r\n']],
  ])('is refused in the form that SDKs and browsers read: %s', async (_, status, request) => {
    const wire = await Wire.to(relay.port, ...request());
    await wire.answered();
    expectRefusal(wire, status);
    wire.socket.destroy();
    expect((await fetch(`${relay.url}${flags}`, { headers: bearer })).status).toBe(200);
  });

  it('is a matter of settings', async () => {
    const small = await startRelay({
      HEADER_LIMIT: '16384',
      URL_LIMIT: '2048',
      AUTH_BODY_LIMIT: '1024',
      METRICS_BODY_LIMIT: '1024',
    });
    const status = async (path: string, init: RequestInit) =>
      (await fetch(`${small.url}${path}`, init)).status;
    const post = (bytes: number) => ({ method: 'POST', headers: bearer, body: 'x'.repeat(bytes) });
    expect(await status(flags, { headers: { ...bearer, 'harness-target': 'x'.repeat(17_000) } })).toBe(431);
    expect(await status(`${flags}?${'x'.repeat(2100)}`, { headers: bearer })).toBe(414);
    expect(await status('/client/auth', post(1025))).toBe(413);
    const counts = await fetch(`${small.url}/metrics/${DEMO.dev.id}`, post(1025));
    expect([counts.status, await counts.text()]).toEqual([
      400,
      expect.stringContaining('METRICS_BODY_LIMIT'),
    ]);
  });
});

describe('What comes in any number', () => {
  const HEAP_MB = 128;
  const EACH_BYTES = 400_000;
  /** Of each kind, twice what the heap holds. */
  const TIMES = (2 * HEAP_MB * 1_000_000) / EACH_BYTES;
  const rest = 'x'.repeat(EACH_BYTES);

  it.each<[string, (n: number, token: string) => [path: string, init: RequestInit, status: number]]>([
    [
      'sign-ins of other targets',
      (n) => {
        const target = { identifier: `target-${n}`, attributes: { rest } };
        const body = JSON.stringify({ apiKey: DEMO.dev.serverKey, target });
        return ['/client/auth', { method: 'POST', body }, 200];
      },
    ],
    [
      'evaluations for other targets',
      (n, token) => {
        const target = { identifier: `target-${n}`, attributes: { rest: rest.slice(0, 300_000) } };
        const header = Buffer.from(JSON.stringify(target)).toString('base64');
        const headers = { authorization: `Bearer ${token}`, 'harness-target': header };
        return [`/client/env/${DEMO.dev.id}/target/${n}/evaluations`, { headers }, 200];
      },
    ],
    [
      'evaluations by OFREP of other contexts',
      (n) => {
        const context = { targetingKey: `${n}`, rest: rest.slice(0, 250_000) };
        const headers = { 'x-api-key': DEMO.dev.serverKey };
        const body = JSON.stringify({ context });
        return ['/ofrep/v1/evaluate/flags', { method: 'POST', headers, body }, 200];
      },
    ],
    [
      'tokens of strangers',
      (n) => {
        const headers = { authorization: `Bearer ${n}.${rest}.${n}` };
        return [`/client/env/${DEMO.dev.id}/feature-configs`, { headers }, 401];
      },
    ],
  ])('does not fill the memory: %s', async (_, request) => {
    const relay = await startRelay({ NODE_OPTIONS: `--max-old-space-size=${HEAP_MB}` });
    const { token } = await SdkSession.signIn(relay.url);
    const statuses = new Set<number>();
    let status = 0;
    let sent = 0;
    const sender = async () => {
      while (sent < TIMES) {
        const [path, init, expected] = request(sent++, token);
        const response = await fetch(`${relay.url}${path}`, init);
        await response.arrayBuffer();
        statuses.add(response.status);
        status = expected;
      }
    };
    await Promise.all(Array.from({ length: 4 }, sender));
    expect(statuses).toEqual(new Set([status]));
    expect(await (await SdkSession.signIn(relay.url)).flags()).toContain('dark-mode');
  });
});

describe('Who takes their time', () => {
  let relay: Service;
  beforeAll(async () => (relay = await startRelay({ REQUEST_TIMEOUT: '1' })));

  it.each<[string, string, string]>([
    ['headers', 'GET /health HTTP/1.1\r\n', 'x: y\r\n'],
    ['a sign-in', head('POST', '/client/auth', { 'content-length': 100_000 }), ' '],
  ])('over %s is answered 408 and let go, though they send a little all the time', async (_, first, next) => {
    const wire = await Wire.to(relay.port, first);
    const dripping = setInterval(() => wire.socket.write(next), 50);
    await wire.closed;
    clearInterval(dripping);
    expectRefusal(wire, 408);
  });

  it('over counts is let go', async () => {
    const { token } = await SdkSession.signIn(relay.url);
    const headers = { authorization: `Bearer ${token}`, 'content-length': 100_000 };
    const wire = await Wire.to(relay.port, head('POST', `/metrics/${DEMO.dev.id}`, headers));
    const dripping = setInterval(() => wire.socket.write(' '), 50);
    await wire.closed;
    clearInterval(dripping);
    expectRefusal(wire, 408);
  });

  it('and says nothing at all is let go', async () => {
    const wire = await Wire.to(relay.port);
    await wire.closed;
    expect(wire.status).toBe(408);
  });

  it('over reading a stream is not meant by it', async () => {
    const session = await SdkSession.signIn(relay.url);
    const stop = new AbortController();
    const events = (await session.stream(stop.signal))[Symbol.asyncIterator]();
    const next = events.next();
    // As long as the relay needs to let go of somebody who came later.
    await (
      await Wire.to(relay.port)
    ).closed;
    const ended = Symbol('still open');
    expect(await Promise.race([next, Promise.resolve(ended)])).toBe(ended);
    stop.abort();
    await next;
  });
});

describe('A relay that is told to stop', () => {
  it('is unready at once, finishes what is under way, takes nobody new, and ends with 0', async () => {
    const relay = await startRelay();
    const [, managementPort] = await relay.process.printed(/Answering .* on port (\d+)/);
    const readiness = async () => {
      const response = await fetch(`http://127.0.0.1:${managementPort}/readyz`);
      return { status: response.status, body: await response.json() };
    };
    expect(await readiness()).toEqual({ status: 200, body: { ready: true } });
    const { token } = await SdkSession.signIn(relay.url);
    const body = JSON.stringify({ metricsData: [] });
    const headers = { authorization: `Bearer ${token}`, 'content-length': body.length };
    const wire = await Wire.to(
      relay.port,
      // Its first answer says that the second request is about to be read.
      head('GET', '/health') + head('POST', `/metrics/${DEMO.dev.id}`, headers) + body.slice(0, 5),
    );
    await wire.answered();
    wire.text = '';
    relay.process.signal('SIGTERM');
    const stopping = await eventually(readiness, ({ status }) => status === 503);
    expect(stopping.body).toMatchObject({ ready: false, reasons: { gateway: 'it is stopping' } });
    await eventually(
      () =>
        fetch(`${relay.url}/health`).then(
          () => 'served',
          () => 'refused',
        ),
      (outcome) => outcome === 'refused',
    );
    wire.socket.write(body.slice(5));
    await wire.closed;
    expect([wire.status, wire.text.endsWith('null')]).toEqual([200, true]);
    expect(await relay.process.exited).toBe(0);
  });
});
