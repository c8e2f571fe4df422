import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import { afterEach, describe, expect, it } from '@jest/globals';

import {
  type CallObserver,
  SaasClient,
  type Session,
  type StreamEvent,
  UnusableAnswer,
  type UpstreamCall,
  UpstreamRefusal,
  UpstreamUnreachable,
} from './index.js';

const PROXY_KEY = '30000000-0000-4000-8000-00000000secret';
const TOKEN = `e30.${Buffer.from('{"account":"acc","cluster_identifier":"2"}').toString('base64url')}.signature`;
const SESSION: Session = { token: TOKEN, account: 'acc', cluster: '2', environments: undefined };
const FOREVER = new AbortController().signal;

const cleanUps: (() => void)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

interface Seen {
  readonly line: string;
  readonly query: Record<string, string>;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** A client of a server that answers as the test says and remembers what it was asked. */
async function given(answer: RequestListener, streamIdleTimeoutMs = 30_000) {
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8');
    request.on('data', (chunk: string) => (body += chunk));
    request.on('end', () => {
      const { pathname, searchParams } = new URL(request.url ?? '', 'http://host');
      const { headers } = request;
      seen.push({
        line: `${request.method} ${pathname}`,
        query: Object.fromEntries(searchParams),
        headers,
        body,
      });
      answer(request, response);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = () => {
    server.closeAllConnections();
    server.close();
  };
  cleanUps.push(stop);
  const { port } = server.address() as AddressInfo;
  const baseUrl = `http://127.0.0.1:${port}/api/1.0`;
  const calls: UpstreamCall[] = [];
  const observe: CallObserver = (call) => void calls.push(call);
  return {
    client: new SaasClient({ baseUrl, proxyKey: { current: PROXY_KEY }, streamIdleTimeoutMs, observe }),
    calls,
    baseUrl,
    seen,
    port,
    stop,
  };
}

const json =
  (...bodies: unknown[]): RequestListener =>
  (_, response) =>
    response.setHeader('content-type', 'application/json').end(JSON.stringify(bodies.shift()));
const text =
  (body: string): RequestListener =>
  (_, response) =>
    response.end(body);
const status =
  (code: number, headers: Record<string, string> = {}): RequestListener =>
  (_, response) =>
    response.writeHead(code, headers).end('no');

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

/** Everything that a log line could show of an error. */
function shown(error: unknown): string {
  const { cause } = Object(error) as Partial<Error>;
  return cause === undefined ? String(error) : `${String(error)} ${shown(cause)}`;
}

describe('Signing in', () => {
  it('sends the proxy key, and nothing that it does not have yet', async () => {
    const { client, seen } = await given(json({ authToken: TOKEN }));
    expect(await client.authenticate(FOREVER)).toEqual(SESSION);
    expect(seen).toMatchObject([
      {
        line: 'POST /api/1.0/proxy/auth',
        query: {},
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ proxyKey: PROXY_KEY }),
      },
    ]);
    expect(seen[0]?.headers).not.toHaveProperty('authorization');
  });

  it.each([
    ['without a token', {}],
    ['with an empty token', { authToken: '' }],
    ['with a token that is no JWT', { authToken: 'opaque' }],
    ['with a token that no header can carry', { authToken: `${TOKEN}\nx` }],
    ['with something else', null],
  ])('fails when it is answered %s', async (_, answer) => {
    const { client } = await given(json(answer));
    expect(await failure(client.authenticate(FOREVER))).toBeInstanceOf(UnusableAnswer);
  });
});

describe('A post of counts', () => {
  const report = {
    environment: 'dev',
    counts: [{ timestamp: 1, count: 2, attributes: { featureIdentifier: 'a', target: '' } }],
    targets: [{ identifier: 'anna', name: 'Anna', attributes: { plan: 'pro' } }],
  };

  it('is in the words of the protocol, with the token, the account and the cluster', async () => {
    const { client, seen } = await given(text('null'));
    await client.postMetrics(SESSION, report, FOREVER);
    expect(seen).toMatchObject([
      {
        line: 'POST /api/1.0/metrics/dev',
        query: { cluster: '2' },
        headers: {
          authorization: `Bearer ${TOKEN}`,
          'harness-accountid': 'acc',
          'harness-environmentid': 'dev',
          'content-type': 'application/json',
        },
      },
    ]);
    expect(JSON.parse(seen[0]?.body ?? '')).toEqual({
      metricsData: [
        {
          timestamp: 1,
          count: 2,
          metricsType: 'FFMETRICS',
          attributes: [
            { key: 'featureIdentifier', value: 'a' },
            { key: 'target', value: '' },
          ],
        },
      ],
      targetData: [{ identifier: 'anna', name: 'Anna', attributes: [{ key: 'plan', value: 'pro' }] }],
    });
  });

  it('goes to an address of its own, if there is one', async () => {
    const { baseUrl, seen } = await given(text('null'));
    const options = {
      baseUrl: 'http://127.0.0.1:1',
      proxyKey: { current: PROXY_KEY },
      streamIdleTimeoutMs: 1000,
    };
    await new SaasClient({ ...options, metricsUrl: baseUrl }).postMetrics(SESSION, report, FOREVER);
    expect(seen).toHaveLength(1);
  });

  it.each([201, 202, 204])('that is answered with %d was taken', async (code) => {
    const { client } = await given(status(code));
    await expect(client.postMetrics(SESSION, report, FOREVER)).resolves.toBeUndefined();
  });

  it.each([302, 400, 401, 413, 429, 500])('that is answered with %d was not', async (code) => {
    const { client } = await given(status(code, { 'retry-after': '7' }));
    expect(await failure(client.postMetrics(SESSION, report, FOREVER))).toMatchObject({
      name: 'UpstreamRefusal',
      status: code,
      retryAfterMs: 7000,
    });
  });

  it('that is taken stays so when the answer breaks off', async () => {
    const { client } = await given((_, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('nu');
      setImmediate(() => response.destroy());
    });
    await expect(client.postMetrics(SESSION, report, FOREVER)).resolves.toBeUndefined();
  });

  it('without an answer is unreachable', async () => {
    const { client } = await given((_, response) => response.destroy());
    expect(await failure(client.postMetrics(SESSION, report, FOREVER))).toBeInstanceOf(UpstreamUnreachable);
  });
});

describe('A target', () => {
  const target = { identifier: 'anna', name: 'Anna', anonymous: false, attributes: { plan: 'pro', n: [1] } };

  it('is registered as if its SDK had signed in, without a session', async () => {
    const { client, seen } = await given(json({ authToken: TOKEN }));
    await client.registerTarget('an-sdk-key', target, FOREVER);
    expect(seen).toMatchObject([
      { line: 'POST /api/1.0/client/auth', query: {}, headers: { 'content-type': 'application/json' } },
    ]);
    expect(JSON.parse(seen[0]?.body ?? '')).toEqual({ apiKey: 'an-sdk-key', target });
    expect(seen[0]?.headers).not.toHaveProperty('authorization');
  });

  it.each([302, 400, 401, 500])(
    'that is answered with %d was not, and no error shows the key',
    async (code) => {
      const { client } = await given(status(code, { 'retry-after': '7', location: '/elsewhere' }));
      const error = await failure(client.registerTarget('an-sdk-key', target, FOREVER));
      expect(error).toMatchObject({ name: 'UpstreamRefusal', status: code, retryAfterMs: 7000 });
      expect(shown(error)).not.toContain('an-sdk-key');
    },
  );

  it('whose answer does not come is given up when it is told so', async () => {
    const stop = new AbortController();
    const { client } = await given(() => stop.abort());
    const error = await failure(client.registerTarget('an-sdk-key', target, stop.signal));
    expect(error).toBeInstanceOf(UpstreamUnreachable);
    expect(shown(error)).not.toContain('an-sdk-key');
  });
});

describe('The reads', () => {
  it('carry the token, the account and the cluster', async () => {
    const { client, seen } = await given(json([], [], { itemCount: 0, pageCount: 0, environments: [] }));
    await client.flags(SESSION, 'dev', FOREVER);
    await client.segments(SESSION, 'dev', FOREVER);
    await all(client.configPages(SESSION, FOREVER));
    const headers = {
      authorization: `Bearer ${TOKEN}`,
      'harness-accountid': 'acc',
      'harness-sdk-info': expect.stringMatching(/^Proxy /),
    };
    expect(seen).toMatchObject([
      {
        line: 'GET /api/1.0/client/env/dev/feature-configs',
        query: { cluster: '2' },
        headers: { ...headers, 'harness-environmentid': 'dev' },
      },
      {
        line: 'GET /api/1.0/client/env/dev/target-segments',
        query: { cluster: '2', rules: 'v2' },
        headers: { ...headers, 'harness-environmentid': 'dev' },
      },
      {
        line: 'GET /api/1.0/proxy/config',
        query: { cluster: '2', key: PROXY_KEY, pageNumber: '0', pageSize: '10' },
        headers,
      },
    ]);
    expect(seen.map(({ query }) => Object.keys(query).length)).toEqual([1, 2, 4]);
  });

  it('leave out an account that was not told', async () => {
    const { client, seen } = await given(json([]));
    await client.flags({ ...SESSION, account: undefined }, 'dev', FOREVER);
    expect(seen[0]?.headers).not.toHaveProperty('harness-accountid');
  });

  it('name any environment safely', async () => {
    const { client, seen } = await given(json([]));
    await client.flags(SESSION, '../a b?', FOREVER);
    expect(seen[0]?.line).toBe('GET /api/1.0/client/env/..%2Fa%20b%3F/feature-configs');
  });

  it('go through all pages of the configuration', async () => {
    const page = (id: string) => ({ itemCount: 3, pageCount: 3, environments: [{ id }] });
    const { client, seen } = await given(json(page('a'), page('b'), page('c')));
    const pages = await all(client.configPages(SESSION, FOREVER));
    expect(pages.flatMap(({ environments }) => environments.map(({ id }) => id))).toEqual(['a', 'b', 'c']);
    expect(seen.map(({ query }) => query['pageNumber'])).toEqual(['0', '1', '2']);
  });

  it('end at a page without environments, however many pages are said to follow', async () => {
    const empty = { itemCount: 3, pageCount: 1_000_000, environments: [] };
    const { client, seen } = await given(json({ ...empty, environments: [{ id: 'a' }] }, empty));
    await expect(all(client.configPages(SESSION, FOREVER))).rejects.toThrow(UnusableAnswer);
    expect(seen).toHaveLength(2);
  });

  it('are not taken to another host by a redirect', async () => {
    const elsewhere = await given(json([]));
    const { client } = await given((_request, response) => {
      response.writeHead(302, { location: elsewhere.baseUrl }).end();
    });
    await expect(client.flags(SESSION, 'dev', FOREVER)).rejects.toMatchObject({ status: 302 });
    expect(elsewhere.seen).toEqual([]);
  });

  it('ask for the next page only when it is wanted', async () => {
    const { client, seen } = await given(json({ itemCount: 2, pageCount: 2, environments: [{ id: 'a' }] }));
    for await (const page of client.configPages(SESSION, FOREVER, 'a')) {
      expect(page.itemCount).toBe(2);
      break;
    }
    expect(seen).toHaveLength(1);
    expect(seen[0]?.query['environment']).toBe('a');
  });
});

describe('An answer that is none', () => {
  const read = (client: SaasClient) => failure(client.flags(SESSION, 'dev', FOREVER));

  it.each([204, 400, 401, 403, 404, 429, 500, 503])(
    'with %i is a refusal that tells the status',
    async (code) => {
      const { client } = await given(status(code));
      const error = await read(client);
      expect(error).toBeInstanceOf(UpstreamRefusal);
      expect(error).toMatchObject({ status: code, retryAfterMs: undefined });
      expect(String(error)).toContain(`was answered with ${code}`);
    },
  );

  it.each([
    ['7', 7000],
    ['0', 0],
    [new Date(0).toUTCString(), 0],
    ['soon', undefined],
    ['-5', 0],
  ])('asks to wait by Retry-After: %s', async (header, waitMs) => {
    const { client } = await given(status(503, { 'retry-after': header }));
    expect(await read(client)).toMatchObject({ retryAfterMs: waitMs });
  });

  it('may ask to wait until a date', async () => {
    const { client } = await given(
      status(429, { 'retry-after': new Date(Date.now() + 60_000).toUTCString() }),
    );
    const { retryAfterMs } = (await read(client)) as UpstreamRefusal;
    expect(retryAfterMs).toBeGreaterThan(30_000);
    expect(retryAfterMs).toBeLessThanOrEqual(60_000);
  });

  it('is a refusal also if its body breaks off', async () => {
    const { client } = await given((request, response) => {
      response.writeHead(503, { 'content-length': 100, 'retry-after': '1' });
      response.write('no', () => request.socket.destroy());
    });
    expect(await read(client)).toMatchObject({ name: 'UpstreamRefusal', status: 503 });
  });

  it.each([['<html>Sign in</html>'], [''], ['[{"feature":'], ['{}'], ['null']])(
    'cannot be used: %j',
    async (body) => {
      const { client } = await given(text(body));
      expect(await read(client)).toBeInstanceOf(UnusableAnswer);
    },
  );

  it('breaks off in the middle', async () => {
    const { client } = await given((request, response) => {
      response.writeHead(200, { 'content-length': 100 });
      response.write('[', () => request.socket.destroy());
    });
    const error = await read(client);
    expect(error).toBeInstanceOf(UpstreamUnreachable);
    expect(String(error)).toContain('the answer broke off');
  });

  it('does not come when the connection is closed', async () => {
    const { client } = await given((request) => request.socket.destroy());
    expect(await read(client)).toBeInstanceOf(UpstreamUnreachable);
  });

  it('does not come when nobody listens, and the reason is told', async () => {
    const { port, stop } = await given(json([]));
    stop();
    for (const host of ['127.0.0.1', 'localhost']) {
      const baseUrl = `http://${host}:${port}`;
      const error = await read(
        new SaasClient({ baseUrl, proxyKey: { current: PROXY_KEY }, streamIdleTimeoutMs: 30_000 }),
      );
      expect(error).toBeInstanceOf(UpstreamUnreachable);
      expect(String(error)).toMatch(/GET \/client\/env\/dev\/feature-configs: .*ECONNREFUSED/);
    }
  });

  it('is not waited for after an abort', async () => {
    const stopping = new AbortController();
    const { client } = await given(() => stopping.abort());
    expect(await failure(client.flags(SESSION, 'dev', stopping.signal))).toBeInstanceOf(UpstreamUnreachable);
  });
});

describe('Whoever observes', () => {
  const aCall = (call: Partial<UpstreamCall>) => ({ durationMs: expect.any(Number), ...call });

  it('is told of each call by its route, and never by what stands in it', async () => {
    const page = { itemCount: 1, pageCount: 1, environments: [{ id: 'a b' }] };
    const report = { environment: 'a b', counts: [], targets: [] };
    const answers = [{ authToken: TOKEN }, page, page, [], []];
    const { client, calls } = await given((request, response) => {
      response.writeHead(request.url?.includes('/metrics/') ? 202 : 200);
      response.end(JSON.stringify(answers.shift() ?? {}));
    });
    await client.authenticate(FOREVER);
    await all(client.configPages(SESSION, FOREVER));
    await all(client.configPages(SESSION, FOREVER, 'a b'));
    await client.flags(SESSION, 'a b', FOREVER);
    await client.segments(SESSION, 'a b', FOREVER);
    await client.postMetrics(SESSION, report, FOREVER);
    await client.stream(SESSION, FOREVER);
    expect(calls).toEqual([
      aCall({ route: '/proxy/auth', environment: undefined, code: 200 }),
      aCall({ route: '/proxy/config', environment: undefined, code: 200 }),
      aCall({ route: '/proxy/config', environment: 'a b', code: 200 }),
      aCall({ route: '/client/env/:environment/feature-configs', environment: 'a b', code: 200 }),
      aCall({ route: '/client/env/:environment/target-segments', environment: 'a b', code: 200 }),
      aCall({ route: '/metrics/:environment', environment: 'a b', code: 202 }),
      aCall({ route: '/stream', environment: undefined, code: 200 }),
    ]);
  });

  it.each<[string, UpstreamCall['code'], RequestListener]>([
    ['a refusal', 503, status(503)],
    ['an answer that cannot be used', 'unusable', text('<html>')],
    ['a connection that breaks', 'unreachable', (request) => request.socket.destroy()],
    [
      'an answer that breaks off',
      'unreachable',
      (request, response) => {
        response.writeHead(200, { 'content-length': 100 });
        response.write('[', () => request.socket.destroy());
      },
    ],
  ])('is told of %s', async (_, code, answer) => {
    const { client, calls } = await given(answer);
    await failure(client.flags(SESSION, 'dev', FOREVER));
    expect(calls.map((call) => call.code)).toEqual([code]);
  });

  it('is told of a call that was given up', async () => {
    const stopping = new AbortController();
    const { client, calls } = await given(() => stopping.abort());
    await failure(client.flags(SESSION, 'dev', stopping.signal));
    expect(calls.map((call) => call.code)).toEqual(['aborted']);
  });
});

/** The stream of a server that writes what the test says. */
async function givenStream(signal = FOREVER, streamIdleTimeoutMs = 30_000) {
  const opened = Promise.withResolvers<ServerResponse>();
  const { client, seen } = await given((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    opened.resolve(response);
  }, streamIdleTimeoutMs);
  const events = (await client.stream(SESSION, signal))[Symbol.asyncIterator]();
  const response = await opened.promise;
  /** Resolves when it is on its way, so that the next write is another chunk. */
  const write = (chunk: string | Buffer) => new Promise<void>((done) => response.write(chunk, () => done()));
  const next = async (): Promise<StreamEvent | 'end'> => {
    const { done, value } = await events.next();
    return done ? 'end' : value;
  };
  return { next, write, response, seen };
}

const patch = (identifier: string) =>
  `event: *\ndata: {"domain":"flag","event":"patch","identifier":"${identifier}"}\n\n`;
const named = (identifier: string) => expect.objectContaining({ domain: 'flag', event: 'patch', identifier });

describe('An answer that takes its time', () => {
  const silenceMs = 1000;
  const slowly =
    (everyMs: number, times: number): RequestListener =>
    (_, response) => {
      response.write('[');
      const dripping = setInterval(() => {
        if (times-- > 0) response.write(' ');
        else response.end(']');
      }, everyMs);
      response.on('close', () => clearInterval(dripping));
    };
  const read = async (answer: RequestListener) => {
    const { baseUrl } = await given(answer);
    const client = new SaasClient({
      baseUrl,
      proxyKey: { current: PROXY_KEY },
      streamIdleTimeoutMs: 1000,
      readTimeoutMs: silenceMs,
    });
    return client.flags(SESSION, 'dev', FOREVER);
  };

  it('is read to its end as long as bytes come', async () => {
    expect(await read(slowly(silenceMs / 20, 40))).toEqual({ items: [], faults: [] });
  });

  it('is given up when none come', async () => {
    await expect(read(slowly(100 * silenceMs, 1))).rejects.toThrow(/no byte for 1 s/);
  });
});

describe('The stream', () => {
  it('is asked for with the token and the proxy key', async () => {
    const { seen } = await givenStream();
    expect(seen).toMatchObject([
      {
        line: 'GET /api/1.0/stream',
        query: { cluster: '2' },
        headers: {
          authorization: `Bearer ${TOKEN}`,
          'api-key': PROXY_KEY,
          accept: 'text/event-stream',
          'harness-accountid': 'acc',
        },
      },
    ]);
  });

  it('tells several events of one chunk, in order', async () => {
    const { next, write } = await givenStream();
    await write(patch('a') + patch('b') + patch('c'));
    expect([await next(), await next(), await next()]).toEqual([named('a'), named('b'), named('c')]);
  });

  it('tells an event that comes in pieces, even within a character', async () => {
    const { next, write } = await givenStream();
    for (const byte of Buffer.from(patch('größe-🚀'))) await write(Buffer.from([byte]));
    expect(await next()).toEqual(named('größe-🚀'));
  });

  it('reads lines however they end', async () => {
    const { next, write } = await givenStream();
    await write(patch('a').replaceAll('\n', '\r\n') + patch('b').replaceAll('\n', '\r') + patch('c'));
    expect([await next(), await next(), await next()]).toEqual([named('a'), named('b'), named('c')]);
  });

  it('is silent about heartbeats and comments', async () => {
    const { next, write } = await givenStream();
    await write(
      `:\n\n: still here\n\nevent: *\ndata:\n\nevent: *\ndata: \n\nevent: *\n\nid: 7\n\n${patch('a')}`,
    );
    expect(await next()).toEqual(named('a'));
  });

  it('tells of an event that cannot be read, and goes on', async () => {
    const { next, write } = await givenStream();
    await write(`data: {"event":\n\ndata: {"event":"patch"}\n\n${patch('a')}`);
    expect(await next()).toEqual({ unreadable: expect.stringContaining('not JSON') });
    expect(await next()).toEqual({ unreadable: expect.stringContaining('domain') });
    expect(await next()).toEqual(named('a'));
  });

  it('is lost when the upstream ends it, after what came before', async () => {
    const { next, write, response } = await givenStream();
    await write(patch('a'));
    response.end();
    expect(await next()).toEqual(named('a'));
    await expect(next()).rejects.toThrow(UpstreamUnreachable);
  });

  it('is lost when its connection breaks', async () => {
    const { next, response } = await givenStream();
    response.destroy();
    await expect(next()).rejects.toThrow(UpstreamUnreachable);
  });

  it('is lost when it is silent for too long', async () => {
    const { next } = await givenStream(FOREVER, 1000);
    await expect(next()).rejects.toThrow(/the stream broke: .*no byte for 1 s/);
  });

  it('lives on by heartbeats alone for many times the silence that would end it', async () => {
    const idleMs = 1000;
    const { next, write } = await givenStream(FOREVER, idleMs);
    const heartbeats = setInterval(() => void write(':\n\n'), idleMs / 20);
    cleanUps.push(() => clearInterval(heartbeats));
    setTimeout(() => void write(patch('a')), 3 * idleMs);
    expect(await next()).toEqual(named('a'));
  });

  it('is given up when the upstream is silent instead of opening it', async () => {
    const { client } = await given(() => undefined, 50);
    const error = await failure(client.stream(SESSION, FOREVER));
    expect(error).toBeInstanceOf(UpstreamUnreachable);
    expect(String(error)).toContain('no byte for 0.05 s');
  });

  it.each([401, 403, 503])('is refused with %i', async (code) => {
    const { client } = await given(status(code, { 'retry-after': '3' }));
    const error = await failure(client.stream(SESSION, FOREVER));
    expect(error).toMatchObject({ name: 'UpstreamRefusal', status: code, retryAfterMs: 3000 });
  });

  it('ends quietly on an abort, and closes its connection', async () => {
    const stopping = new AbortController();
    const { next, write, response } = await givenStream(stopping.signal);
    await write(patch('a'));
    expect(await next()).toEqual(named('a'));
    const closed = once(response, 'close');
    const last = next();
    stopping.abort();
    expect(await last).toBe('end');
    await closed;
  });

  it('is lost when an event never ends', async () => {
    const { next, response } = await givenStream();
    response.on('error', () => undefined);
    const endless = `data: ${'x'.repeat(1024)}`;
    const writing = setInterval(() => response.write(endless.repeat(64)), 1);
    cleanUps.push(() => clearInterval(writing));
    await expect(next()).rejects.toThrow(/the stream broke: .*max buffer size/);
  });

  it('is lost when an event never ends, in however many lines', async () => {
    const { next, response } = await givenStream();
    response.on('error', () => undefined);
    const writing = setInterval(() => response.write('data: line upon line\n'.repeat(4096)), 1);
    cleanUps.push(() => clearInterval(writing));
    await expect(next()).rejects.toThrow(/the stream broke: .*max buffer size/);
  });
});

describe('Secrets', () => {
  it.each<[string, RequestListener]>([
    ['a refusal', status(500)],
    ['an answer that repeats the token', text(TOKEN)],
    [
      'an answer that repeats the request',
      (request, response) => response.end(`<p>Not found: ${request.url}`),
    ],
    [
      'an answer of another shape',
      (request, response) =>
        response.end(JSON.stringify({ authToken: `${TOKEN}\n`, pageCount: request.url })),
    ],
    ['a connection that breaks', (request) => request.socket.destroy()],
  ])('are not shown by %s', async (_, answer) => {
    const { client } = await given(answer);
    const errors = [
      await failure(client.authenticate(FOREVER)),
      await failure(all(client.configPages(SESSION, FOREVER))),
      await failure(client.flags(SESSION, 'dev', FOREVER)),
      await failure(client.stream(SESSION, FOREVER).then(all)),
    ];
    for (const error of errors) {
      expect(error).toBeInstanceOf(Error);
      expect(shown(error)).not.toContain(PROXY_KEY);
      expect(shown(error)).not.toContain(TOKEN.split('.')[1]);
      expect(shown(error)).not.toContain('signature');
    }
  });
});
