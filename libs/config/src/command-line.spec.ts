import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

import { givenSettings, RELAY_SETTINGS, RelayConfig } from './index.js';

const given = (args: string, environment: NodeJS.ProcessEnv = {}) =>
  givenSettings(args === '' ? [] : args.split(' '), environment);

describe('A flag', () => {
  it.each([
    ['--proxy-key X', { PROXY_KEY: 'X' }],
    ['-proxy-key X', { PROXY_KEY: 'X' }],
    ['--proxy-key=X', { PROXY_KEY: 'X' }],
    ['-proxy-key=X', { PROXY_KEY: 'X' }],
    ['-proxy-key X=Y', { PROXY_KEY: 'X=Y' }],
    ['-proxy-key -port', { PROXY_KEY: '-port' }],
    ['--proxy-key --port --port 1', { PROXY_KEY: '--port', PORT: '1' }],
    ['-port 1 --port=2', { PORT: '2' }],
    ['-bypass-auth -port 1', { BYPASS_AUTH: 'true', PORT: '1' }],
    ['--bypass-auth=false', { BYPASS_AUTH: 'false' }],
    ['--bypass-auth false', { BYPASS_AUTH: 'false' }],
    ['-readReplica', { READ_REPLICA: 'true' }],
    ['--read-replica', { READ_REPLICA: 'true' }],
    ['-redis-address localhost:6379 -redis-db 3', { REDIS_ADDRESS: 'localhost:6379', REDIS_DB: '3' }],
    ['--auth-secret-file /run/secret', { AUTH_SECRET_FILE: '/run/secret' }],
    ['--data-dir=', { DATA_DIR: '' }],
    ['-sdk-base-url http://up', { SDK_BASE_URL: 'http://up', CLIENT_SERVICE: 'http://up' }],
    ['-metrics-stream-read-concurrency 5', { METRIC_STREAM_READ_CONCURRENCY: '5' }],
  ])('is a setting: %s', (args, environment) => {
    expect(given(args)).toMatchObject({ environment, faults: [] });
    expect(Object.keys(given(args).environment)).toHaveLength(Object.keys(environment).length);
  });

  it('is there for every setting, but for what begins with NO_', () => {
    for (const name of Object.keys(RELAY_SETTINGS).filter((each) => !each.startsWith('NO_'))) {
      const flag = name.toLowerCase().replaceAll('_', '-');
      expect(given(`--${flag}=1`)).toMatchObject({ environment: { [name]: '1' }, faults: [] });
    }
  });

  it('that nobody knows is a fault, and what stands behind it is not shown', () => {
    const { faults } = given('--proxykey=secret -x --tls-cret other');
    expect(faults.map((fault) => fault.split(' ', 1)[0])).toEqual(['--proxykey', '-x', '--tls-cret']);
    expect(faults.join()).not.toMatch(/secret|other/);
  });

  it('without its value is a fault', () => {
    expect(given('--bypass-auth --port').faults).toEqual([expect.stringMatching(/no value.*--port/)]);
  });

  it('is what every word belongs to', () => {
    expect(given('secret').faults).toEqual([
      expect.stringMatching(/belongs to no flag.*npm start -- --port/),
    ]);
    expect(given('secret').faults.join()).not.toContain('secret');
  });

  it('that holds a secret works, with a remark that names a better place', () => {
    expect(given('-proxy-key X --redis-address redis://u:p@r:1 --nats-url nats://n:1').remarks).toEqual([
      expect.stringMatching(/^PROXY_KEY is on the command line.*PROXY_KEY_FILE/),
      expect.stringMatching(/^REDIS_ADDRESS /),
    ]);
  });
});

describe('What is given twice', () => {
  let folder: string;
  const file = (text: string) => {
    const path = join(folder, 'old.env');
    writeFileSync(path, text);
    return path;
  };
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'ff-relay-test-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('is taken from the flag, then from the environment, then from the env-file', () => {
    const path = file('PORT=1\nHOST=one\nDATA_DIR="/one" # folder\nLOG_LEVEL=ERROR');
    const environment = { PORT: '2', HOST: 'two', LOG_LEVEL: '' };
    expect(given(`--port 3 --env-file ${path}`, environment).environment).toEqual({
      PORT: '3',
      HOST: 'two',
      DATA_DIR: '/one',
      LOG_LEVEL: 'ERROR',
    });
  });

  it('is taken back by a flag without text', () => {
    const environment = { REDIS_ADDRESS: 'localhost:6379', REDIS_PASSWORD_FILE: '/run/secret' };
    expect(
      new RelayConfig(given('--redis-address= --redis-password=', environment).environment, []).redis,
    ).toBeUndefined();
  });

  it('as a secret and as its file is taken from the higher place', () => {
    const path = file('PROXY_KEY=one\nAUTH_SECRET_FILE=/one');
    const environment = { PROXY_KEY_FILE: '/two', AUTH_SECRET: 'two' };
    expect(given(`--env-file ${path}`, environment).environment).toEqual(environment);
    expect(given(`--env-file ${path} --proxy-key three`, environment).environment).toEqual({
      PROXY_KEY: 'three',
      AUTH_SECRET: 'two',
    });
  });

  it('by its name and by a former one is taken from the higher place, too', () => {
    const path = file('CLIENT_SERVICE=http://one');
    expect(given(`--env-file ${path}`, { SDK_BASE_URL: 'http://two' }).environment).toMatchObject({
      CLIENT_SERVICE: 'http://two',
    });
  });

  it('names an env-file that cannot be read', () => {
    expect(given('--env-file /nowhere.env').faults).toEqual([
      expect.stringMatching(/^--env-file: .*nowhere/),
    ]);
  });
});

describe('A start', () => {
  it('that fails tells of the flags, the settings and the names of the Go relay at once', () => {
    const { environment, ...told } = given('--port=x --prot 1', {
      API_KEYS: 'a',
      AUTH_SECRET: 's'.repeat(32),
    });
    expect(() => new RelayConfig(environment, undefined, told)).toThrow(
      new RegExp(
        [
          '^These settings need a change:',
          '  - PROXY_KEY is not set: .*',
          '  - PORT cannot be "x": .*',
          '  - --prot is no flag.*',
          'These are good to know:',
          '  - API_KEYS of the Go relay \\(V1\\) does nothing here: PROXY_KEY takes its place.*',
        ].join('\n'),
      ),
    );
  });

  it('that succeeds remarks what does nothing here', () => {
    const { environment, ...told } = given('--proxy-key k', {
      AUTH_SECRET: 's'.repeat(32),
      HEARTBEAT_INTERVAL: '60',
      SDK_BASE_URL: 'http://up',
      SDK_EVENTS_URL: 'http://old',
      METRIC_SERVICE: 'http://new',
      TLS_CERT: '/cert.pem',
    });
    const config = new RelayConfig(environment, undefined, told);
    expect(config).toMatchObject({ clientService: 'http://up', metricService: 'http://new' });
    expect(config.remarks).toEqual([
      expect.stringMatching(/^PROXY_KEY is on the command line/),
      expect.stringMatching(/^SDK_BASE_URL .* is taken for CLIENT_SERVICE/),
      expect.stringMatching(/^SDK_EVENTS_URL .* does nothing where METRIC_SERVICE is set/),
      expect.stringMatching(/^HEARTBEAT_INTERVAL .* does nothing here: .*livez/),
      expect.stringMatching(/^TLS_CERT and TLS_KEY do nothing without TLS_ENABLED=true/),
    ]);
  });
});
