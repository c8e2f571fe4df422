import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from '@harnessio/ff-nodejs-server-sdk';

import { type BundleEnvironment, readBundle, writeBundle } from '#libs/bundle';

import { aFlag, aSegment } from '../libs/domain/src/builders.suite.js';
import { eventually, ownMemory, SdkSession, upstreamFlags, without } from './support/clients.js';

import { DEMO, freePort, run, runApp, type Service, Workspace } from './support/processes.js';

const hashOf = (key: string) => createHash('sha256').update(key).digest('hex');
const dev: BundleEnvironment = {
  id: DEMO.dev.id,
  flags: [aFlag('dark-mode', { state: 'on', version: 3 }), aFlag('theme', { version: 5 })],
  segments: [aSegment('beta')],
  apiKeys: [hashOf(DEMO.dev.serverKey)],
};
const prod: BundleEnvironment = { ...dev, id: DEMO.prod.id, apiKeys: [hashOf(DEMO.prod.serverKey)] };

describe('A relay that is offline', () => {
  let workspace: Workspace;
  let config: string;
  let dataDir: string;
  let nobody: Server;
  let calls: number;

  beforeEach(async () => {
    workspace = new Workspace();
    config = join(await workspace.folder(), 'config');
    dataDir = await workspace.folder();
    calls = 0;
    nobody = createServer((_, answer) => answer.writeHead(500).end()).on('connection', () => calls++);
    await once(nobody.listen(0, '127.0.0.1'), 'listening');
  });
  afterEach(async () => {
    await workspace.dispose();
    nobody.close();
  });

  const write = async (...environments: BundleEnvironment[]) => {
    const time = new Date().toISOString();
    const origin = { source: 'log', position: null, time, writtenAt: time, complete: true } as const;
    await writeBundle(config, environments, origin, { replaces: true });
  };
  /** As the Go relay writes: no manifest, lists on one line, null for none. */
  const writeAsGo = async (...environments: BundleEnvironment[]) => {
    for (const { id, flags, segments, apiKeys } of environments) {
      const folder = join(config, `env-${id}`);
      await mkdir(folder, { recursive: true });
      const lists = { feature_config: flags, segments, targets: [], auth_config: apiKeys };
      for (const [name, list] of Object.entries(lists))
        await writeFile(join(folder, `${name}.json`), `${JSON.stringify(list.length > 0 ? list : null)}\n`);
      await writeFile(join(folder, 'README.md'), `# Env-${id}\n`);
    }
  };
  const settings = () => {
    const { port } = nobody.address() as AddressInfo;
    const upstream = `http://127.0.0.1:${port}/api/1.0`;
    return {
      OFFLINE: 'true',
      CONFIG_DIR: config,
      PROXY_KEY: '',
      FORWARD_TARGETS: 'true',
      METRIC_POST_DURATION: '1',
      RECONCILE_INTERVAL: '1',
      CLIENT_SERVICE: upstream,
      METRIC_SERVICE: upstream,
    };
  };
  const serve = (environment: NodeJS.ProcessEnv = {}): Promise<Service> =>
    workspace.relay(dataDir, 'http://127.0.0.1:1', 0, { ...settings(), ...environment });

  it('calls nobody, whatever SDKs do', async () => {
    await write(dev);
    const notes = join(await workspace.folder(), 'outbound');
    await writeFile(notes, '');
    const managementPort = await freePort();
    const environment = {
      ...settings(),
      AUTH_SECRET: 'a secret that is long enough for a test',
      DATA_DIR: dataDir,
      MANAGEMENT_PORT: String(managementPort),
      PORT: '0',
      OUTBOUND_NOTES: notes,
      NODE_OPTIONS: `--import ${join(import.meta.dirname, 'support', 'outbound.mjs')}`,
    };
    const relay = await serve(environment);
    const auth = await fetch(`${relay.url}/client/auth`, {
      method: 'POST',
      body: JSON.stringify({
        apiKey: DEMO.dev.serverKey,
        target: { identifier: 'ada', name: 'Ada', attributes: { plan: 'gold' } },
      }),
    });
    const { authToken } = (await auth.json()) as { authToken: string };
    const counts = {
      metricsData: [
        {
          timestamp: Date.now(),
          count: 4,
          metricsType: 'FFMETRICS',
          attributes: [
            { key: 'featureIdentifier', value: 'dark-mode' },
            { key: 'variationIdentifier', value: 'true' },
          ],
        },
      ],
    };
    const posted = await fetch(`${relay.url}/metrics/${dev.id}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${authToken}` },
      body: JSON.stringify(counts),
    });
    expect(posted.status).toBe(200);
    const evaluations = await fetch(`${relay.url}/client/env/${dev.id}/target/ada/evaluations`, {
      headers: { authorization: `Bearer ${authToken}` },
    });
    expect(await evaluations.json()).toMatchObject([
      { flag: 'dark-mode', value: 'true' },
      { flag: 'theme', value: 'false' },
    ]);
    // The counts have been dealt with, and the directory read again.
    const status = await eventually(
      async () =>
        (await (await fetch(`http://127.0.0.1:${managementPort}/status`)).json()) as {
          gateway: { countsAreDropped: boolean; unsentEvaluations: number };
          'metrics-forwarder': { backlog: { messages: number }; isSending: boolean };
          ingestor: { comparisons: { agreed: number } };
        },
      (seen) => seen.ingestor.comparisons.agreed > 1,
    );
    expect(status.gateway).toMatchObject({ countsAreDropped: true, unsentEvaluations: 4 });
    expect(status['metrics-forwarder']).toMatchObject({ isSending: false, backlog: { messages: 0 } });
    expect(relay.process.output).toContain('OFFLINE is on: evaluation counts of SDKs are taken and dropped');
    expect(await relay.process.kill('SIGTERM')).toBe(0);
    expect(await readFile(notes, 'utf8')).toBe('');
    expect(calls).toBe(0);

    // One that is not offline is caught at it.
    const online = runApp('relay', { ...environment, OFFLINE: 'false', PROXY_KEY: 'any' });
    await online.printed(/connecting again/);
    await online.kill('SIGKILL');
    expect(await readFile(notes, 'utf8')).toContain('connect');
    expect(calls).toBeGreaterThan(0);
  });

  it('serves what the Go relay wrote, and is told of changes, also of files changed one by one', async () => {
    await writeAsGo(dev, prod);
    const relay = await serve();
    const sdk = await SdkSession.signIn(relay.url);
    expect(await sdk.flagVersion('theme')).toBe(5);
    const ending = new AbortController();
    const events = without(['dark-mode', 'theme'], await sdk.stream(ending.signal));
    const folder = join(config, `env-${dev.id}`);
    const flags = [aFlag('dark-mode', { state: 'off', version: 4 }), aFlag('new')];
    await writeFile(join(folder, 'feature_config.json'), JSON.stringify(flags));
    const heard = [];
    for (let i = 0; i < 3; i++) heard.push((await events.next()).value);
    expect(heard).toMatchObject([
      { domain: 'flag', event: 'patch', identifier: 'dark-mode', version: 4 },
      { domain: 'flag', event: 'create', identifier: 'new', version: 1 },
      { domain: 'flag', event: 'delete', identifier: 'theme' },
    ]);
    expect(await sdk.flagVersion('dark-mode')).toBe(4);
    expect(await sdk.flagVersion('theme')).toBeUndefined();

    await writeFile(join(folder, 'auth_config.json'), '[]');
    await eventually(
      () => sdk.get('feature-configs').then(({ status }) => status),
      (status) => status === 401,
    );
    ending.abort();
    expect(await (await SdkSession.signIn(relay.url, DEMO.prod)).flagVersion('theme')).toBe(5);
  });

  it('keeps the last good state over a broken directory and a restart, and says why', async () => {
    await write(dev, prod);
    const managementPort = await freePort();
    const relay = await serve({ MANAGEMENT_PORT: String(managementPort) });
    const before = await (await SdkSession.signIn(relay.url)).flags();
    const file = join(config, `env-${dev.id}`, 'feature_config.json');
    await truncate(file, 100);
    await relay.process.printed(/ERROR.*feature_config\.json: it is not as manifest\.json says/);
    const status = await (await fetch(`http://127.0.0.1:${managementPort}/status`)).json();
    expect(status).toMatchObject({
      ready: true,
      ingestor: {
        bundle: { refused: { reason: expect.stringContaining(`env-${dev.id}/feature_config.json`) } },
      },
    });
    expect(await (await SdkSession.signIn(relay.url)).flags()).toBe(before);
    expect(await relay.process.kill('SIGKILL')).toBe('SIGKILL');
    const again = await serve();
    expect(await (await SdkSession.signIn(again.url)).flags()).toBe(before);
    await rm(config, { recursive: true });
    await again.process.printed(/there is no such directory/);
    expect(await (await SdkSession.signIn(again.url)).flags()).toBe(before);
  });

  it('tells a real SDK of a change', async () => {
    await write(dev);
    const relay = await serve();
    const client = new Client(DEMO.dev.serverKey, {
      baseUrl: relay.url,
      eventsUrl: relay.url,
      pollInterval: 3_600_000,
      enableAnalytics: false,
      logger: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
      ...ownMemory(),
    });
    await client.waitForInitialization();
    const target = { identifier: 'ada', name: 'Ada', attributes: {} };
    expect(await client.boolVariation('dark-mode', target, false)).toBe(true);
    await write({ ...dev, flags: [aFlag('dark-mode', { state: 'off', version: 4 })] });
    await eventually(
      () => client.boolVariation('dark-mode', target, true),
      (value) => !value,
    );
    client.close();
  });

  it('begins when a directory comes that was not there at the start', async () => {
    const relay = runApp('relay', {
      ...settings(),
      DATA_DIR: dataDir,
      PORT: '0',
      HOST: '127.0.0.1',
      AUTH_SECRET: 'a secret that is long enough for a test',
    });
    await relay.printed(/there is no such directory\. There is nothing to serve until it is put right/);
    await write(dev);
    await relay.printed(/Serving SDKs on/);
    expect(await relay.kill('SIGTERM')).toBe(0);
  });

  it('is what npm start runs with OFFLINE, and GENERATE_OFFLINE_CONFIG writes its directory and ends', async () => {
    const upstream = await workspace.controlPlane(await workspace.folder());
    const port = String(await freePort());
    const start = (environment: NodeJS.ProcessEnv) =>
      run('npm', ['start'], { DATA_DIR: dataDir, CONFIG_DIR: config, PORT: port, ...environment });
    const online = { PROXY_KEY: DEMO.proxyKey, CLIENT_SERVICE: `${upstream.url}/api/1.0` };
    const generating = start({ ...online, GENERATE_OFFLINE_CONFIG: 'true' });
    expect(await generating.exited).toBe(0);
    expect(generating.output).toContain(`${config} holds 2 environments now. Serve them with OFFLINE=true.`);
    expect(await readdir(config)).toContain(`env-${DEMO.dev.id}`);
    const { manifest } = await readBundle(config);
    expect(manifest).toMatchObject({ source: 'upstream', position: null, complete: true });

    const offline = start({ OFFLINE: 'true', AUTH_SECRET: 'a secret that is long enough for a test' });
    await offline.printed(/Serving SDKs on/);
    const flags = await (await SdkSession.signIn(`http://127.0.0.1:${port}`)).flags();
    expect(flags).toBe(await upstreamFlags(upstream.url));
    expect(await offline.kill('SIGTERM')).toBe(0);

    // A second time it replaces what is there; and one that fails leaves it as it is.
    expect(await start({ ...online, GENERATE_OFFLINE_CONFIG: 'true' }).exited).toBe(0);
    const before = await readFile(join(config, 'manifest.json'), 'utf8');
    const refused = start({ ...online, PROXY_KEY: 'another', GENERATE_OFFLINE_CONFIG: 'true' });
    expect(await refused.exited).toBe(1);
    expect(refused.output).toMatch(/was not written, .*the upstream refuses PROXY_KEY/);
    expect(await readFile(join(config, 'manifest.json'), 'utf8')).toBe(before);
    const unset = start({ GENERATE_OFFLINE_CONFIG: 'true' });
    expect(await unset.exited).toBe(1);
    expect(unset.output).toContain('PROXY_KEY is not set');
  });
});
