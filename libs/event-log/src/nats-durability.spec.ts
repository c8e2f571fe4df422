import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { durabilityWarning } from './nats-durability.js';

describe('That a power failure can take acknowledged facts', () => {
  let monitor: Server;
  let answer: { status: number; body: string };
  let asked: string | undefined;
  beforeEach(async () => {
    monitor = createServer((request, response) => {
      asked = request.url;
      response.writeHead(answer.status).end(answer.body);
    }).listen(0, '127.0.0.1');
    await once(monitor, 'listening');
  });
  afterEach(() => void monitor.close());
  const url = () => `http://127.0.0.1:${(monitor.address() as AddressInfo).port}`;
  const warning = (config: object, version = '2.10.23') => {
    answer = { status: 200, body: JSON.stringify({ server_id: 'N', config }) };
    return durabilityWarning(version, 1, url());
  };

  it('is not said where every write is flushed', async () => {
    expect(
      await warning({ max_storage: 1, sync_interval: 120_000_000_000, sync_always: true }),
    ).toBeUndefined();
    expect(asked).toBe('/jsz?config=true');
  });

  it('is not said where 3 copies would outlive it', async () => {
    expect(await durabilityWarning('2.9.10', 3, undefined)).toBeUndefined();
  });

  it('is said with how often it is flushed', async () => {
    expect(await warning({ sync_interval: 120_000_000_000 })).toContain('This server does every 120 s.');
  });

  it('is said of a server that does not tell, with the version that can do better', async () => {
    expect(await warning({ max_storage: 1 }, '2.9.10')).toMatch(
      /does not tell how often it does\. It is 2\.9\.10, which can do no better; 2\.10\.23 or newer is recommended/,
    );
  });

  it('is said when nobody can be asked', async () => {
    expect(await durabilityWarning('2.10.23', 1, undefined)).toContain('set NATS_MONITOR_URL');
  });

  it.each([
    ['refuses', { status: 404, body: '' }, 'answers 404'],
    ['is another program', { status: 200, body: '{"config": 1}' }, 'something else than a JetStream server'],
    ['answers no JSON', { status: 200, body: '<html>' }, 'JSON'],
  ])('is said when the monitor %s', async (_, given, reason) => {
    answer = given;
    expect(await durabilityWarning('2.10.23', 1, url())).toContain(reason);
  });

  it('is said without a password that the address of the monitor holds', async () => {
    answer = { status: 500, body: '' };
    const told = await durabilityWarning('2.10.23', 1, url().replace('http://', 'http://relay:s3cret@'));
    expect(told).toContain('answers 500');
    expect(told).not.toContain('s3cret');
  });

  it('is said when the monitor is away', async () => {
    const gone = url();
    monitor.close();
    expect(await durabilityWarning('2.10.23', 2, gone)).toContain('NATS_MONITOR_URL does not tell');
  });
});
