import { availableParallelism } from 'node:os';

import { describe, expect, it } from '@jest/globals';

import { RelayConfig, type Role, ROLES, SettingsError } from './index.js';

const REQUIRED = { PROXY_KEY: '30000000-0000-4000-8000-000000000001', AUTH_SECRET: 's'.repeat(32) };

describe('The settings of the relay', () => {
  it('are safe where nothing is said', () => {
    expect(new RelayConfig(REQUIRED)).toMatchObject({
      proxyKey: REQUIRED.PROXY_KEY,
      authSecret: REQUIRED.AUTH_SECRET,
      clientService: 'https://config.ff.harness.io/api/1.0',
      metricService: 'https://events.ff.harness.io/api/1.0',
      gatewayWorkers: 1,
      dataDir: './data',
      host: '0.0.0.0',
      port: 7000,
      logLevel: 'INFO',
      logFormat: 'text',
      unknownKeyStatus: 401,
      formerAuthSecrets: [],
      bypassAuth: false,
      maxDataAgeS: undefined,
      headerLimitBytes: 524_288,
      urlLimitBytes: 32_768,
      authBodyLimitBytes: 524_288,
      metricsBodyLimitBytes: 33_554_432,
      requestTimeoutMs: 60_000,
      forwardTargets: false,
      streamIdleTimeoutMs: 45_000,
      reconcileIntervalMs: 300_000,
      metricPostDurationMs: 60_000,
      shutdownGraceMs: 10_000,
      drainMs: 5000,
      streamReplayMs: 300_000,
      streamMaxAgeMs: 0,
      maxStreams: 50_000,
      maxStreamsPerKey: 0,
      closeStreamsOnUpstreamLoss: false,
      keepServingOnKeyDeletion: false,
      listening: true,
    });
  });

  it('poll by the minute where the stream is not wanted, as the first relay did', () => {
    const polling = new RelayConfig({ ...REQUIRED, FLAG_STREAM_ENABLED: 'false', FLAG_POLL_INTERVAL: '5' });
    expect(polling).toMatchObject({ listening: false, reconcileIntervalMs: 300_000 });
    const listening = new RelayConfig({ ...REQUIRED, RECONCILE_INTERVAL: '7', FLAG_POLL_INTERVAL: '5' });
    expect(listening).toMatchObject({ listening: true, reconcileIntervalMs: 7000 });
  });

  it('need no proxy key where nobody is called, and call nobody then', () => {
    const { AUTH_SECRET } = REQUIRED;
    const offline = { AUTH_SECRET, OFFLINE: 'true', FORWARD_TARGETS: 'true' };
    expect(() => new RelayConfig({ AUTH_SECRET })).toThrow('PROXY_KEY is not set');
    expect(new RelayConfig(offline)).toMatchObject({
      offline: true,
      configDir: '/config',
      forwardTargets: false,
      metricPostDurationMs: 0,
      proxyKeyFile: undefined,
    });
    expect(() => new RelayConfig({ ...offline, GENERATE_OFFLINE_CONFIG: 'true' })).toThrow(
      'GENERATE_OFFLINE_CONFIG cannot be "true": set it to false, or leave it out: OFFLINE is true',
    );
  });

  it('are taken from the environment, times in seconds', () => {
    const config = new RelayConfig({
      ...REQUIRED,
      CLIENT_SERVICE: 'http://localhost:7100/api/1.0/',
      PORT: '7001',
      UNKNOWN_KEY_STATUS: '403',
      AUTH_SECRET_PREVIOUS: 'one, another,',
      BYPASS_AUTH: '1',
      MAX_DATA_AGE: '90000',
      HEADER_LIMIT: '16384',
      REQUEST_TIMEOUT: '5',
      FORWARD_TARGETS: 'true',
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
      formerAuthSecrets: ['one', 'another'],
      bypassAuth: true,
      maxDataAgeS: 90_000,
      headerLimitBytes: 16_384,
      requestTimeoutMs: 5000,
      forwardTargets: true,
      streamIdleTimeoutMs: 5000,
      reconcileIntervalMs: 86_400_000,
      metricPostDurationMs: 0,
      shutdownGraceMs: 0,
      keepServingOnKeyDeletion: true,
    });
  });

  it.each([
    [{ MAX_DATA_AGE: '300' }, 300],
    [{ MAX_DATA_AGE: '20', RECONCILE_INTERVAL: '20' }, 20],
    [{ MAX_DATA_AGE: '200', FLAG_STREAM_ENABLED: 'false', FLAG_POLL_INTERVAL: '5' }, 300],
  ])('refuse an age that every relay comes to: %j', (settings, intervalS) => {
    const message = `MAX_DATA_AGE cannot be ${settings.MAX_DATA_AGE}: set it to more than ${intervalS} seconds`;
    expect(() => new RelayConfig({ ...REQUIRED, ...settings })).toThrow(message);
    const longer = { ...REQUIRED, ...settings, MAX_DATA_AGE: String(intervalS + 1) };
    expect(new RelayConfig(longer).maxDataAgeS).toBe(intervalS + 1);
  });

  it('take any age where another process compares, or nobody does', () => {
    const young = { ...REQUIRED, MAX_DATA_AGE: '1' };
    const shared = { NATS_URL: 'nats://nats:4222', REDIS_ADDRESS: 'redis:6379' };
    expect(new RelayConfig({ ...young, ...shared }, ['gateway']).maxDataAgeS).toBe(1);
    expect(new RelayConfig({ ...young, OFFLINE: 'true' }).maxDataAgeS).toBe(1);
  });

  it.each([
    ['5', '10', 5000],
    ['30', '10', 9000],
    ['5', '0', 0],
  ])('end streams over %s s within a grace of %s s', (DRAIN_SECONDS, SHUTDOWN_GRACE, drainMs) => {
    expect(new RelayConfig({ ...REQUIRED, DRAIN_SECONDS, SHUTDOWN_GRACE })).toMatchObject({ drainMs });
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

  it.each<[string, NodeJS.ProcessEnv, readonly Role[], number | undefined]>([
    ['not set', {}, ROLES, undefined],
    ['that of SDKs', { PORT: '7000', PROMETHEUS_PORT: '7000' }, ROLES, undefined],
    ['another', { PROMETHEUS_PORT: '8000' }, ROLES, 8000],
    ['another, for a process that serves no SDKs', { PROMETHEUS_PORT: '8000' }, [], undefined],
  ])('know whether Prometheus has a port of its own: %s', (_, settings, roles, port) => {
    expect(new RelayConfig({ ...REQUIRED, ...settings }, roles).prometheusPort).toBe(port);
  });

  it('bound the counts that wait for who sends them, and leave that to others where nobody does', () => {
    const settings = {
      ...REQUIRED,
      NATS_URL: 'nats://nats:4222',
      REDIS_ADDRESS: 'redis:6379',
      METRICS_MAX_AGE: '3600',
      METRICS_MAX_BYTES: String(64 * 1024 * 1024),
    };
    const bounds = { keepForMs: 3_600_000, keepBytes: 64 * 1024 * 1024 };
    expect(new RelayConfig(settings).metricsBounds).toEqual(bounds);
    expect(new RelayConfig(settings, ['metrics-forwarder']).metricsBounds).toEqual(bounds);
    expect(new RelayConfig(settings, ['gateway']).metricsBounds).toBeUndefined();
    expect(new RelayConfig(settings, []).metricsBounds).toBeUndefined();
    expect(() => new RelayConfig({ ...settings, METRICS_MAX_AGE: '60' })).toThrow(/METRICS_MAX_AGE/);
  });

  it('give a gateway as many workers as they say, or as the machine has cores', () => {
    const gateway = { ...REQUIRED, NATS_URL: 'nats://localhost:4222', REDIS_ADDRESS: 'localhost:6379' };
    const workersOf = (text: string) =>
      new RelayConfig({ ...gateway, GATEWAY_WORKERS: text }, ['gateway']).gatewayWorkers;
    expect([workersOf(''), workersOf('3'), workersOf('auto')]).toEqual([1, 3, availableParallelism()]);
    expect(() => workersOf('0')).toThrow('GATEWAY_WORKERS cannot be "0": set it to a whole number from 1');
  });

  it('let all roles in one process have no workers, and say why, with everything else that is wrong', () => {
    const reading = () => new RelayConfig({ ...REQUIRED, GATEWAY_WORKERS: '2', PORT: 'x' });
    expect(reading).toThrow(
      /GATEWAY_WORKERS cannot be "2": .*one log takes one process.*\n.*PORT cannot be "x"/,
    );
    expect(new RelayConfig({ ...REQUIRED, GATEWAY_WORKERS: '1' }).gatewayWorkers).toBe(1);
  });

  it('never show a secret in what is wrong with them', () => {
    const environment = {
      PROXY_KEY: 'my proxy key',
      AUTH_SECRET: 'my-secret',
      PORT: 'my-port',
      AUTH_SECRET_PREVIOUS: 'former,'.repeat(11),
    };
    expect(() => new RelayConfig(environment)).toThrow(
      /^(?!.*(my proxy key|my-secret|former,)).*AUTH_SECRET_PREVIOUS cannot be used.*"my-port"/s,
    );
  });

  it.each([
    ['UNKNOWN_KEY_STATUS', '404', '401 or 403'],
    ['STREAM_IDLE_TIMEOUT', '0', 'a whole number of seconds from 1 to 86400'],
    ['RECONCILE_INTERVAL', '5m', 'a whole number of seconds from 1 to 86400'],
    ['MAX_DATA_AGE', '0', 'a whole number of seconds from 1'],
    ['AUTH_BODY_LIMIT', '1MB', 'a whole number of bytes from 1024 to 16777216'],
    ['SHUTDOWN_GRACE', '86401', 'a whole number of seconds from 0 to 86400'],
    ['KEEP_SERVING_ON_KEY_DELETION', 'maybe', 'true or false'],
    ['CLIENT_SERVICE', 'harness', 'an http or https address'],
  ])('say what to write when %s is %s', (name, text, expected) => {
    const reading = () => new RelayConfig({ ...REQUIRED, [name]: text });
    expect(reading).toThrow(SettingsError);
    expect(reading).toThrow(`${name} cannot be "${text}": set it to ${expected}`);
  });
});
