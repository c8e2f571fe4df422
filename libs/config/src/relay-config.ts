import { z } from 'zod';

import { parseRedisAddress } from './redis-address.js';
import {
  baseUrl,
  headerText,
  logFormat,
  logLevel,
  neededBy,
  port,
  readSettings,
  type SettingNote,
  wholeNumber,
  yesOrNo,
} from './settings.js';

/** A part of the relay that a process runs, alone or with all others. */
export type Role = 'ingestor' | 'projector' | 'gateway' | 'metrics-forwarder';
export const ROLES: readonly Role[] = ['ingestor', 'projector', 'gateway', 'metrics-forwarder'];

const seconds = (standard: number, least: number, description: string) =>
  wholeNumber(least, 86_400)
    .default(standard)
    .meta({
      description,
      expected: `a whole number of seconds from ${least} to 86400`,
    } satisfies SettingNote);

function isRedisAddress(text: string): boolean {
  try {
    parseRedisAddress(text);
    return true;
  } catch {
    return false;
  }
}

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
  NATS_URL: z
    .string()
    .regex(/^(nats|tls):\/\/[^\s,]+(\s*,\s*(nats|tls):\/\/[^\s,]+)*$/)
    .optional()
    .meta({
      description:
        'the NATS servers whose JetStream holds the log; without it, the log is a file in DATA_DIR',
      expected: 'nats:// or tls:// addresses, divided by commas, for example nats://localhost:4222',
      secret: true,
    } satisfies SettingNote),
  NATS_CREDS: z
    .string()
    .optional()
    .meta({
      description: 'the credentials file for NATS',
      expected: 'the path of a .creds file',
    } satisfies SettingNote),
  NATS_REPLICAS: wholeNumber(1, 5)
    .refine((replicas) => replicas % 2 === 1)
    .default(1)
    .meta({
      description: 'on how many NATS servers each stream is kept',
      expected: '1, 3 or 5',
    } satisfies SettingNote),
  NATS_MONITOR_URL: baseUrl()
    .optional()
    .meta({
      description: 'the monitoring address of NATS, where it says how soon it flushes to disk',
      expected: 'an http or https address, for example http://localhost:8222',
    } satisfies SettingNote),
  REDIS_ADDRESS: z
    .string()
    .refine(isRedisAddress)
    .optional()
    .meta({
      description: 'the Redis that holds the state; without it, the state is in the memory of the process',
      expected:
        'host:port, redis:// or rediss:// (TLS) with host and port, several divided by commas for a cluster, or sentinel://host:port,host:port/name',
      secret: true,
    } satisfies SettingNote),
  REDIS_USERNAME: z
    .string()
    .optional()
    .meta({
      description: 'the user for Redis',
      expected: 'the name of a user in its ACL',
    } satisfies SettingNote),
  REDIS_PASSWORD: z
    .string()
    .optional()
    .meta({
      description: 'the password for Redis',
      expected: 'the password',
      secret: true,
    } satisfies SettingNote),
  REDIS_DB: wholeNumber(0, 1_000_000)
    .default(0)
    .meta({
      description: 'the database in Redis, where it is neither a cluster nor shared',
      expected: 'its number',
    } satisfies SettingNote),
  READ_REPLICA: yesOrNo()
    .default(false)
    .meta({
      description: 'run the gateway only; other processes keep the log and the state',
      expected: 'true or false',
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
  MANAGEMENT_HOST: z
    .string()
    .default('127.0.0.1')
    .meta({
      description: 'the address for /livez, /readyz and /status, which tell about this relay to whoever asks',
      expected: 'an address of this machine, or 0.0.0.0 for all',
    } satisfies SettingNote),
  MANAGEMENT_PORT: port(7080, 'the port for /livez, /readyz and /status'),
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
  METRIC_POST_DURATION: seconds(
    60,
    0,
    'seconds for which evaluation counts are gathered before they are posted upstream; 0 takes and drops them',
  ),
  SHUTDOWN_GRACE: seconds(10, 0, 'seconds that running requests and streams have to end after SIGTERM'),
  KEEP_SERVING_ON_KEY_DELETION: yesOrNo()
    .default(false)
    .meta({
      description: 'keep serving what is known after the upstream deleted the proxy key',
      expected: 'true or false',
    } satisfies SettingNote),
};

type Settings = ReturnType<typeof readSettings<typeof RELAY_SETTINGS>>;

/** The validated settings of the relay. Nothing else reads the environment. */
export class RelayConfig {
  readonly clientService: string;
  readonly metricService: string;
  readonly natsUrl: string | undefined;
  readonly natsCredentials: string | undefined;
  readonly natsReplicas: number;
  readonly natsMonitorUrl: string | undefined;
  readonly redis: { address: string; username?: string; password?: string; db: number } | undefined;
  readonly dataDir: string;
  readonly host: string;
  readonly port: number;
  readonly managementHost: string;
  readonly managementPort: number;
  readonly logLevel: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR';
  readonly logFormat: 'text' | 'json';
  readonly unknownKeyStatus: number;
  readonly streamIdleTimeoutMs: number;
  readonly reconcileIntervalMs: number;
  readonly metricPostDurationMs: number;
  readonly shutdownGraceMs: number;
  readonly keepServingOnKeyDeletion: boolean;
  private readonly settings: Settings;

  /**
   * Throws SettingsError with every fault.
   *
   * @param roles what the process runs: a secret is asked for only where it is used, and roles that do not run together
   * need a log and a store that they share. None for a command, which asks itself for what it needs
   */
  constructor(environment: NodeJS.ProcessEnv, roles: readonly Role[] = ROLES) {
    const runs = (...some: Role[]) => some.some((role) => roles.includes(role));
    const shares = roles.length > 0 && roles.length < ROLES.length;
    const needs = {
      PROXY_KEY: runs('ingestor', 'metrics-forwarder'),
      AUTH_SECRET: runs('gateway'),
      NATS_URL: shares,
      REDIS_ADDRESS: shares && runs('projector', 'gateway'),
    };
    const settings = readSettings(neededBy(RELAY_SETTINGS, needs), environment) as Settings;
    this.settings = settings;
    this.clientService = settings.CLIENT_SERVICE;
    this.metricService = settings.METRIC_SERVICE;
    this.natsUrl = settings.NATS_URL;
    this.natsCredentials = settings.NATS_CREDS;
    this.natsReplicas = settings.NATS_REPLICAS;
    this.natsMonitorUrl = settings.NATS_MONITOR_URL;
    this.redis =
      settings.REDIS_ADDRESS === undefined
        ? undefined
        : {
            address: settings.REDIS_ADDRESS,
            db: settings.REDIS_DB,
            ...(settings.REDIS_USERNAME && { username: settings.REDIS_USERNAME }),
            ...(settings.REDIS_PASSWORD && { password: settings.REDIS_PASSWORD }),
          };
    this.dataDir = settings.DATA_DIR;
    this.host = settings.HOST;
    this.port = settings.PORT;
    this.managementHost = settings.MANAGEMENT_HOST;
    this.managementPort = settings.MANAGEMENT_PORT;
    this.logLevel = settings.LOG_LEVEL;
    this.logFormat = settings.LOG_FORMAT;
    this.unknownKeyStatus = settings.UNKNOWN_KEY_STATUS;
    this.streamIdleTimeoutMs = settings.STREAM_IDLE_TIMEOUT * 1000;
    this.reconcileIntervalMs = settings.RECONCILE_INTERVAL * 1000;
    this.metricPostDurationMs = settings.METRIC_POST_DURATION * 1000;
    this.shutdownGraceMs = settings.SHUTDOWN_GRACE * 1000;
    this.keepServingOnKeyDeletion = settings.KEEP_SERVING_ON_KEY_DELETION;
  }

  get proxyKey(): string {
    return given(this.settings.PROXY_KEY, 'PROXY_KEY');
  }

  get authSecret(): string {
    return given(this.settings.AUTH_SECRET, 'AUTH_SECRET');
  }
}

function given(value: string | undefined, name: string): string {
  if (value === undefined) throw new Error(`${name} is read by a role that does not ask for it`);
  return value;
}

/** What a process runs that is all roles at once, or a gateway beside others (READ_REPLICA). */
export function relayRoles(environment: NodeJS.ProcessEnv): readonly Role[] {
  const { READ_REPLICA } = RELAY_SETTINGS;
  const { success, data } = READ_REPLICA.safeParse(environment['READ_REPLICA']?.trim() || undefined);
  return success && data ? ['gateway'] : ROLES;
}
