import { describe, expect, it } from '@jest/globals';

import { RelayConfig, SettingsError } from './index.js';

const REQUIRED = { PROXY_KEY: '30000000-0000-4000-8000-000000000001', AUTH_SECRET: 's'.repeat(32) };

describe('The settings of the relay', () => {
  it('are safe where nothing is said', () => {
    expect(new RelayConfig(REQUIRED)).toMatchObject({
      proxyKey: REQUIRED.PROXY_KEY,
      authSecret: REQUIRED.AUTH_SECRET,
      clientService: 'https://config.ff.harness.io/api/1.0',
      metricService: 'https://events.ff.harness.io/api/1.0',
      dataDir: './data',
      host: '0.0.0.0',
      port: 7000,
      logLevel: 'INFO',
      logFormat: 'text',
      unknownKeyStatus: 401,
      streamIdleTimeoutMs: 45_000,
      reconcileIntervalMs: 300_000,
      metricPostDurationMs: 60_000,
      shutdownGraceMs: 10_000,
      keepServingOnKeyDeletion: false,
    });
  });

  it('are taken from the environment, times in seconds', () => {
    const config = new RelayConfig({
      ...REQUIRED,
      CLIENT_SERVICE: 'http://localhost:7100/api/1.0/',
      PORT: '7001',
      UNKNOWN_KEY_STATUS: '403',
      STREAM_IDLE_TIMEOUT: '5',
      RECONCILE_INTERVAL: '86400',
      METRIC_POST_DURATION: '0',
      SHUTDOWN_GRACE: '0',
      KEEP_SERVING_ON_KEY_DELETION: 'True',
    });
    expect(config).toMatchObject({
      clientService: 'http://localhost:7100/api/1.0',
      port: 7001,
      unknownKeyStatus: 403,
      streamIdleTimeoutMs: 5000,
      reconcileIntervalMs: 86_400_000,
      metricPostDurationMs: 0,
      shutdownGraceMs: 0,
      keepServingOnKeyDeletion: true,
    });
  });

  it('have no default for secrets, and none that is too short', () => {
    expect(() => new RelayConfig({})).toThrow(
      /PROXY_KEY is not set: .*\n.*AUTH_SECRET is not set: .*openssl rand/,
    );
    expect(() => new RelayConfig({ ...REQUIRED, AUTH_SECRET: 'secret' })).toThrow(
      'AUTH_SECRET cannot be used',
    );
  });

  it('ask a command for nothing', () => {
    expect(new RelayConfig({}, [])).toMatchObject({
      natsUrl: undefined,
      redis: undefined,
      dataDir: './data',
    });
  });

  it('never show a secret in what is wrong with them', () => {
    const environment = { PROXY_KEY: 'my proxy key', AUTH_SECRET: 'my-secret', PORT: 'my-port' };
    expect(() => new RelayConfig(environment)).toThrow(/^(?!.*(my proxy key|my-secret)).*"my-port"/s);
  });

  it.each([
    ['UNKNOWN_KEY_STATUS', '404', '401 or 403'],
    ['STREAM_IDLE_TIMEOUT', '0', 'a whole number of seconds from 1 to 86400'],
    ['RECONCILE_INTERVAL', '5m', 'a whole number of seconds from 1 to 86400'],
    ['SHUTDOWN_GRACE', '86401', 'a whole number of seconds from 0 to 86400'],
    ['KEEP_SERVING_ON_KEY_DELETION', 'maybe', 'true or false'],
    ['CLIENT_SERVICE', 'harness', 'an http or https address'],
  ])('say what to write when %s is %s', (name, text, expected) => {
    const reading = () => new RelayConfig({ ...REQUIRED, [name]: text });
    expect(reading).toThrow(SettingsError);
    expect(reading).toThrow(`${name} cannot be "${text}": set it to ${expected}`);
  });
});
