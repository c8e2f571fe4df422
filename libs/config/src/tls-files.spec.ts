import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { EventEmitter } from 'node:events';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { RelayConfig, TlsFiles, type TlsTexts } from './index.js';

let made: string;
/** Makes a certificate with its key, in `<name>.pem` and `<name>.key`. */
function make(name: string): void {
  const request =
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost ' +
    `-keyout ${join(made, `${name}.key`)} -out ${join(made, `${name}.pem`)}`;
  execFileSync('openssl', request.split(' '), { stdio: 'ignore' });
}
beforeAll(() => {
  made = mkdtempSync(join(tmpdir(), 'ff-relay-test-'));
  make('one');
  make('two');
});
afterAll(() => rmSync(made, { recursive: true }));

let folder: string;
let [certFile, keyFile]: string[] = [];
const use = (name: string, part: 'pem' | 'key') =>
  copyFileSync(join(made, `${name}.${part}`), join(folder, `own.${part}`));
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ff-relay-test-'));
  [certFile, keyFile] = [join(folder, 'own.pem'), join(folder, 'own.key')];
  use('one', 'pem');
  use('one', 'key');
});
afterEach(() => rmSync(folder, { recursive: true }));

const open = () =>
  TlsFiles.open({
    cert: { setting: 'TLS_CERT', path: certFile! },
    key: { setting: 'TLS_KEY', path: keyFile! },
  });

describe('Files for TLS', () => {
  it('are read when the process starts', () => {
    expect(open().current).toEqual({
      ca: undefined,
      cert: readFileSync(certFile!, 'utf8'),
      key: readFileSync(keyFile!, 'utf8'),
    });
  });

  it('that cannot be used say which, and why', () => {
    use('two', 'key');
    expect(open).toThrow(/^TLS_KEY: .*own.key is not the key of the first certificate in TLS_CERT/);
    writeFileSync(keyFile!, 'no key');
    expect(open).toThrow(/^TLS_KEY: .*own.key holds no private key without a password/);
    writeFileSync(certFile!, 'no certificate');
    expect(open).toThrow(/^TLS_CERT: .*own.pem holds no certificate in PEM/);
    const [begin, end] = ['BEGIN', 'END'].map((word) => `-----${word} CERTIFICATE-----`);
    writeFileSync(certFile!, `${begin}\nMAAA\n${end}\n`);
    expect(open).toThrow(/^TLS_CERT: .*own.pem holds a damaged certificate/);
    rmSync(certFile!);
    expect(open).toThrow(/^TLS_CERT: ENOENT.*own.pem/);
  });

  it('are faults of the settings, told with all others', () => {
    const settings = { PROXY_KEY: 'k', AUTH_SECRET: 's'.repeat(32), PORT: 'x', TLS_ENABLED: 'true' };
    expect(
      () =>
        new RelayConfig({ ...settings, TLS_CERT: '/nowhere.pem', TLS_KEY: keyFile, UPSTREAM_CERT: certFile }),
    ).toThrow(/PORT cannot be "x"[^]*TLS_CERT: ENOENT[^]*UPSTREAM_CERT and UPSTREAM_KEY belong together/);
    expect(() => new RelayConfig(settings)).toThrow(/TLS_ENABLED asks for TLS_CERT and TLS_KEY/);
    expect(() => new RelayConfig({ UPSTREAM_CA: keyFile }, ['ingestor'])).toThrow(
      /UPSTREAM_CA: .*own.key holds no certificate/,
    );
  });

  it('are not looked at by who does not use them', () => {
    const shared = { NATS_URL: 'nats://n:1', REDIS_ADDRESS: 'r:1', AUTH_SECRET: 's'.repeat(32) };
    const nowhere = {
      UPSTREAM_CA: '/nowhere',
      TLS_ENABLED: 'true',
      TLS_CERT: '/nowhere',
      TLS_KEY: '/nowhere',
    };
    expect(new RelayConfig({ ...shared, ...nowhere }, ['projector']).tls).toBeUndefined();
    const gateway = { ...shared, UPSTREAM_CA: '/nowhere' };
    expect(new RelayConfig(gateway, ['gateway']).upstreamLink.files).toBeUndefined();
    expect(() => new RelayConfig({ ...gateway, FORWARD_TARGETS: 'true' }, ['gateway'])).toThrow(
      /UPSTREAM_CA/,
    );
    const command = new RelayConfig(gateway, []);
    expect(() => command.upstreamLink).toThrow(/UPSTREAM_CA/);
  });
});

describe('Files that are replaced', () => {
  const LOOK_MS = 10;
  let said: EventEmitter<Record<'log' | 'warn' | 'taken', [unknown]>>;
  let files: TlsFiles;
  beforeEach(() => {
    said = new EventEmitter();
    Logger.overrideLogger({
      log: (message: unknown) => said.emit('log', message),
      warn: (message: unknown) => said.emit('warn', message),
      error: () => undefined,
    });
    files = open();
    files.watch((texts: TlsTexts) => said.emit('taken', texts), LOOK_MS);
  });
  afterEach(() => {
    files.close();
    Logger.overrideLogger(false);
  });
  const next = async (what: 'log' | 'warn' | 'taken') => (await once(said, what))[0] as unknown;

  it('are taken together, and it is said until when they are good', async () => {
    const [taken, log] = [next('taken'), next('log')];
    use('two', 'pem');
    use('two', 'key');
    expect(await taken).toMatchObject({ cert: readFileSync(join(made, 'two.pem'), 'utf8') });
    expect(await log).toMatch(/^TLS_CERT, TLS_KEY: new files are used .* valid until .*GMT/);
  });

  it('by what cannot be used change nothing, which is said once', async () => {
    const before = files.current;
    const warnings: unknown[] = [];
    said.on('warn', (warning) => warnings.push(warning));
    use('two', 'pem');
    expect(await next('warn')).toMatch(/^TLS_KEY: .* is not the key .*; what was there before stays in use/);
    writeFileSync(certFile!, '');
    expect(await next('warn')).toMatch(/^TLS_CERT: .* holds no certificate/);
    rmSync(certFile!);
    expect(await next('warn')).toMatch(/^TLS_CERT: ENOENT/);
    expect(files.current).toBe(before);
    const taken = next('taken');
    use('two', 'pem');
    use('two', 'key');
    await taken;
    expect(warnings).toHaveLength(3);
  });
});
