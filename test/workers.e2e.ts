import { once } from 'node:events';
import { createServer } from 'node:net';

import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { DEMO, freePort, type Process, runApp } from './support/processes.js';
import { scrape } from './support/prometheus.js';
import { head, Wire } from './support/wire.js';

interface WorkerStatus {
  readonly worker: number;
  readonly state: string;
  readonly ready: boolean;
  readonly pid: number;
  readonly gateway?: { readonly streams: number };
}

const GATEWAY = 'gateway-1';
const TWO = { GATEWAY_WORKERS: '2' };

describe('A gateway with two workers', () => {
  let set: ServiceSet;
  const opened: AbortController[] = [];
  const started: Process[] = [];

  beforeAll(async () => {
    set = await ServiceSet.start(['nats', 'redis', 'control-plane', 'ingestor-1', 'projector-1']);
  });
  afterEach(async () => {
    for (const stream of opened.splice(0)) stream.abort();
    for (const process of started.splice(0)) await process.kill('SIGKILL');
    if (set.isRunning(GATEWAY)) await set.stop(GATEWAY, 'SIGKILL');
  });
  afterAll(() => set.dispose());

  const url = () => set.gatewayUrl(GATEWAY);
  const workers = async () => (await set.status(GATEWAY))['gateway']?.['workers'] as WorkerStatus[];
  const bothServe = (seen: readonly WorkerStatus[]) => seen.every(({ state }) => state === 'serving');
  const ready = async () => {
    const response = await fetch(`${set.managementUrl(GATEWAY)}/readyz`).catch(() => undefined);
    const text = (await response?.text()) ?? '';
    return { status: response?.status, text, body: text && (JSON.parse(text) as unknown) };
  };
  const openStream = async () => {
    const stream = new AbortController();
    opened.push(stream);
    const sdk = await SdkSession.signIn(url());
    return (await sdk.stream(stream.signal))[Symbol.asyncIterator]();
  };
  /** Connections come to the workers in turn, so a few streams are on both. */
  const openStreams = async () => {
    const streams = await Promise.all(Array.from({ length: 6 }, openStream));
    // Connections are handed out in turn, and those that were kept from requests before are used first.
    const haveAll = async () => (await workers()).every(({ gateway }) => (gateway?.streams ?? 0) > 0);
    while (streams.length < 30 && !(await haveAll())) streams.push(await openStream());
    expect(await haveAll()).toBe(true);
    return streams;
  };
  let version = 1;
  const change = async () => {
    version++;
    await new Admin(set.controlPlane.url).setState('dark-mode', version % 2 === 0 ? 'off' : 'on');
  };
  type Stream = Awaited<ReturnType<typeof openStream>>;
  /** Whether a stream tells of a version before it ends. What changed lately is repeated to those that open. */
  const tells = async (stream: Stream, wanted: number): Promise<boolean> => {
    const { done, value } = await stream.next().catch(() => ({ done: true, value: undefined }));
    return !done && (value?.version === wanted || tells(stream, wanted));
  };
  const tellOf = (streams: readonly Stream[], wanted: number) =>
    Promise.all(streams.map((stream) => tells(stream, wanted)));

  it('tells streams on both of a change, which all that come can read', async () => {
    await set.start(GATEWAY, TWO);
    expect(set.output(GATEWAY)).toMatch(/Serving SDKs on http:\/\/\S+ with 2 workers/);
    expect(await ready()).toMatchObject({ status: 200, body: { ready: true } });
    const streams = await openStreams();
    await change();
    expect(await tellOf(streams, version)).toEqual(streams.map(() => true));
    for (let i = 0; i < 6; i++) {
      expect(await (await SdkSession.signIn(url())).flagVersion('dark-mode')).toBe(version);
    }
  });

  it('shows both to those who look after it, on each port', async () => {
    await set.start(GATEWAY, TWO);
    const { length: opened } = await openStreams();
    const pids = (await workers()).map(({ pid }) => pid);
    expect(new Set(pids).size).toBe(2);
    for (const port of [set.managementUrl(GATEWAY), url()]) {
      const { series } = await eventually(
        () => scrape(port),
        (page) => page.series.filter(({ metric }) => metric === 'ff_relay_streams').length === 2,
      );
      const of = (name: string) => series.filter(({ metric }) => metric === name);
      expect(of('ff_relay_streams').map(({ labels }) => labels['worker'])).toEqual(['1', '2']);
      expect(of('ff_relay_streams').reduce((sum, { value }) => sum + value, 0)).toBe(opened);
      expect(of('process_start_time_seconds').map(({ labels }) => labels['worker'])).toEqual([
        'primary',
        '1',
        '2',
      ]);
      expect(series.filter(({ labels }) => !labels['worker'])).toEqual([]);
    }
    expect(set.output(GATEWAY)).toMatch(/^\[Nest\].*gateway\/1|\[gateway\/1\]/m);
  });

  it('starts another for one that is killed, while the streams of the other go on', async () => {
    await set.start(GATEWAY, TWO);
    const streams = await openStreams();
    const [first, second] = await workers();
    process.kill(first!.pid, 'SIGKILL');
    await eventually(
      () => set.output(GATEWAY),
      (output) =>
        output.includes(
          `Worker 1 (process ${first!.pid}) ended (SIGKILL); another starts in 0.5 s, and 1 serve`,
        ),
    );
    // The gateway is as ready as the one that serves.
    expect(await ready()).toMatchObject({ status: 200, body: { ready: true } });
    expect(await (await SdkSession.signIn(url())).flagVersion('dark-mode')).toBe(version);
    const seen = await eventually(workers, bothServe);
    expect(seen.map(({ pid }) => pid)).toEqual([expect.any(Number), second!.pid]);
    expect(seen[0]!.pid).not.toBe(first!.pid);

    const left = seen[1]!.gateway!.streams;
    await openStreams();
    await change();
    const heard = await tellOf(streams, version);
    expect(heard.filter(Boolean)).toHaveLength(left);
  });

  it('ends its streams and all of its processes when it is asked to end, with 0', async () => {
    await set.start(GATEWAY, TWO);
    const streams = await openStreams();
    const pids = (await workers()).map(({ pid }) => pid);
    const exit = set.stop(GATEWAY, 'SIGTERM');
    expect(await tellOf(streams, version + 1)).toEqual(streams.map(() => false));
    expect(await exit).toBe(0);
    for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow('ESRCH');
  });

  it('is unready at once when it is asked to end, takes nobody new, and finishes what is under way', async () => {
    await set.start(GATEWAY, TWO);
    const { token } = await SdkSession.signIn(url());
    const body = '{"metricsData":[]}';
    const headers = { authorization: `Bearer ${token}`, 'content-length': body.length };
    const wire = await Wire.to(
      Number(new URL(url()).port),
      // Its first answer says that the second request is about to be read.
      head('GET', '/health') + head('POST', `/metrics/${DEMO.dev.id}`, headers) + body.slice(0, 5),
    );
    await wire.answered();
    wire.text = '';
    const exit = set.stop(GATEWAY, 'SIGTERM');
    const stopping = await eventually(ready, ({ status }) => status === 503);
    expect(stopping.body).toMatchObject({ ready: false, reasons: { gateway: 'it is stopping' } });
    await eventually(
      () =>
        fetch(`${url()}/health`).then(
          () => 'served',
          () => 'refused',
        ),
      (outcome) => outcome === 'refused',
    );
    expect((await ready()).status).toBe(503);
    wire.socket.write(body.slice(5));
    await wire.closed;
    expect([wire.status, wire.text.endsWith('null')]).toEqual([200, true]);
    expect(await exit).toBe(0);
  });

  it('leaves no worker behind when it is killed', async () => {
    await set.start(GATEWAY, TWO);
    const pids = (await workers()).map(({ pid }) => pid);
    await set.stop(GATEWAY, 'SIGKILL');
    const lives = (pid: number) => {
      try {
        return process.kill(pid, 0);
      } catch {
        return false;
      }
    };
    await eventually(
      () => pids.filter(lives),
      (living) => living.length === 0,
    );
  });

  it('opens its port when all workers have state, and is unready before', async () => {
    await set.stop('redis');
    await set.stop('nats');
    set.begin(GATEWAY, TWO);
    await eventually(ready, ({ text }) => text.includes('worker 1: '));
    expect(await ready()).toMatchObject({ status: 503, body: { ready: false, notReady: ['gateway'] } });
    await expect(fetch(`${url()}/health`)).rejects.toThrow('fetch failed');
    await set.start('nats');
    await set.start('redis');
    await eventually(ready, ({ status }) => status === 200);
    expect(bothServe(await workers())).toBe(true);
    expect(await (await SdkSession.signIn(url())).flagVersion('dark-mode')).toBe(version);
  });

  it('says once, and ends, when its settings are wrong, its port is taken, or no worker can start', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as { port: number };
    const wrong: [NodeJS.ProcessEnv, RegExp][] = [
      [{ GATEWAY_WORKERS: 'many' }, /GATEWAY_WORKERS cannot be "many"/g],
      [{ PORT: `${port}` }, /Port \d+ is in use/g],
      [{ NATS_URL: 'nats://?' }, /NATS_URL cannot be read/g],
    ];
    for (const [settings, message] of wrong) {
      const gateway = runApp('gateway', {
        ...TWO,
        HOST: '127.0.0.1',
        PORT: `${await freePort()}`,
        AUTH_SECRET: 'a secret that is long enough for a test',
        NATS_URL: set.natsUrl,
        REDIS_ADDRESS: set.redisAddress,
        ...settings,
      });
      started.push(gateway);
      expect(await gateway.exited).toBe(1);
      expect(gateway.output.match(message)).toHaveLength(1);
    }
    taken.close();
  });

  it('is none that a relay in one process can have', async () => {
    const relay = runApp('relay', {
      ...TWO,
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
    });
    started.push(relay);
    expect(await relay.exited).toBe(1);
    expect(relay.output).toMatch(/GATEWAY_WORKERS cannot be "2": set it to 1, or leave it out/);
  });
});
