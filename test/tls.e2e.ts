import { once } from 'node:events';
import { copyFile, writeFile } from 'node:fs/promises';
import { type IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { type AddressInfo, connect as connectPlain, type Socket } from 'node:net';
import { join } from 'node:path';
import { connect, createServer, type Server } from 'node:tls';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { type Certificate, certify } from './support/certificates.js';
import { Admin, eventually, SdkSession } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { done } from './support/ff-relay.js';
import { DEMO, type Process, run, type Service, Workspace } from './support/processes.js';
import { WebProxy } from './support/web-proxy.js';

let workspace: Workspace;
let folder: string;
let [first, second]: Certificate[] = [];
let controlPlane: Service;
const processes: Process[] = [];

beforeEach(async () => {
  workspace = new Workspace();
  folder = await workspace.folder();
  first = certify(folder, 'first');
  second = certify(folder, 'second');
});
afterEach(async () => {
  await Promise.all(processes.splice(0).map((process) => process.kill('SIGKILL')));
  await workspace.dispose();
});

/** Puts a certificate where the settings say. */
async function use({ certFile, keyFile }: Certificate): Promise<void> {
  await copyFile(certFile, files().TLS_CERT);
  await copyFile(keyFile, files().TLS_KEY);
}
const files = () => ({ TLS_CERT: join(folder, 'now.pem'), TLS_KEY: join(folder, 'now.key') });

/** The name in the certificate that a new connection is shown. */
async function shownAt(port: number): Promise<string | undefined> {
  const socket = connect({ host: '127.0.0.1', port, ca: [first!.cert, second!.cert] });
  try {
    await once(socket, 'secureConnect');
    return socket.getPeerCertificate().subject.CN?.toString();
  } finally {
    socket.destroy();
  }
}

async function ask(
  url: string,
  headers: Record<string, string> = {},
  body?: object,
): Promise<IncomingMessage> {
  const asking = request(url, {
    method: body ? 'POST' : 'GET',
    headers: { ...headers, ...(body && { 'content-type': 'application/json' }) },
    ca: [first!.cert, second!.cert],
    agent: false,
  });
  asking.end(body && JSON.stringify(body));
  const [answer] = (await once(asking, 'response')) as [IncomingMessage];
  return answer;
}

/** A stream that an SDK opened, and what it heard so far. */
async function openStream(url: string): Promise<{ heard: string; readonly ended: boolean }> {
  const answer = await ask(`${url}/client/auth`, {}, { apiKey: DEMO.dev.serverKey });
  const { authToken } = JSON.parse((await answer.toArray()).join('')) as { authToken: string };
  const stream = await ask(`${url}/stream`, {
    authorization: `Bearer ${authToken}`,
    'api-key': DEMO.dev.serverKey,
  });
  expect(stream.statusCode).toBe(200);
  const opened = { heard: '', ended: false };
  stream.setEncoding('utf8').on('data', (text: string) => (opened.heard += text));
  stream.on('close', () => (opened.ended = true)).on('error', () => undefined);
  return opened;
}

describe('The port for SDKs with TLS_ENABLED', () => {
  beforeEach(async () => {
    controlPlane = await workspace.controlPlane(await workspace.folder());
    await use(first!);
  });
  const start = async (settings: NodeJS.ProcessEnv = {}) =>
    workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      TLS_ENABLED: 'true',
      ...files(),
      ...settings,
    });

  it('serves real SDKs, and nobody who speaks no TLS', async () => {
    const relay = await start();
    expect(relay.url).toMatch(/^https:/);
    const example = run('node', ['docs/examples/node-sdk.mjs'], {
      RELAY_URL: `https://localhost:${relay.port}`,
      NODE_EXTRA_CA_CERTS: first!.certFile,
    });
    processes.push(example);
    await example.printed(/dark-mode is (true|false)/);
    const on = /dark-mode is true/.test(example.output);
    await new Admin(controlPlane.url).setState('dark-mode', on ? 'off' : 'on');
    await example.printed(new RegExp(`dark-mode is ${!on}`));

    await expect(fetch(relay.url.replace('https', 'http'))).rejects.toThrow('fetch failed');
    const socket = connectPlain(relay.port, '127.0.0.1');
    socket.on('error', () => undefined).end('no TLS at all');
    await once(socket, 'close');
    expect(await shownAt(relay.port)).toBe('first');
  });

  it('shows a new certificate without ending what is open, and keeps it when the next cannot be used', async () => {
    const relay = await start();
    const stream = await openStream(relay.url);
    expect(await shownAt(relay.port)).toBe('first');
    await use(second!);
    await relay.process.printed(/TLS_CERT, TLS_KEY: new files are used .* valid until/);
    expect(await shownAt(relay.port)).toBe('second');

    await writeFile(files().TLS_CERT, 'not a certificate');
    await relay.process.printed(
      /TLS_CERT: .* holds no certificate in PEM; what was there before stays in use/,
    );
    expect(await shownAt(relay.port)).toBe('second');

    await new Admin(controlPlane.url).setState('dark-mode', 'off');
    await eventually(
      async () => stream.heard,
      (heard) => heard.includes('"identifier":"dark-mode"'),
    );
    expect(stream.ended).toBe(false);
  });

  it('stays closed where the certificate cannot be used, with all faults', async () => {
    await use({ ...first!, keyFile: second!.keyFile });
    const relay = run(
      process.execPath,
      ['dist/apps/relay/src/main.js', '-tls-enabled', '--port', 'x'],
      files(),
    );
    await expect(relay.exited).resolves.toBe(1);
    expect(relay.output).toMatch(/PORT cannot be "x"/);
    expect(relay.output).toMatch(/TLS_KEY: .* is not the key of the first certificate in TLS_CERT/);
  });
});

describe('A gateway with two workers and TLS_ENABLED', () => {
  let set: ServiceSet;
  afterEach(() => set.dispose());

  it('shows a new certificate on both, and their streams go on', async () => {
    await use(first!);
    set = await ServiceSet.start(['nats', 'redis', 'control-plane', 'ingestor-1', 'projector-1']);
    await set.start('gateway-1', { GATEWAY_WORKERS: '2', TLS_ENABLED: 'true', ...files() });
    const url = set.gatewayUrl('gateway-1').replace('http', 'https');
    expect(set.output('gateway-1')).toContain(`Serving SDKs on ${url} with 2 workers`);
    const streams = await Promise.all(Array.from({ length: 4 }, () => openStream(url)));
    await use(second!);
    await eventually(
      async () => set.output('gateway-1').match(/TLS_CERT, TLS_KEY: new files are used/g)?.length,
      (count) => count === 2,
    );
    // Connections come to the workers in turn.
    for (let i = 0; i < 4; i++) expect(await shownAt(Number(new URL(url).port))).toBe('second');
    await new Admin(set.controlPlane.url).setState('dark-mode', 'off');
    await eventually(
      async () => streams,
      (all) => all.every(({ heard }) => heard.includes('"identifier":"dark-mode"')),
    );
    expect(streams.some(({ ended }) => ended)).toBe(false);
  });
});

describe('An upstream behind a proxy that wants a certificate of the relay', () => {
  const HOST = 'upstream.test';
  let front: Server;
  let proxy: WebProxy;
  const sockets = new Set<Socket>();

  beforeEach(async () => {
    controlPlane = await workspace.controlPlane(await workspace.folder());
    const own = certify(folder, 'upstream', [HOST]);
    front = createServer(
      { cert: own.cert, key: own.key, requestCert: true, rejectUnauthorized: true, ca: first!.cert },
      (near) => {
        const far = connectPlain(controlPlane.port, '127.0.0.1');
        for (const socket of [near, far]) {
          sockets.add(socket);
          socket.on('error', () => undefined).on('close', () => [near, far].map((end) => end.destroy()));
        }
        near.pipe(far).pipe(near);
      },
    );
    await once(front.listen(0, '127.0.0.1'), 'listening');
    proxy = await WebProxy.start('anna:secret-word');
  });
  afterEach(async () => {
    await proxy.close();
    for (const socket of sockets) socket.destroy();
    await once(front.close(), 'close');
  });

  it('is read and listened to through it', async () => {
    const { port } = front.address() as AddressInfo;
    const upstream = `https://${HOST}:${port}/api/1.0`;
    const settings = {
      CLIENT_SERVICE: upstream,
      METRIC_SERVICE: upstream,
      UPSTREAM_CA: join(folder, 'upstream.pem'),
      UPSTREAM_CERT: first!.certFile,
      UPSTREAM_KEY: first!.keyFile,
      https_proxy: `http://anna:secret-word@${proxy.host}`,
      NO_PROXY: 'elsewhere.test',
      RECONCILE_INTERVAL: '86400',
    };
    const checked = await done(['check'], {
      ...settings,
      DATA_DIR: folder,
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: '5d0c7f1e9ab34826d1f7c0e35b98a642f0c1d7e8b3a59264',
    });
    expect(checked).toMatch(/^ok {4}upstream +\S+ takes the proxy key, which opens 2 environments/m);
    expect(checked).toMatch(/^ok {4}counts /m);
    expect(checked).toMatch(/^ok {4}clock /m);
    expect(checked).toMatch(/^ok {4}tls +the certificate of UPSTREAM_CERT is valid until /m);
    expect(checked).not.toContain('secret-word');
    expect(new Set(proxy.asked.splice(0))).toEqual(new Set([`CONNECT ${HOST}:${port}`]));
    const relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, settings);
    const sdk = await SdkSession.signIn(relay.url);
    const version = await sdk.flagVersion('dark-mode');
    await new Admin(controlPlane.url).setState('dark-mode', 'off');
    await eventually(
      () => sdk.flagVersion('dark-mode'),
      (now) => (now ?? 0) > (version ?? 0),
    );
    expect(new Set(proxy.asked)).toEqual(new Set([`CONNECT ${HOST}:${port}`]));
    expect(relay.process.output).not.toContain('secret-word');
  });
});
