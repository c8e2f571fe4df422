import { EventEmitter, once } from 'node:events';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer as createPlainServer, type RequestListener, type Server } from 'node:http';
import { createServer } from 'node:https';
import { type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { TlsFiles } from '#libs/config';

import { type Certificate, certify } from '../../../test/support/certificates.js';
import { WebProxy } from '../../../test/support/web-proxy.js';
import { SaasClient, type Session, UpstreamLink, type UpstreamLinkOptions } from './index.js';

const HOST = 'upstream.test';
const FOREVER = new AbortController().signal;
const SESSION: Session = { token: 'token', cluster: '1', account: 'account', environments: new Set() };

let folder: string;
let [own, other, client]: Certificate[] = [];
let [server, plain]: Server[] = [];
let sockets: Set<Socket>;
/** The certificates that were shown with each request, by their subject. */
let shown: (string | undefined)[];
let tell: EventEmitter;
let links: UpstreamLink[];
let proxies: WebProxy[];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ff-relay-test-'));
  own = certify(folder, 'own', [HOST, 'localhost', '127.0.0.1']);
  client = certify(folder, 'client');
  other = certify(folder, 'other');
});
afterAll(() => rmSync(folder, { recursive: true }));

const answer: RequestListener = (request, response) => {
  const { socket } = request;
  shown.push(socket instanceof TLSSocket ? socket.getPeerCertificate().subject?.CN?.toString() : undefined);
  if (request.url?.startsWith('/stream')) {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write(':\n\n');
    tell.on('message', (message: object) => response.write(`data: ${JSON.stringify(message)}\n\n`));
  } else response.setHeader('content-type', 'application/json').end('[]');
};
const listen = async (listening: Server) => {
  listening.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await once(listening.listen(0), 'listening');
  return listening;
};
beforeEach(async () => {
  Logger.overrideLogger(false);
  [shown, tell, links, proxies, sockets] = [[], new EventEmitter(), [], [], new Set()];
  server = await listen(
    createServer(
      {
        cert: own!.cert,
        key: own!.key,
        requestCert: true,
        ca: [client!.cert, other!.cert],
        rejectUnauthorized: false,
      },
      answer,
    ),
  );
  plain = await listen(createPlainServer(answer));
});
afterEach(async () => {
  await Promise.all([...links, ...proxies].map((each) => each.close()));
  for (const socket of sockets) socket.destroy();
  await Promise.all([server!, plain!].map((each) => once(each.close(), 'close')));
});

const port = (of: Server | undefined) => (of!.address() as AddressInfo).port;
const startProxy = async (credentials?: string) => {
  const proxy = await WebProxy.start(credentials);
  proxies.push(proxy);
  return proxy;
};
const files = (shows?: Certificate, trusts: Certificate = own!) =>
  TlsFiles.open({
    ca: { setting: 'UPSTREAM_CA', path: trusts.certFile },
    ...(shows && {
      cert: { setting: 'UPSTREAM_CERT', path: shows.certFile },
      key: { setting: 'UPSTREAM_KEY', path: shows.keyFile },
    }),
  });
const open = (baseUrl: string, options: UpstreamLinkOptions) => {
  const link = new UpstreamLink(options);
  links.push(link);
  const saas = new SaasClient({ baseUrl, link, proxyKey: { current: 'key' }, streamIdleTimeoutMs: 60_000 });
  return { link, saas, flags: () => saas.flags(SESSION, 'dev', FOREVER) };
};
/** The identifier that the next message of a stream names. */
const heard = async (stream: AsyncIterable<object>) => {
  for await (const event of stream) return (event as { identifier?: string }).identifier;
  return undefined;
};
const message = (identifier: string) =>
  tell.emit('message', { event: 'patch', domain: 'flag', identifier, version: 1, environment: 'dev' });

describe('An upstream with a certificate of its own authority', () => {
  it('is not talked to until the authority is named', async () => {
    const url = `https://localhost:${port(server)}`;
    await expect(open(url, {}).flags()).rejects.toThrow(/self-signed certificate/);
    await open(url, { files: files() }).flags();
    expect(shown).toEqual([undefined]);
  });

  it('is shown the certificate of the relay', async () => {
    await open(`https://localhost:${port(server)}`, { files: files(client) }).flags();
    expect(shown).toEqual(['client']);
  });

  it('is shown a new one once its files changed, while the stream goes on', async () => {
    const current = { certFile: join(folder, 'now.pem'), keyFile: join(folder, 'now.key') };
    const use = ({ certFile, keyFile }: Certificate) => {
      copyFileSync(certFile, current.certFile);
      copyFileSync(keyFile, current.keyFile);
    };
    use(client!);
    const { saas, flags, link } = open(`https://localhost:${port(server)}`, {
      files: files({ ...client!, ...current }),
    });
    const said = new EventEmitter();
    Logger.overrideLogger({
      log: (text: string) => said.emit('log', text),
      warn: () => undefined,
      error: () => undefined,
    });
    link.watch(10);
    const stream = await saas.stream(SESSION, FOREVER);
    await flags();
    const replaced = once(said, 'log');
    use(other!);
    expect(await replaced).toEqual([expect.stringContaining('UPSTREAM_CERT')]);
    await flags();
    expect(shown).toEqual(['client', 'client', 'other']);
    const next = heard(stream);
    message('after');
    expect(await next).toBe('after');
  });
});

describe('An upstream behind a proxy', () => {
  it('is asked through a tunnel, the stream as well, and sees its own name and the certificate', async () => {
    const proxy = await startProxy();
    const { saas, flags } = open(`https://${HOST}:${port(server)}`, {
      files: files(client),
      httpsProxy: `http://${proxy.host}`,
    });
    const stream = await saas.stream(SESSION, FOREVER);
    await flags();
    await saas.postMetrics(SESSION, { environment: 'dev', counts: [], targets: [] }, FOREVER);
    const next = heard(stream);
    message('dark-mode');
    expect(await next).toBe('dark-mode');
    expect(new Set(proxy.asked)).toEqual(new Set([`CONNECT ${HOST}:${port(server)}`]));
    expect(shown).toEqual(['client', 'client', 'client']);
  });

  it('on plain HTTP is asked through HTTP_PROXY, the stream as well', async () => {
    const proxy = await startProxy();
    const url = `http://${HOST}:${port(plain)}`;
    const { saas, flags } = open(url, { httpProxy: `http://${proxy.host}` });
    const stream = await saas.stream(SESSION, FOREVER);
    await flags();
    const next = heard(stream);
    message('dark-mode');
    expect(await next).toBe('dark-mode');
    expect(proxy.asked.map((line) => line.replace(/\?.*/, ''))).toEqual([
      `GET ${url}/stream`,
      `GET ${url}/client/env/dev/feature-configs`,
    ]);
  });

  it('that asks for a user gets what the address says; without it the failure names the proxy', async () => {
    const proxy = await startProxy('anna:p@ss');
    const url = `https://${HOST}:${port(server)}`;
    await open(url, { files: files(), httpsProxy: `http://anna:p%40ss@${proxy.host}` }).flags();
    await expect(open(url, { files: files(), httpsProxy: `http://${proxy.host}` }).flags()).rejects.toThrow(
      /Proxy response \(407\)/,
    );
  });

  it('that is away is a failure that time heals', async () => {
    const proxy = await startProxy();
    const { flags } = open(`https://${HOST}:${port(server)}`, {
      files: files(),
      httpsProxy: `http://${proxy.host}`,
    });
    proxy.refuses = true;
    await expect(flags()).rejects.toThrow(/407/);
    proxy.refuses = false;
    await flags();
  });

  it.each([
    ['localhost', ''],
    ['127.0.0.1', ''],
    ['[::1]', ''],
    ['localhost', 'elsewhere.test'],
    ['127.0.0.2', ''],
  ])('is asked directly on this machine: %s', async (host, noProxy) => {
    const proxy = await startProxy();
    await open(`http://${host}:${port(plain)}`, { httpProxy: `http://${proxy.host}`, noProxy }).flags();
    expect(proxy.asked).toEqual([]);
  });

  it.each([
    [HOST, HOST],
    [`a.${HOST}`, HOST],
    [`a.${HOST}`, `elsewhere.test, .${HOST}`],
    [HOST, '*'],
  ])('is asked directly where NO_PROXY names its host: %s by %s', async (host, noProxy) => {
    const proxy = await startProxy();
    const { flags } = open(`http://${host}:${port(plain)}`, { httpProxy: `http://${proxy.host}`, noProxy });
    await expect(flags()).rejects.toThrow(/ENOTFOUND|EAI_AGAIN/);
    expect(proxy.asked).toEqual([]);
  });

  it.each([
    [HOST, 'elsewhere.test'],
    [HOST, `a.${HOST}`],
    [HOST, `${HOST}:1`],
    ['10.1.2.3', '11.0.0.0/8'],
  ])('is asked through it where NO_PROXY names others: %s by %s', async (host, noProxy) => {
    const proxy = await startProxy();
    await open(`http://${host}:${port(plain)}`, { httpProxy: `http://${proxy.host}`, noProxy }).flags();
    expect(proxy.asked).toHaveLength(1);
  });

  it.each([
    ['10.1.2.3', '10.0.0.0/8'],
    ['192.0.2.1', 'fd00::/8 192.0.2.1'],
    ['[fd00::1]', 'fd00::/8'],
  ])('is asked directly where NO_PROXY has its address: %s by %s', (host, noProxy) => {
    const { link } = open('http://unused', { httpProxy: 'http://proxy.test', noProxy });
    expect(link.dispatcherFor(`http://${host}/`)).toBe(link.dispatcherFor('http://localhost/'));
  });

  it('is asked directly where the proxy is for the other scheme', async () => {
    const proxy = await startProxy();
    const { link } = open('http://unused', { httpProxy: `http://${proxy.host}` });
    expect(link.dispatcherFor(`https://${HOST}/`)).toBe(link.dispatcherFor('http://localhost/'));
    expect(link.dispatcherFor(`http://${HOST}/`)).not.toBe(link.dispatcherFor('http://localhost/'));
  });
});
