import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { DEMO, freePort, type Process, root, runApp, type Service, Workspace } from './support/processes.js';
import { scrape, type Scrape, valueOf } from './support/prometheus.js';

/** Where a relay answers those who look after it. */
async function managementOf(process: Process): Promise<string> {
  const [, port] = await process.printed(/Answering \/livez.* on port (\d+)/);
  return `http://127.0.0.1:${port}`;
}

interface Documented {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly who: readonly string[];
}

/** The rows of the guide's table. */
async function documented(): Promise<Documented[]> {
  const guide = await readFile(join(root, 'docs/guides/metrics.md'), 'utf8');
  const [, table = ''] = guide.split(/<!-- metrics(?: end)? -->\n/);
  const rows = table.split('\n').filter((line) => line.startsWith('| `'));
  return rows.map((row) => {
    const [name = '', type = '', labels = '', who = ''] = row
      .split('|')
      .slice(1)
      .map((cell) => cell.trim());
    return {
      name: name.replaceAll('`', ''),
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label).toSorted(),
      who: who === 'all' ? ROLES : who.split(', '),
    };
  });
}

const ROLES = ['ingestor', 'projector', 'gateway', 'metrics-forwarder'];
const isOurs = (name: string) => !/^(process|nodejs)_/.test(name);

/** Name, type and labels of each metric of ours that has a series. */
function shapesIn({ types, series }: Scrape) {
  const metrics = new Map<string, Set<string>>();
  for (const { metric, labels } of series) {
    const names = metrics.get(metric) ?? new Set();
    for (const label of Object.keys(labels)) if (label !== 'le') names.add(label);
    metrics.set(metric, names);
  }
  return [...metrics]
    .filter(([name]) => isOurs(name))
    .map(([name, labels]) => ({ name, type: types.get(name), labels: [...labels].toSorted() }))
    .toSorted((a, b) => a.name.localeCompare(b.name));
}

const countsOf = (...sdks: readonly Record<string, string>[]) => ({
  metricsData: sdks.map((sdk) => ({
    timestamp: Date.now(),
    count: 1,
    metricsType: 'FFMETRICS',
    attributes: Object.entries({
      featureIdentifier: 'dark-mode',
      variationIdentifier: 'true',
      target: 'global',
      ...sdk,
    }).map(([key, value]) => ({ key, value })),
  })),
});
async function postCounts(relay: string, token: string, body: object): Promise<number> {
  const response = await fetch(`${relay}/metrics/${DEMO.dev.id}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  await response.arrayBuffer();
  return response.status;
}
const NODE = { SDK_TYPE: 'server', SDK_LANGUAGE: 'javascript', SDK_VERSION: '1.8.12' };

describe('What a relay shows to Prometheus', () => {
  const workspace = new Workspace();
  let controlPlane: Service;
  let relay: Service;
  let management: string;

  beforeAll(async () => {
    controlPlane = await workspace.controlPlane(await workspace.folder());
    relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      METRIC_POST_DURATION: '1',
    });
    management = await managementOf(relay.process);
  });
  afterAll(() => workspace.dispose());

  it('is what the guide lists, no more and no less, once everything has happened', async () => {
    const sdk = await SdkSession.signIn(relay.url);
    const streaming = new AbortController();
    const events = (await sdk.stream(streaming.signal))[Symbol.asyncIterator]();
    await new Admin(controlPlane.url).setState('dark-mode', 'off');
    await events.next();
    expect(await postCounts(relay.url, sdk.token, countsOf(NODE))).toBe(200);

    const wanted = (await documented())
      .map(({ name, type, labels }) => ({ name, type, labels }))
      .toSorted((a, b) => a.name.localeCompare(b.name));
    const seen = await eventually(
      () => scrape(management),
      ({ series }) => wanted.every(({ name }) => series.some(({ metric }) => metric === name)),
    ).catch(() => scrape(management));
    expect(shapesIn(seen)).toEqual(wanted);
    expect(wanted.length).toBeGreaterThan(15);
    streaming.abort();
  });

  it('tells what happened', async () => {
    const sdk = await SdkSession.signIn(relay.url, DEMO.prod);
    const streaming = new AbortController();
    const events = (await sdk.stream(streaming.signal))[Symbol.asyncIterator]();
    await new Admin(controlPlane.url).setState('dark-mode', 'off', 'prod');
    await events.next();
    await sdk.flags();
    await sdk.get('feature-configs/nobody-knows-it');
    const prod = DEMO.prod.id;
    const route = '/client/env/:environment/feature-configs';
    const seen = await eventually(
      () => scrape(management),
      (now) => valueOf(now, 'ff_proxy_http_requests_total', { url: `${route}/:identifier` }) === 1,
    );
    const requests = (labels: Record<string, string>) =>
      valueOf(seen, 'ff_proxy_http_requests_total', { envID: prod, ...labels });
    expect(requests({ url: route, code: '200' })).toBe(1);
    expect(requests({ url: `${route}/:identifier`, code: '404' })).toBe(1);
    expect(requests({ url: '/stream', code: '200' })).toBe(1);
    expect(valueOf(seen, 'ff_relay_streams', { envID: prod })).toBe(1);
    const producer = 'ff_proxy_primary_to_sdk_sse_producer';
    expect(valueOf(seen, `${producer}_messages_published`, { topic: prod, error: 'false' })).toBe(1);
    expect(valueOf(seen, `${producer}_subscription_requests`, { topic: prod })).toBe(1);
    for (const leg of ['ff_relay_intake_seconds', 'ff_relay_propagation_seconds']) {
      expect(valueOf(seen, leg, { le: '60' })).toBeGreaterThanOrEqual(1);
    }
    expect(valueOf(seen, 'ff_proxy_stream_health')).toBe(1);
    expect(valueOf(seen, 'ff_relay_data_age_seconds')).toBeLessThan(60);
    for (const part of ROLES) expect(valueOf(seen, 'ff_relay_ready', { part })).toBe(1);
    expect(
      valueOf(seen, 'ff_proxy_to_client_service_requests', { url: '/proxy/auth', code: '200' }),
    ).toBeGreaterThan(0);
    streaming.abort();
    await eventually(
      () => scrape(management),
      (now) => valueOf(now, 'ff_relay_streams', { envID: prod }) === undefined,
    );
  });

  it('is on the SDK port too, where SDKs still post their counts', async () => {
    const { series } = await scrape(relay.url);
    expect(series.some(({ metric }) => metric === 'ff_relay_ready')).toBe(true);
    const { token } = await SdkSession.signIn(relay.url);
    expect(await postCounts(relay.url, token, countsOf(NODE))).toBe(200);
    const bare = await fetch(`${relay.url}/metrics`, { method: 'POST', body: '{}' });
    expect([bare.status, bare.headers.get('allow')]).toEqual([405, 'GET, HEAD, OPTIONS']);
    await bare.arrayBuffer();
  });

  it('does not grow by what strangers send', async () => {
    const secret = (n: number) => `stranger-${n}`;
    const stranger = async (n: number) => {
      const headers = { authorization: `Bearer ${secret(n)}`, 'harness-sdk-info': secret(n) };
      const paths = [
        `/${secret(n)}`,
        `/client/env/${secret(n)}/feature-configs`,
        `/client/env/${DEMO.dev.id}/feature-configs/${secret(n)}`,
        `/stream?${secret(n)}`,
        `/ofrep/v1/events?token=${secret(n)}`,
        `//${secret(n)}/%`,
      ];
      await Promise.all(
        paths.map(async (path) => (await fetch(relay.url + path, { headers })).arrayBuffer()),
      );
      const posts = [
        `/metrics/${secret(n)}`,
        '/client/auth',
        `/ofrep/v1/evaluate/flags/${secret(n)}`,
        `/${secret(n)}`,
      ];
      const body = JSON.stringify({ apiKey: secret(n) });
      await Promise.all(
        posts.map(async (path) =>
          (await fetch(relay.url + path, { method: 'POST', headers, body })).arrayBuffer(),
        ),
      );
      await (
        await fetch(relay.url + `/${secret(n)}`, { method: 'OPTIONS', headers: { origin: secret(n) } })
      ).arrayBuffer();
    };
    const ofRequests = async () =>
      (await scrape(management)).series.filter(({ metric }) => metric.includes('http_requests'));
    await stranger(0);
    const unmatched = { url: 'unmatched', envID: '', code: '404' };
    const after = (n: number) =>
      eventually(
        () => scrape(management),
        (now) => (valueOf(now, 'ff_proxy_http_requests_total', unmatched) ?? 0) >= 2 * n,
      );
    await after(1);
    const before = await ofRequests();
    for (let n = 1; n <= 20; n++) await stranger(n);
    const page = await after(21);
    const now = await ofRequests();
    expect(now.map(({ line }) => line.replace(/ \S+$/, ''))).toEqual(
      before.map(({ line }) => line.replace(/ \S+$/, '')),
    );
    expect(page.series.filter(({ line }) => line.includes('stranger'))).toEqual([]);
    const refused = page.series.filter(({ labels }) => labels['code'] === '401');
    expect(refused.length).toBeGreaterThan(0);
    expect(new Set(refused.map(({ labels }) => labels['envID']))).toEqual(new Set(['']));
  });

  it('names SDKs in a bounded number of ways, whatever they call themselves', async () => {
    const { token } = await SdkSession.signIn(relay.url);
    const sdks = Array.from({ length: 300 }, (_, n) => ({
      ...NODE,
      SDK_VERSION: `9.${n}.0`,
      ...(n % 3 === 0 && { SDK_LANGUAGE: `"}\n${n}`, SDK_TYPE: `type ${n}` }),
      ...(n % 5 === 0 && { SDK_VERSION: `9.0.0-${'x'.repeat(n)}` }),
    }));
    for (let at = 0; at < sdks.length; at += 50) {
      expect(await postCounts(relay.url, token, countsOf(...sdks.slice(at, at + 50)))).toBe(200);
    }
    const { series } = await scrape(management);
    const named = series.filter(({ metric }) => metric === 'ff_proxy_sdk_usage');
    expect(named.length).toBeLessThanOrEqual(60);
    expect(named.length).toBeGreaterThan(10);
    for (const { labels } of named) {
      expect(labels['sdk_type']).toMatch(/^(server|client|mobile|other)$/);
      expect(labels['sdk_language']).toMatch(/^(javascript|other)$/);
      expect(labels['sdk_version']).toMatch(/^(\d+\.\d+\.\d+|other)$/);
    }
    expect(named.find(({ labels }) => labels['sdk_version'] === '1.8.12')?.value).toBeGreaterThan(0);
  });
});

describe('PROMETHEUS_PORT', () => {
  const workspace = new Workspace();
  const extra: Process[] = [];
  let controlPlane: Service;
  beforeAll(async () => {
    controlPlane = await workspace.controlPlane(await workspace.folder());
  });
  afterEach(() => Promise.all(extra.splice(0).map((process) => process.kill('SIGKILL'))));
  afterAll(() => workspace.dispose());

  const statusOf = async (url: string) => {
    const response = await fetch(url);
    await response.arrayBuffer();
    return response.status;
  };

  it('that is PORT changes nothing', async () => {
    const port = await freePort();
    const { url } = await workspace.relay(await workspace.folder(), controlPlane.url, port, {
      PROMETHEUS_PORT: String(port),
    });
    expect(await statusOf(`${url}/metrics`)).toBe(200);
  });

  it('that is another answers there and not on the SDK port', async () => {
    const port = await freePort();
    const { url, process } = await workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      PROMETHEUS_PORT: String(port),
    });
    expect(await statusOf(`${url}/metrics`)).toBe(404);
    expect(await statusOf(`${await managementOf(process)}/metrics`)).toBe(200);
    const own = `http://127.0.0.1:${port}`;
    expect((await scrape(own)).series.some(({ metric }) => metric === 'ff_relay_ready')).toBe(true);
    expect(await statusOf(`${own}/status`)).toBe(404);
    expect(await statusOf(`${own}/health`)).toBe(404);
    const { token } = await SdkSession.signIn(url);
    expect(await postCounts(url, token, countsOf(NODE))).toBe(200);
  });

  it('that is taken stops the start, and says which setting to change', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    const process = await begin({ PROMETHEUS_PORT: String(port) });
    expect(await process.exited).toBe(1);
    expect(process.output).toContain(`Port ${port} is in use.`);
    expect(process.output).toContain('set PROMETHEUS_PORT to another port');
    other.close();
  });

  it('is answered while there is nothing to serve yet', async () => {
    const port = await freePort();
    const process = await begin({ PROMETHEUS_PORT: String(port) });
    await process.printed(/Answering \/metrics on port/);
    for (const url of [`http://127.0.0.1:${port}`, await managementOf(process)]) {
      const seen = await scrape(url);
      expect(valueOf(seen, 'ff_relay_ready', { part: 'gateway' })).toBe(0);
      expect(valueOf(seen, 'ff_relay_data_age_seconds')).toBeUndefined();
      expect(seen.series.some(({ metric }) => metric === 'nodejs_version_info')).toBe(true);
    }
  });

  /** A relay whose upstream is away. */
  async function begin(settings: NodeJS.ProcessEnv): Promise<Process> {
    const nobody = `http://127.0.0.1:${await freePort()}/api/1.0`;
    const process = runApp('relay', {
      DATA_DIR: await workspace.folder(),
      HOST: '127.0.0.1',
      PORT: '0',
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      CLIENT_SERVICE: nobody,
      METRIC_SERVICE: nobody,
      ...settings,
    });
    extra.push(process);
    return process;
  }
});

describe('What each role of a service set shows to Prometheus', () => {
  let set: ServiceSet;
  beforeAll(async () => {
    set = await ServiceSet.start();
  });
  afterAll(() => set.dispose());

  it.each(ROLES)('is what the guide says: %s', async (role) => {
    const wanted = (await documented()).filter(({ who }) => who.includes(role)).map(({ name }) => name);
    const { types } = await scrape(set.managementUrl(`${role}-1` as Parameters<ServiceSet['status']>[0]));
    expect([...types.keys()].filter(isOurs).toSorted()).toEqual(wanted.toSorted());
  });

  it('tells of the link at the ingestor that leads, and at gateways, who are told', async () => {
    for (const part of ['ingestor-1', 'gateway-1', 'gateway-2'] as const) {
      const seen = await eventually(
        () => scrape(set.managementUrl(part)),
        (now) => valueOf(now, 'ff_proxy_stream_health') === 1,
      );
      expect(valueOf(seen, 'ff_relay_data_age_seconds')).toBeLessThan(60);
    }
    const { series } = await scrape(set.managementUrl('projector-1'));
    expect(series.filter(({ metric }) => metric === 'ff_proxy_stream_health')).toEqual([]);
  });
});
