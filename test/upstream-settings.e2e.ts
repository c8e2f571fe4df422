import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createServer, type Server } from 'node:tls';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { ScriptedUpstream, type UpstreamEnvironment } from '../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag } from '../libs/domain/src/builders.suite.js';

import { eventually, SdkSession } from './support/clients.js';
import { FaultLink } from './support/fault-link.js';
import { DEMO, runApp, type Service, Workspace } from './support/processes.js';
import { hashOf } from './support/upstream-world.js';

const HEARTBEAT_MS = 200;

const anEnvironment = (version = 1): UpstreamEnvironment => ({
  flags: [aFlag('dark-mode', { version })],
  segments: [],
  apiKeys: [hashOf(DEMO.dev.serverKey)],
});

let workspace: Workspace;
let upstream: ScriptedUpstream;
let link: FaultLink;
let heartbeat: NodeJS.Timeout;

beforeEach(async () => {
  workspace = new Workspace();
  upstream = await ScriptedUpstream.start({ [DEMO.dev.id]: anEnvironment() });
  link = await FaultLink.to(upstream.url);
  heartbeat = setInterval(() => upstream.say(':\n\n'), HEARTBEAT_MS);
});
afterEach(async () => {
  clearInterval(heartbeat);
  await workspace.dispose();
  await link.close();
  upstream.close();
});

const LONG_MS = 150_000;
const start = async (settings: NodeJS.ProcessEnv, url = link.url) =>
  workspace.relay(
    await workspace.folder(),
    url,
    0,
    { CLIENT_SERVICE: url, METRIC_SERVICE: url, ...settings },
    LONG_MS,
  );
const listens = () =>
  eventually(
    () => upstream.openStreams,
    (open) => open === 1,
  );
const change = (version: number) => (upstream.environments[DEMO.dev.id] = anEnvironment(version));
const tell = (version: number) =>
  upstream.tell({
    domain: 'flag',
    event: 'patch',
    identifier: 'dark-mode',
    version,
    environment: DEMO.dev.id,
  });
const serves = async ({ url }: Service, version: number) => {
  const session = await SdkSession.signIn(url);
  await eventually(
    () => session.flagVersion('dark-mode'),
    (served) => served === version,
  );
};

describe('The relay', () => {
  it('compares every RECONCILE_INTERVAL seconds, and so finds what no message told', async () => {
    const relay = await start({ RECONCILE_INTERVAL: '1' });
    await listens();
    change(2);
    await serves(relay, 2);
    change(3);
    await serves(relay, 3);
  });

  it('replaces a stream without a byte for STREAM_IDLE_TIMEOUT seconds', async () => {
    const relay = await start({ STREAM_IDLE_TIMEOUT: '1', RECONCILE_INTERVAL: '86400' });
    await listens();
    link.endStreams('silence');
    change(2);
    tell(2);
    await serves(relay, 2);
    expect(relay.process.output).toContain('no byte for 1 s');
  });
});

describe('An upstream on https', () => {
  let front: Server;
  let sockets: Set<Socket>;
  let trusted: { key: string; cert: string; file: string };
  let other: { key: string; cert: string };

  const certificate = (folder: string, name: string) => {
    const [key, file] = [join(folder, `${name}.key`), join(folder, `${name}.pem`)];
    const request =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost ' +
      `-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout ${key} -out ${file}`;
    execFileSync('openssl', request.split(' '), { stdio: 'ignore' });
    return { key: readFileSync(key, 'utf8'), cert: readFileSync(file, 'utf8'), file };
  };

  beforeEach(async () => {
    const folder = await workspace.folder();
    trusted = certificate(folder, 'trusted');
    other = certificate(folder, 'other');
    sockets = new Set();
    const { key, cert } = trusted;
    front = createServer({ key, cert }, (near) => {
      const far = connect(Number(new URL(link.url).port), '127.0.0.1');
      for (const socket of [near, far]) {
        sockets.add(socket);
        socket.on('error', () => undefined).on('close', () => [near, far].map((end) => end.destroy()));
      }
      near.pipe(far).pipe(near);
    });
    await once(front.listen(0, '127.0.0.1'), 'listening');
  });
  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    await once(front.close(), 'close');
  });
  const url = () => `https://127.0.0.1:${(front.address() as AddressInfo).port}`;

  it('whose certificate nobody trusts is not talked to, and the log says why', async () => {
    const relay = runApp('relay', {
      DATA_DIR: await workspace.folder(),
      PORT: '0',
      HOST: '127.0.0.1',
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      CLIENT_SERVICE: url(),
      METRIC_SERVICE: url(),
    });
    try {
      await relay.printed(/self-signed certificate/);
      expect(upstream.asked).toEqual([]);
    } finally {
      await relay.kill('SIGKILL');
    }
  });

  it('is trusted by NODE_EXTRA_CA_CERTS; while it shows another certificate what is known is served', async () => {
    const relay = await start({ NODE_EXTRA_CA_CERTS: trusted.file, RECONCILE_INTERVAL: '86400' }, url());
    await listens();
    change(2);
    tell(2);
    await serves(relay, 2);

    front.setSecureContext(other);
    for (const socket of sockets) socket.destroy();
    change(3);
    await relay.process.printed(/self-signed certificate/);
    await serves(relay, 2);

    front.setSecureContext(trusted);
    await serves(relay, 3);
  });
});

describe('A large account', () => {
  /** How many reads were under way at once at most; each read is counted by its name and page. */
  const watched = () => {
    const reads = new Map<string, number>();
    let [now, most] = [0, 0];
    upstream.watch = (name, response) => {
      if (name.startsWith('stream') || name.startsWith('auth')) return;
      reads.set(name, (reads.get(name) ?? 0) + 1);
      most = Math.max(most, ++now);
      response.once('close', () => now--);
    };
    return { reads, atOnce: () => most };
  };

  it('of 1,000 environments with 30 flags each is read page by page, each page once, and served', async () => {
    const ids = Array.from({ length: 1000 }, (_, i) => `environment-${i}`);
    upstream.environments = Object.fromEntries(
      ids.map((id) => [
        id,
        {
          flags: Array.from({ length: 30 }, (_, i) => aFlag(`flag-${i}`)),
          segments: [],
          apiKeys: [hashOf(`key of ${id}`)],
        },
      ]),
    );
    const { reads, atOnce } = watched();
    const relay = await start({ RECONCILE_INTERVAL: '86400' });
    for (const id of [ids.at(0)!, ids.at(-1)!]) {
      const session = await SdkSession.signIn(relay.url, { id, serverKey: `key of ${id}` });
      expect(JSON.parse(await session.flags())).toHaveLength(30);
    }
    expect(reads.size).toBe(100);
    expect(new Set(reads.values())).toEqual(new Set([1]));

    await listens();
    const many = ids.slice(0, 30);
    for (const id of many) {
      const environment = upstream.environment(id);
      upstream.environments[id] = { ...environment, flags: [aFlag('flag-0', { version: 2 })] };
      // Long enough for the reads to overlap.
      upstream.next(`flags ${id}`, (_, usual) => setTimeout(usual, 200));
      upstream.tell({ domain: 'flag', event: 'patch', identifier: 'flag-0', version: 2, environment: id });
    }
    const session = await SdkSession.signIn(relay.url, {
      id: many.at(-1)!,
      serverKey: `key of ${many.at(-1)}`,
    });
    await eventually(
      () => session.flagVersion('flag-0'),
      (version) => version === 2,
    );
    expect(atOnce()).toBeGreaterThan(1);
    expect(atOnce()).toBeLessThanOrEqual(8);
  });

  it('of one environment with 5,000 flags in 20 MB is served, and each change of it', async () => {
    const value = 'x'.repeat(3700);
    const flags = Array.from({ length: 5000 }, (_, i) =>
      aFlag(`flag-${String(i).padStart(4, '0')}`, {
        kind: 'string',
        variations: [
          { identifier: 'true', value },
          { identifier: 'false', value: '' },
        ],
      }),
    );
    expect(JSON.stringify(flags).length).toBeGreaterThan(20_000_000);
    upstream.environments = { [DEMO.dev.id]: { ...anEnvironment(), flags } };
    const { reads } = watched();
    const relay = await start({ RECONCILE_INTERVAL: '86400' });
    const session = await SdkSession.signIn(relay.url);
    expect(await session.flags()).toBe(JSON.stringify(flags));
    expect([...reads.values()]).toEqual([1]);

    await listens();
    const changed = { ...flags[0]!, version: 2 };
    upstream.environments = { [DEMO.dev.id]: { ...anEnvironment(), flags: [changed, ...flags.slice(1)] } };
    upstream.tell({
      domain: 'flag',
      event: 'patch',
      identifier: changed.feature,
      version: 2,
      environment: DEMO.dev.id,
    });
    await eventually(
      () => session.flagVersion(changed.feature),
      (version) => version === 2,
    );
  });
});
