import { z } from 'zod';

import {
  baseUrl,
  headerText,
  logFormat,
  logLevel,
  port,
  readSettings,
  type SettingNote,
  wholeNumber,
  yesOrNo,
} from './settings.js';

const seconds = (standard: number, least: number, description: string) =>
  wholeNumber(least, 86_400)
    .default(standard)
    .meta({
      description,
      expected: `a whole number of seconds from ${least} to 86400`,
    } satisfies SettingNote);

/** The relay's settings (protocol §6; ours added), by environment variable. Defaults are safe. */
export const RELAY_SETTINGS = {
  PROXY_KEY: headerText().meta({
    description: 'the account-level secret of this relay',
    expected: 'the proxy key that the upstream gave you',
    secret: true,
  } satisfies SettingNote),
  AUTH_SECRET: z
    .string()
    .min(32)
    .meta({
      description: 'signs the tokens of SDKs; the same on every gateway and across restarts',
      expected: 'at least 32 random characters, for example the output of: openssl rand -hex 32',
      secret: true,
    } satisfies SettingNote),
  CLIENT_SERVICE: baseUrl()
    .default('https://config.ff.harness.io/api/1.0')
    .meta({
      description: 'the upstream for flags',
      expected:
        'an http or https address without user, password or query, for example https://config.ff.harness.io/api/1.0',
    } satisfies SettingNote),
  METRIC_SERVICE: baseUrl()
    .default('https://events.ff.harness.io/api/1.0')
    .meta({
      description: 'the upstream for evaluation counts',
      expected:
        'an http or https address without user, password or query, for example https://events.ff.harness.io/api/1.0',
    } satisfies SettingNote),
  DATA_DIR: z
    .string()
    .default('./data')
    .meta({
      description: 'the folder of the embedded log',
      expected: 'a folder that this process may write to',
    } satisfies SettingNote),
  HOST: z
    .string()
    .default('0.0.0.0')
    .meta({
      description: 'the address that SDKs connect to',
      expected: 'an address of this machine, or 0.0.0.0 for all',
    } satisfies SettingNote),
  PORT: port(7000, 'the port for SDKs'),
  LOG_LEVEL: logLevel(),
  LOG_FORMAT: logFormat(),
  UNKNOWN_KEY_STATUS: z
    .enum(['401', '403'])
    .default('401')
    .transform(Number)
    .meta({
      description: 'the answer to an unknown SDK key: 401 lets SDKs try again, 403 makes Node SDKs fail fast',
      expected: '401 or 403',
    } satisfies SettingNote),
  STREAM_IDLE_TIMEOUT: seconds(
    45,
    1,
    'seconds without a byte after which the upstream stream counts as dead',
  ),
  RECONCILE_INTERVAL: seconds(300, 1, 'seconds between full comparisons with the upstream'),
  SHUTDOWN_GRACE: seconds(10, 0, 'seconds that running requests and streams have to end after SIGTERM'),
  KEEP_SERVING_ON_KEY_DELETION: yesOrNo()
    .default(false)
    .meta({
      description: 'keep serving what is known after the upstream deleted the proxy key',
      expected: 'true or false',
    } satisfies SettingNote),
};

/** The validated settings of the relay. Nothing else reads the environment. */
export class RelayConfig {
  readonly proxyKey: string;
  readonly authSecret: string;
  readonly clientService: string;
  readonly metricService: string;
  readonly dataDir: string;
  readonly host: string;
  readonly port: number;
  readonly logLevel: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR';
  readonly logFormat: 'text' | 'json';
  readonly unknownKeyStatus: number;
  readonly streamIdleTimeoutMs: number;
  readonly reconcileIntervalMs: number;
  readonly shutdownGraceMs: number;
  readonly keepServingOnKeyDeletion: boolean;

  /** Throws SettingsError with every fault. */
  constructor(environment: NodeJS.ProcessEnv) {
    const settings = readSettings(RELAY_SETTINGS, environment);
    this.proxyKey = settings.PROXY_KEY;
    this.authSecret = settings.AUTH_SECRET;
    this.clientService = settings.CLIENT_SERVICE;
    this.metricService = settings.METRIC_SERVICE;
    this.dataDir = settings.DATA_DIR;
    this.host = settings.HOST;
    this.port = settings.PORT;
    this.logLevel = settings.LOG_LEVEL;
    this.logFormat = settings.LOG_FORMAT;
    this.unknownKeyStatus = settings.UNKNOWN_KEY_STATUS;
    this.streamIdleTimeoutMs = settings.STREAM_IDLE_TIMEOUT * 1000;
    this.reconcileIntervalMs = settings.RECONCILE_INTERVAL * 1000;
    this.shutdownGraceMs = settings.SHUTDOWN_GRACE * 1000;
    this.keepServingOnKeyDeletion = settings.KEEP_SERVING_ON_KEY_DELETION;
  }
}
