import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc from 'fast-check';

import { StatusBoard, Telemetry } from '#libs/observability';

import { StartupError } from './index.js';
import { ManagementServer, PrometheusServer } from './management-server.js';

describe('The management port', () => {
  let board: StatusBoard;
  let telemetry: Telemetry;
  let server: ManagementServer;
  let port: number;
  let projectorReady: boolean;

  beforeEach(async () => {
    Logger.overrideLogger(false);
    board = new StatusBoard();
    projectorReady = false;
    board.show('gateway', () => ({ ready: true, streams: 3 }));
    board.show('projector', () => ({ ready: projectorReady }));
    telemetry = new Telemetry();
    server = new ManagementServer(board, telemetry);
    port = await server.listen('127.0.0.1', 0);
  });
  afterEach(() => server.close());

  const get = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, body: await response.json() };
  };

  it('says that the process lives, whatever its parts say', async () => {
    expect(await get('/livez')).toEqual({ status: 200, body: { live: true } });
  });

  it('says that it is ready only when every part is, and which is not', async () => {
    expect(await get('/readyz')).toEqual({ status: 503, body: { ready: false, notReady: ['projector'] } });
    projectorReady = true;
    expect(await get('/readyz')).toEqual({ status: 200, body: { ready: true } });
  });

  it('says why a part is not ready, where that part does', async () => {
    board.show('gateway', () => ({ ready: false, notReadyBecause: 'it stops' }));
    expect(await get('/readyz')).toEqual({
      status: 503,
      body: { ready: false, notReady: ['gateway', 'projector'], reasons: { gateway: 'it stops' } },
    });
  });

  it('shows what every part says', async () => {
    expect((await get('/status')).body).toEqual({
      startedAt: expect.any(String),
      ready: false,
      gateway: { ready: true, streams: 3 },
      projector: { ready: false },
    });
  });

  it('shows what the process counts, as Prometheus reads it', async () => {
    telemetry.counter('ff_relay_test_total', 'a test', ['kind']).inc({ kind: 'first' });
    const response = await fetch(`http://127.0.0.1:${port}/metrics`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(await response.text()).toContain('\nff_relay_test_total{kind="first"} 1\n');
  });

  it.each([
    ['GET', '/nothing/here', 404, /nothing/],
    ['POST', '/readyz', 405, /POST/],
    ['GET', '/%zz', 400, /zz/],
  ])('says in the form of RFC 9457 what it cannot answer: %s %s', async (method, path, status, detail) => {
    const body = method === 'POST' ? { body: 'x'.repeat(2_000_000) } : {};
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...body });
    expect([response.status, response.headers.get('content-type')]).toEqual([
      status,
      'application/problem+json; charset=utf-8',
    ]);
    expect(await response.json()).toEqual({
      title: expect.any(String),
      status,
      detail: expect.stringMatching(detail),
    });
    expect(response.headers.get('allow')).toBe(status === 405 ? 'GET, HEAD' : null);
  });

  it('says that something went wrong, and not what, when a part cannot be asked', async () => {
    board.show('gateway', () => {
      throw new Error('a secret');
    });
    const response = await fetch(`http://127.0.0.1:${port}/status`);
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain('secret');
    expect((await get('/livez')).status).toBe(200);
  });

  it('answers whatever is asked with a documented status, and goes on', async () => {
    const word = fc.oneof(
      fc.constantFrom('livez', 'readyz', 'status', 'metrics', '..', '%', '__proto__', '*', ''),
      fc.webPath(),
      fc.string({ unit: 'binary' }).map((text) => encodeURIComponent(text.toWellFormed())),
      fc.nat(20_000).map((length) => 'x'.repeat(length)),
    );
    const path = fc.array(word, { maxLength: 4 }).map((words) => `/${words.join('/')}`);
    const method = fc.constantFrom('GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'QUERY');
    const header = fc.stringMatching(/^[\x20-\x7e]{0,30}$/);
    const body = fc.oneof(fc.constant(''), fc.json(), fc.string());
    await fc.assert(
      fc.asyncProperty(method, path, header, body, async (method, path, header, body) => {
        const socket = connect(port, '127.0.0.1').setEncoding('latin1');
        const head = `host: a\r\ncontent-type: ${header}\r\ncontent-length: ${Buffer.byteLength(body)}`;
        socket.write(`${method} ${path} HTTP/1.1\r\n${head}\r\nconnection: close\r\n\r\n${body}`);
        const [answer] = (await once(socket, 'data')) as [string];
        expect([200, 400, 404, 405, 431, 503]).toContain(Number(/^HTTP\/1.1 (\d+)/.exec(answer)?.[1]));
        socket.destroy();
      }),
      { numRuns: 500 },
    );
    expect((await get('/livez')).status).toBe(200);
  });

  it('says what to do when it is taken', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const taken = (other.address() as AddressInfo).port;
    const second = new ManagementServer(board, telemetry);
    await expect(second.listen('127.0.0.1', taken)).rejects.toThrow(StartupError);
    await expect(second.listen('127.0.0.1', taken)).rejects.toThrow('set MANAGEMENT_PORT to another port');
    await second.close();
    other.close();
  });
});

describe('The port of Prometheus', () => {
  let server: PrometheusServer;

  beforeEach(() => {
    Logger.overrideLogger(false);
    server = new PrometheusServer(new Telemetry());
  });
  afterEach(() => server.close());

  it('answers /metrics and nothing else', async () => {
    const port = await server.listen('127.0.0.1', 0);
    const statusOf = async (path: string) => (await fetch(`http://127.0.0.1:${port}${path}`)).status;
    expect(await statusOf('/metrics')).toBe(200);
    expect(await statusOf('/status')).toBe(404);
  });

  it('says what to do when it is taken', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    const listening = server.listen('127.0.0.1', port);
    await expect(listening).rejects.toThrow(StartupError);
    await expect(listening).rejects.toThrow('set PROMETHEUS_PORT to another port');
    other.close();
  });
});
