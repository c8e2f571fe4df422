import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from '@harnessio/ff-nodejs-server-sdk';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { type Entry, MetricsUpstream, type Post, type Sums, sumsOf } from './support/metrics.js';
import { DEMO, freePort, type Process, run, runApp, type Service, Workspace } from './support/processes.js';

const SECRET = 'a secret that is long enough for a test';
const WINDOW = { METRIC_POST_DURATION: '1' };

const entry = (
  flag: string,
  variation: string,
  count: number,
  more: Record<string, string | null> = {},
): Entry => ({
  timestamp: Date.now(),
  count,
  metricsType: 'FFMETRICS',
  attributes: Object.entries({ featureIdentifier: flag, variationIdentifier: variation, ...more }).map(
    ([key, value]) => ({ key, value }),
  ),
});

/** Calls ff-relay, and returns what it printed. */
async function ffRelay(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<string> {
  const called = run(process.execPath, ['scripts/ff-relay.mjs', 'metrics', ...args], environment);
  expect({ code: await called.exited, output: called.output }).toMatchObject({ code: 0 });
  return called.output;
}

/** An SDK that posts counts and remembers which of them were taken. */
class CountingSdk {
  readonly accepted: Post[] = [];
  readonly statuses: number[] = [];

  private constructor(
    private readonly gateway: string,
    private readonly environment: string,
    private readonly token: string,
  ) {}

  static async signIn(gateway: string, environment: { id: string; serverKey: string } = DEMO.dev) {
    const { token } = await SdkSession.signIn(gateway, environment);
    return new CountingSdk(gateway, environment.id, token);
  }

  /** The status of the answer; 0 for none. */
  async post(...entries: Entry[]): Promise<number> {
    const status = await fetch(`${this.gateway}/metrics/${this.environment}?cluster=1`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ metricsData: entries }),
    }).then(
      async (response) => {
        await response.arrayBuffer();
        return response.status;
      },
      () => 0,
    );
    this.statuses.push(status);
    if (status === 200) this.accepted.push({ environment: this.environment, entries });
    return status;
  }

  /** Posts until it is told to stop, some at a time. */
  async keepPosting(signal: AbortSignal): Promise<void> {
    const one = async () => {
      for (let i = 0; !signal.aborted; i++) await this.post(entry(`flag-${i % 5}`, 'true', 1 + (i % 3)));
    };
    await Promise.all([one(), one(), one(), one()]);
  }
}

const total = (sums: Sums) => Object.values(sums).reduce((sum, count) => sum + count, 0);
const largest = (posts: readonly Post[]) => Math.max(0, ...posts.map((post) => total(sumsOf([post]))));

describe('Evaluation counts, through the one-process relay', () => {
  let workspace: Workspace;
  let folder: string;
  let controlPlane: Service;
  let upstream: MetricsUpstream;

  beforeEach(async () => {
    workspace = new Workspace();
    folder = await workspace.folder();
    controlPlane = await workspace.controlPlane(folder);
    upstream = await MetricsUpstream.start();
  });
  afterEach(async () => {
    await workspace.dispose();
    await upstream.stop();
  });

  it('of the Harness Node SDK, posted at its own pace, are found in the control plane, also after its kill', async () => {
    const began = Date.now();
    const relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, WINDOW);
    const client = new Client(DEMO.dev.serverKey, {
      baseUrl: relay.url,
      eventsUrl: relay.url,
      logger: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
    });
    const expected: Sums = {};
    const evaluate = async (times: number) => {
      for (let i = 0; i < times; i++) {
        const target = { identifier: `target-${i}`, name: 'T', attributes: {} };
        const key = `dark-mode/${await client.boolVariation('dark-mode', target, false)}`;
        expected[key] = (expected[key] ?? 0) + 1;
      }
      await client.stringVariation('banner-text', undefined, 'none');
      expected['banner-text/sale'] = (expected['banner-text/sale'] ?? 0) + 1;
    };
    const admin = new Admin(controlPlane.url);
    const arrived = (sums: Sums) =>
      eventually(
        () => admin.counts('dev'),
        (found) => total(found) >= total(sums),
      );
    await client.waitForInitialization();
    await evaluate(7);
    // Every minute: it takes no shorter time.
    expect(await arrived(expected)).toEqual(expected);

    await controlPlane.process.kill('SIGKILL');
    controlPlane = await workspace.controlPlane(folder, controlPlane.port);
    expect(await admin.counts('dev')).toEqual(expected);
    await evaluate(3);
    // And once at its end.
    client.close();
    expect(await arrived(expected)).toEqual(expected);

    const node = { sdk: 'javascript server' };
    expect(await admin.counts('dev', node)).toEqual(expected);
    expect(await admin.counts('dev', { flag: 'banner-text' })).toEqual({ 'banner-text/sale': 2 });
    expect(await admin.counts('dev', { flag: 'dark-mode', variation: 'true' })).toEqual({
      'dark-mode/true': expected['dark-mode/true'],
    });
    const minutes = { bucket: 'minute', from: String(began), to: String(Date.now() + 1) };
    expect(await admin.counts('dev', minutes)).toEqual(expected);
    const before = { bucket: 'minute', to: String(began - (began % 60_000)) };
    expect(total(await admin.counts('dev', before))).toBe(0);
    expect(await admin.counts('prod')).toEqual({});
  });

  it('of every dialect arrive, each exactly once, merged and by environment (P7)', async () => {
    const relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      ...WINDOW,
      METRIC_SERVICE: upstream.url,
    });
    const dev = await CountingSdk.signIn(relay.url);
    const prod = await CountingSdk.signIn(relay.url, DEMO.prod);
    const sdk = (language: string, type: string) => ({
      SDK_LANGUAGE: language,
      SDK_TYPE: type,
      SDK_VERSION: '1.0.0',
    });
    for (let i = 0; i < 50; i++) {
      await Promise.all([
        dev.post(entry('a', 'true', 2, { ...sdk('javascript', 'server'), target: null })),
        dev.post(entry('a', 'true', 3, { ...sdk('go', 'server'), target: 'global', featureValue: 'true' })),
        dev.post(entry('a', 'false', 1, { ...sdk('java', 'server'), target: '__global__cf_target' })),
        dev.post(
          entry('a', 'false', 1, { ...sdk('javascript', 'client'), SDK_NAME: 'js', target: `anna-${i}` }),
        ),
        prod.post(entry('b', 'true', 5, sdk('python', 'server'))),
      ]);
    }
    expect(new Set([...dev.statuses, ...prod.statuses])).toEqual(new Set([200]));
    await eventually(
      () => total(sumsOf(upstream.taken)),
      (sum) => sum >= 50 * 12,
    );
    expect(sumsOf(upstream.of(DEMO.dev.id))).toEqual({ 'a/true': 250, 'a/false': 100 });
    expect(sumsOf(upstream.of(DEMO.prod.id))).toEqual({ 'b/true': 250 });
    expect(upstream.taken.length).toBeLessThan(50);
  });

  it('that the upstream refuses are parked over a restart, listed, and sent again when that is asked for', async () => {
    const folder = await workspace.folder();
    const environment = { ...WINDOW, METRIC_SERVICE: upstream.url, MANAGEMENT_PORT: '0' };
    const relay = await workspace.relay(folder, controlPlane.url, 0, environment);
    upstream.answer = () => 400;
    const sdk = await CountingSdk.signIn(relay.url);
    await sdk.post(entry('a', 'true', 7), entry('b', 'true', 2));
    await relay.process.printed(/Parked, since the upstream will not take them/);
    const [, port] = await relay.process.printed(/Answering \/livez.* on port (\d+)/);
    await eventually(
      async () =>
        (await fetch(`http://127.0.0.1:${port}/status`)).json() as Promise<
          Record<string, { parked?: { messages: number } }>
        >,
      (status) => status['metrics-forwarder']?.parked?.messages === 1,
    );
    const settings = { DATA_DIR: folder };
    const listed = /^Parked: 1 message with 9 evaluations\n.*400/;
    expect(await ffRelay(['parked'], settings)).toMatch(listed);
    const early = run(process.execPath, ['scripts/ff-relay.mjs', 'metrics', 'resend'], settings);
    expect(await early.exited).toBe(1);
    expect(early.output).toMatch(
      /is written by process \d+, .*Stop that relay, call this again, then start it/s,
    );
    const seen = await eventually(
      async () => {
        const command = ['scripts/ff-relay.mjs', 'status', '--url', `http://127.0.0.1:${port}`];
        const status = run(process.execPath, command, settings);
        await status.exited;
        return status.output;
      },
      (output) => output.includes('parked of'),
    );
    expect(seen).toMatch(
      /parked, since the upstream refused it: 1 message of counts.*ff-relay metrics resend/,
    );
    expect(seen).toMatch(new RegExp(`parked of ${DEMO.dev.id}: 1 message with 9 evaluations: .*400`));
    await relay.process.kill('SIGKILL');

    expect(await ffRelay(['parked'], settings)).toMatch(listed);
    expect(await ffRelay(['resend', '--environment', DEMO.prod.id], settings)).toBe(
      'Nothing is parked that could be sent again.\n',
    );
    expect(await ffRelay(['resend'], settings)).toMatch(/^1 message with 9 evaluations will be sent again/);
    expect(await ffRelay(['parked'], settings)).toBe('Nothing is parked.\n');
    expect(upstream.taken).toEqual([]);
    upstream.answer = () => 200;
    await workspace.relay(folder, controlPlane.url, relay.port, environment);
    await eventually(
      () => sumsOf(upstream.taken),
      (sums) => sums['a/true'] === 7 && sums['b/true'] === 2,
    );
  });

  it('are taken and dropped at the door when nothing is to be sent', async () => {
    const relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      METRIC_POST_DURATION: '0',
      METRIC_SERVICE: upstream.url,
    });
    const sdk = await CountingSdk.signIn(relay.url);
    expect(await sdk.post(entry('a', 'true', 7))).toBe(200);
    const page = await (await fetch(`${relay.url}/metrics`)).text();
    expect(page).toContain('\nff_relay_metrics_unsent_evaluations_total 7\n');
    expect(page).not.toMatch(/^ff_relay_metrics_waiting_messages [1-9]/m);
    expect(relay.process.output).toContain('METRIC_POST_DURATION is 0');
  });

  it('are all there after a kill, at most one batch of them twice (P7)', async () => {
    const folder = await workspace.folder();
    const environment = { ...WINDOW, METRIC_SERVICE: upstream.url };
    let relay = await workspace.relay(folder, controlPlane.url, 0, environment);
    const sdk = await CountingSdk.signIn(relay.url);
    const stop = new AbortController();
    const posting = sdk.keepPosting(stop.signal);
    // Taken, and the relay never learns it.
    await eventually(
      () => upstream.taken.length,
      (posts) => posts > 0,
    );
    upstream.answer = () => 'hold';
    await eventually(
      () => upstream.held,
      (held) => held > 0,
    );
    await relay.process.kill('SIGKILL');
    stop.abort();
    await posting;
    upstream.answer = () => 200;
    relay = await workspace.relay(folder, controlPlane.url, relay.port, environment);

    const accepted = sumsOf(sdk.accepted);
    await eventually(
      () => sumsOf(upstream.taken),
      (sums) => Object.entries(accepted).every(([flag, count]) => (sums[flag] ?? 0) >= count),
    );
    // Counts whose answer was lost in the kill may have come through as well: 4 at a time, of 3 at most.
    const inFlight = 4 * 3;
    const twice = largest(upstream.taken);
    expect(total(sumsOf(upstream.taken))).toBeLessThanOrEqual(total(accepted) + inFlight + twice);
    await relay.process.kill('SIGTERM');
  });
});

describe('Evaluation counts, through gateway and forwarder on NATS', () => {
  let workspace: Workspace;
  let upstream: MetricsUpstream;
  let controlPlane: Service;
  let processes: Process[];
  let nats: { readonly folder: string; readonly port: number; process: Process };
  let redisPort: number;
  let gateway: string;

  const started = (process: Process) => {
    processes.push(process);
    return process;
  };
  const startNats = async (folder: string, port: number) => {
    const server = started(run('nats-server', ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', folder]));
    await server.printed(/Server is ready/);
    return server;
  };
  const startRole = (name: string, environment: NodeJS.ProcessEnv = {}) =>
    started(
      runApp(name, {
        NATS_URL: `nats://127.0.0.1:${nats.port}`,
        REDIS_ADDRESS: `127.0.0.1:${redisPort}`,
        PROXY_KEY: DEMO.proxyKey,
        AUTH_SECRET: SECRET,
        CLIENT_SERVICE: `${controlPlane.url}/api/1.0`,
        METRIC_SERVICE: upstream.url,
        HOST: '127.0.0.1',
        PORT: '0',
        ...WINDOW,
        ...environment,
      }),
    );

  beforeEach(async () => {
    processes = [];
    workspace = new Workspace();
    upstream = await MetricsUpstream.start();
    controlPlane = await workspace.controlPlane(await workspace.folder());
    const [folder, port] = [await workspace.folder(), await freePort()];
    nats = { folder, port, process: await startNats(folder, port) };
    redisPort = await freePort();
    const redis = started(
      run('redis-server', [
        '--port',
        String(redisPort),
        '--bind',
        '127.0.0.1',
        '--save',
        '',
        '--dir',
        folder,
      ]),
    );
    await redis.printed(/Ready to accept connections/);
    startRole('ingestor');
    startRole('projector');
    [, gateway = ''] = await startRole('gateway').printed(/Serving SDKs on (http:\/\/\S+)/);
  });
  afterEach(async () => {
    await Promise.all(processes.map((process) => process.kill('SIGKILL')));
    await workspace.dispose();
    await upstream.stop();
  });

  const arrived = (accepted: Sums) =>
    eventually(
      () => sumsOf(upstream.taken),
      (sums) => Object.entries(accepted).every(([flag, count]) => (sums[flag] ?? 0) >= count),
    );

  it('arrive exactly once, shared by two forwarders, though the upstream fails for a while (P7)', async () => {
    const sdks = await Promise.all([CountingSdk.signIn(gateway), CountingSdk.signIn(gateway, DEMO.prod)]);
    startRole('metrics-forwarder');
    startRole('metrics-forwarder');
    upstream.answer = () => 500;
    for (let i = 0; i < 100; i++) {
      await Promise.all(sdks.map((sdk) => sdk.post(entry('a', 'true', 1), entry(`flag-${i % 3}`, 'x', 2))));
    }
    await eventually(
      () => upstream.refused,
      (refused) => refused >= 2,
    );
    upstream.answer = () => 200;
    for (let i = 0; i < 100; i++) await Promise.all(sdks.map((sdk) => sdk.post(entry('a', 'true', 1))));

    const accepted = sdks.flatMap((sdk) => sdk.accepted);
    expect(accepted).toHaveLength(400);
    await arrived(sumsOf(accepted));
    for (const { id } of [DEMO.dev, DEMO.prod]) {
      expect(sumsOf(upstream.of(id))).toEqual(
        sumsOf(accepted.filter(({ environment }) => environment === id)),
      );
    }
  });

  it('are all there after a kill of the forwarder, at most one batch of them twice (P7)', async () => {
    const sdk = await CountingSdk.signIn(gateway);
    const first = startRole('metrics-forwarder');
    const stop = new AbortController();
    const posting = sdk.keepPosting(stop.signal);
    await eventually(
      () => upstream.taken.length,
      (posts) => posts > 0,
    );
    upstream.answer = () => 'hold';
    await eventually(
      () => upstream.held,
      (held) => held > 0,
    );
    await first.kill('SIGKILL');
    const lost = upstream.taken.at(-1);
    stop.abort();
    await posting;
    upstream.answer = () => 200;
    startRole('metrics-forwarder');

    expect(new Set(sdk.statuses)).toEqual(new Set([200]));
    const accepted = total(sumsOf(sdk.accepted));
    const twice = lost ? total(sumsOf([lost])) : 0;
    // What the dead one had in its hands is given to another after 30 s.
    await eventually(
      () => total(sumsOf(upstream.taken)),
      (sum) => sum === accepted + twice,
    );
  });

  it('are refused with 503 while NATS is away, and none that was taken is lost over its restart', async () => {
    const sdk = await CountingSdk.signIn(gateway);
    startRole('metrics-forwarder');
    const stop = new AbortController();
    const posting = sdk.keepPosting(stop.signal);
    await eventually(
      () => upstream.taken.length,
      (posts) => posts > 0,
    );
    await nats.process.kill('SIGKILL');
    await eventually(
      () => sdk.statuses.filter((status) => status === 503).length,
      (refused) => refused > 0,
    );
    nats.process = await startNats(nats.folder, nats.port);
    const before = sdk.statuses.length;
    await eventually(
      () => sdk.statuses.slice(before).filter((status) => status === 200).length,
      (taken) => taken > 20,
    );
    stop.abort();
    await posting;

    expect(new Set(sdk.statuses)).toEqual(new Set([200, 503]));
    await arrived(sumsOf(sdk.accepted));
  });

  it('that the upstream refuses are parked alone, and sent again while everything runs', async () => {
    upstream.answerTo = ({ environment }) => (environment === DEMO.prod.id ? 404 : 200);
    const sdks = await Promise.all([CountingSdk.signIn(gateway), CountingSdk.signIn(gateway, DEMO.prod)]);
    startRole('metrics-forwarder');
    const settings = { NATS_URL: `nats://127.0.0.1:${nats.port}` };
    for (const sdk of sdks) expect(await sdk.post(entry('a', 'true', 5))).toBe(200);
    const parked = await eventually(
      async () => JSON.parse(await ffRelay(['parked', '--json'], settings)) as Record<string, unknown>[],
      (seen) => seen.length > 0,
    );
    expect(parked).toEqual([
      {
        id: expect.any(String),
        parkedAt: expect.any(String),
        environment: DEMO.prod.id,
        reason: expect.stringContaining('404'),
        report: expect.objectContaining({ counts: [expect.objectContaining({ count: 5 })] }),
      },
    ]);
    await arrived({ 'a/true': 5 });
    upstream.answerTo = undefined;
    expect(await ffRelay(['resend'], settings)).toMatch(/^1 message with 5 evaluations will be sent again/);
    await eventually(
      () => sumsOf(upstream.of(DEMO.prod.id)),
      (sums) => sums['a/true'] === 5,
    );
    expect(sumsOf(upstream.taken)).toEqual({ 'a/true': 10 });
  });

  /** A forwarder that has gathered 20 counts. */
  const startGathering = async () => {
    const sdk = await CountingSdk.signIn(gateway);
    const forwarder = startRole('metrics-forwarder', { METRIC_POST_DURATION: '3600', MANAGEMENT_PORT: '0' });
    const [, port] = await forwarder.printed(/Answering \/livez.* on port (\d+)/);
    for (let i = 0; i < 20; i++) await sdk.post(entry('a', 'true', 1));
    await eventually(
      async () =>
        (await fetch(`http://127.0.0.1:${port}/status`)).json() as Promise<Record<string, { held: number }>>,
      (status) => status['metrics-forwarder']?.held === 20,
    );
    return forwarder;
  };

  it('that were gathered are posted when the forwarder is stopped', async () => {
    const forwarder = await startGathering();
    expect(await forwarder.kill('SIGTERM')).toBe(0);
    expect(sumsOf(upstream.taken)).toEqual({ 'a/true': 20 });
  });

  it('are not posted by a forwarder that stood still until another had them (P7)', async () => {
    const stalled = await startGathering();
    stalled.signal('SIGSTOP');
    startRole('metrics-forwarder');
    await eventually(
      () => sumsOf(upstream.taken),
      (sums) => sums['a/true'] === 20,
    );
    stalled.signal('SIGCONT');
    expect(await stalled.kill('SIGTERM')).toBe(0);
    expect(sumsOf(upstream.taken)).toEqual({ 'a/true': 20 });
  });
});
