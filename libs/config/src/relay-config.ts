import { availableParallelism } from 'node:os';

import { z } from 'zod';

import { remarksOn, withPresentNames } from './go-relay.js';
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
import { TlsFiles } from './tls-files.js';

/** A part of the relay that a process runs, alone or with all others. */
export type Role = 'ingestor' | 'projector' | 'gateway' | 'metrics-forwarder';
export const ROLES: readonly Role[] = ['ingestor', 'projector', 'gateway', 'metrics-forwarder'];

const seconds = (standard: number, least: number, description: string) =>
  wholeNumber(least, 86_400)
    .default(standard)
    .meta({
      description,
      expected: `a whole number of seconds from ${least} to 86400`,
      unit: 'seconds',
    } satisfies SettingNote);

const KIB = 1024;
const MIB = 1024 * KIB;
const bytes = (standard: number, least: number, most: number, what: string) =>
  wholeNumber(least, most)
    .default(standard)
    .meta({
      description: `how many bytes ${what} may have`,
      expected: `a whole number of bytes from ${least} to ${most}`,
      unit: 'bytes',
    } satisfies SettingNote);

function secretsIn(text: string): string[] {
  return text.split(',').flatMap((secret) => secret.trim() || []);
}

function isRedisAddress(text: string): boolean {
  try {
    parseRedisAddress(text);
    return true;
  } catch {
    return false;
  }
}

const file = (description: string, expected: string) =>
  z
    .string()
    .optional()
    .meta({ description, expected, type: 'file' } satisfies SettingNote);

const proxy = (scheme: string) =>
  z
    .string()
    .transform((text) => (/^[a-z0-9+]+:\/\//i.test(text) ? text : `http://${text}`))
    .pipe(z.url({ protocol: /^https?$/ }))
    .optional()
    .meta({
      description: `the proxy for an upstream whose address begins with ${scheme}://`,
      expected: `an http or https address, for example http://proxy:3128; also as ${scheme}_proxy`,
      secret: true,
      type: 'URL',
    } satisfies SettingNote);

const workers = (schema: z.ZodType<number, string>, expected: string) =>
  schema.prefault('1').meta({
    description:
      'on how many cores a gateway serves: as many processes behind PORT, each with its own memory',
    expected,
  } satisfies SettingNote);

const MOST_WORKERS = 64;
const workersAsked = z
  .string()
  .transform((text) => (text.toLowerCase() === 'auto' ? String(availableParallelism()) : text))
  .pipe(wholeNumber(1, MOST_WORKERS));
const ONE_WORKER = workers(
  workersAsked.refine((count) => count === 1),
  '1, or leave it out: all roles in one process use one log, and one log takes one process. For more cores run the service set, or gateways with READ_REPLICA=true',
);

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
  AUTH_SECRET_PREVIOUS: z
    .string()
    .refine((text) => secretsIn(text).length <= 10)
    .optional()
    .meta({
      description:
        'former values of AUTH_SECRET, also a Go relay’s: tokens that were signed with them stay good, and no new ones are',
      expected: 'up to 10 secrets, divided by commas',
      type: 'list',
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
  UPSTREAM_CA: file(
    'certificates of authorities to trust beside the usual ones, of the upstream and of a proxy on the way',
    'the path of a PEM file with certificates',
  ),
  UPSTREAM_CERT: file(
    'the certificate that the relay shows the upstream; read again when it changes',
    'the path of a PEM file with a certificate and those between it and its authority, and set UPSTREAM_KEY too',
  ),
  UPSTREAM_KEY: file(
    'the private key of UPSTREAM_CERT',
    'the path of a PEM file with a private key, and set UPSTREAM_CERT too',
  ),
  HTTPS_PROXY: proxy('https'),
  HTTP_PROXY: proxy('http'),
  NO_PROXY: z
    .string()
    .optional()
    .meta({
      description: 'which upstreams are not asked through a proxy; this machine never is',
      expected: 'hosts, domains or address ranges, divided by commas, or * for all; also as no_proxy',
      type: 'list',
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
      type: 'addresses',
    } satisfies SettingNote),
  NATS_CREDS: z
    .string()
    .optional()
    .meta({
      description: 'the credentials file for NATS',
      expected: 'the path of a .creds file',
      type: 'file',
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
      type: 'addresses',
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
  GATEWAY_WORKERS: workers(workersAsked, `a whole number from 1 to ${MOST_WORKERS}, or auto for one a core`),
  READ_REPLICA: yesOrNo()
    .default(false)
    .meta({
      description: 'run the gateway only; other processes keep the log and the state',
      expected: 'true or false',
    } satisfies SettingNote),
  OFFLINE: yesOrNo()
    .default(false)
    .meta({
      description: 'serve what is in CONFIG_DIR and call nobody; PROXY_KEY is not needed then',
      expected: 'true or false',
    } satisfies SettingNote),
  CONFIG_DIR: z
    .string()
    .default('/config')
    .meta({
      description:
        'the folder of offline configuration: read with OFFLINE, written with GENERATE_OFFLINE_CONFIG',
      expected: 'a folder that `ff-relay export` or a Go relay wrote',
    } satisfies SettingNote),
  GENERATE_OFFLINE_CONFIG: yesOrNo()
    .default(false)
    .meta({
      description: 'write what the upstream says into CONFIG_DIR, and exit',
      expected: 'true or false; true not together with OFFLINE',
    } satisfies SettingNote),
  DATA_DIR: z
    .string()
    .default('./data')
    .meta({
      description: 'the folder of the embedded log',
      expected: 'a folder that this process may write to',
      type: 'folder',
    } satisfies SettingNote),
  HOST: z
    .string()
    .default('0.0.0.0')
    .meta({
      description: 'the address that SDKs connect to',
      expected: 'an address of this machine, or 0.0.0.0 for all',
    } satisfies SettingNote),
  PORT: port(7000, 'the port for SDKs'),
  TLS_ENABLED: yesOrNo()
    .default(false)
    .meta({
      description: 'speak HTTPS on the port for SDKs',
      expected: 'true or false',
    } satisfies SettingNote),
  TLS_CERT: file(
    'the certificate of the port for SDKs; read again when it changes, and connections that are open go on',
    'the path of a PEM file with a certificate and those between it and its authority',
  ),
  TLS_KEY: file('the private key of TLS_CERT', 'the path of a PEM file with a private key'),
  MANAGEMENT_HOST: z
    .string()
    .default('127.0.0.1')
    .meta({
      description:
        'the address for /livez, /readyz, /status and /metrics, which tell about this relay to whoever asks',
      expected: 'an address of this machine, or 0.0.0.0 for all',
    } satisfies SettingNote),
  MANAGEMENT_PORT: port(7080, 'the port for /livez, /readyz, /status and /metrics'),
  PROMETHEUS_PORT: wholeNumber(0, 65_535)
    .optional()
    .meta({
      description:
        'the port of a gateway for /metrics, at HOST; without it, or when it is PORT, that is the port for SDKs',
      expected: 'a port number from 1 to 65535 (0 takes a free one)',
    } satisfies SettingNote),
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
  BYPASS_AUTH: yesOrNo()
    .default(false)
    .meta({
      description: 'let everybody who reaches the SDK port read every environment, with any token or none',
      expected: 'true or false',
    } satisfies SettingNote),
  MAX_DATA_AGE: wholeNumber(1, 2_592_000)
    .optional()
    .meta({
      description:
        'seconds since the upstream last agreed after which /readyz of a gateway is 503; reads go on. Without it, any age will do',
      expected: 'a whole number of seconds from 1 to 2592000, above RECONCILE_INTERVAL',
      unit: 'seconds',
    } satisfies SettingNote),
  HEADER_LIMIT: bytes(512 * KIB, 16 * KIB, 16 * MIB, 'the URL and headers of a request'),
  URL_LIMIT: bytes(32 * KIB, 2 * KIB, 256 * KIB, 'the URL of a request'),
  AUTH_BODY_LIMIT: bytes(512 * KIB, KIB, 16 * MIB, 'the body of a sign-in'),
  METRICS_BODY_LIMIT: bytes(32 * MIB, KIB, 128 * MIB, 'the body of a post of evaluation counts'),
  OFREP_BODY_LIMIT: bytes(256 * KIB, KIB, 16 * MIB, 'the body of an OpenFeature (OFREP) request'),
  REQUEST_TIMEOUT: seconds(60, 1, 'seconds that a request has to arrive with its headers and body'),
  FORWARD_TARGETS: yesOrNo()
    .default(false)
    .meta({
      description: 'tell the upstream of the targets that SDKs sign in with, so that it lists them',
      expected: 'true or false',
    } satisfies SettingNote),
  AND_RULES: yesOrNo()
    .default(true)
    .meta({
      description:
        'give server SDKs the AND rules of target groups; false gives them only the rules that decide alone',
      expected: 'true or false',
    } satisfies SettingNote),
  GO_RELAY_JSON_VALUES: yesOrNo()
    .default(false)
    .meta({
      description:
        'give JSON values to client SDKs as the Go relay does: as text in quotes, which browsers get as text and not as an object',
      expected: 'true or false',
    } satisfies SettingNote),
  STREAM_IDLE_TIMEOUT: seconds(
    45,
    1,
    'seconds without a byte after which the upstream stream counts as dead',
  ),
  RECONCILE_INTERVAL: seconds(300, 1, 'seconds between full comparisons with the upstream'),
  FLAG_STREAM_ENABLED: yesOrNo()
    .default(true)
    .meta({
      description:
        'listen to the upstream stream; without it, changes are found by comparing every FLAG_POLL_INTERVAL',
      expected: 'true or false',
    } satisfies SettingNote),
  FLAG_POLL_INTERVAL: wholeNumber(1, 1440)
    .default(1)
    .meta({
      description: 'minutes between full comparisons with the upstream when FLAG_STREAM_ENABLED is false',
      expected: 'a whole number of minutes from 1 to 1440',
      unit: 'minutes',
    } satisfies SettingNote),
  METRIC_POST_DURATION: seconds(
    60,
    0,
    'seconds for which evaluation counts are gathered before they are posted upstream; 0 takes and drops them',
  ),
  METRICS_MAX_AGE: wholeNumber(3600, 2_592_000)
    .default(86_400)
    .meta({
      description:
        'seconds for which evaluation counts wait in the log for the upstream; older ones are dropped and counted. The metrics-forwarder’s setting',
      expected: 'a whole number of seconds from 3600 to 2592000',
      unit: 'seconds',
    } satisfies SettingNote),
  METRICS_MAX_BYTES: wholeNumber(16 * MIB, 1024 * 1024 * MIB)
    .default(1024 * MIB)
    .meta({
      description:
        'how many bytes of evaluation counts wait in the log for the upstream; beyond that the oldest are dropped and counted. The metrics-forwarder’s setting',
      expected: `a whole number of bytes from ${16 * MIB} to ${1024 * 1024 * MIB}`,
      unit: 'bytes',
    } satisfies SettingNote),
  SHUTDOWN_GRACE: seconds(10, 0, 'seconds that running requests and streams have to end after SIGTERM'),
  DRAIN_SECONDS: seconds(
    5,
    0,
    'seconds over which many streams are ended after SIGTERM, so that they do not come back all at once; at most SHUTDOWN_GRACE less one',
  ),
  STREAM_REPLAY: seconds(
    300,
    0,
    'seconds back for which a stream that opens without Last-Event-ID is told what changed; 0 tells it nothing',
  ),
  STREAM_MAX_AGE: seconds(
    0,
    0,
    'seconds after which a stream is ended, up to a quarter earlier, so that streams spread over gateways; 0 is never',
  ),
  MAX_STREAMS: wholeNumber(0, 1_000_000)
    .default(50_000)
    .meta({
      description: 'the most streams that a gateway has open; more are answered 503. 0 is no limit',
      expected: 'a whole number from 0 to 1000000',
    } satisfies SettingNote),
  MAX_STREAMS_PER_KEY: wholeNumber(0, 1_000_000)
    .default(0)
    .meta({
      description: 'the same for the streams of one SDK key',
      expected: 'a whole number from 0 to 1000000',
    } satisfies SettingNote),
  CLOSE_STREAMS_ON_UPSTREAM_LOSS: yesOrNo()
    .default(false)
    .meta({
      description: 'end streams, and take none, while the upstream is away, as the Go relay does',
      expected: 'true or false',
    } satisfies SettingNote),
  KEEP_SERVING_ON_KEY_DELETION: yesOrNo()
    .default(false)
    .meta({
      description: 'keep serving what is known after the upstream deleted the proxy key',
      expected: 'true or false',
    } satisfies SettingNote),
};

const NOT_OFFLINE = RELAY_SETTINGS.GENERATE_OFFLINE_CONFIG.refine((generate) => !generate).meta({
  description: 'write what the upstream says into CONFIG_DIR, and exit',
  expected: 'false, or leave it out: OFFLINE is true, and nobody is called',
} satisfies SettingNote);

type Settings = ReturnType<typeof readSettings<typeof RELAY_SETTINGS>>;

/** What a process asks of its settings. */
interface Rules {
  /** The settings, each as it may be for this process. */
  readonly shape: Record<string, z.ZodType>;
  /** Whether it has the port for SDKs. */
  readonly serves: boolean;
  /** Whether it calls the upstream. */
  readonly asksUpstream: (read: Partial<Settings>) => boolean;
  /** The faults that no setting has alone. Each begins with the name of a setting. */
  readonly faultsBetween: (read: Partial<Settings>) => readonly string[];
}

/** The rules for a process, whatever the files hold that its settings name. @param environment by the names of today */
export function rulesOf(
  environment: NodeJS.ProcessEnv,
  roles: readonly Role[],
  required: readonly 'PROXY_KEY'[] = [],
): Rules {
  const runs = (...some: Role[]) => some.some((role) => roles.includes(role));
  const shares = roles.length > 0 && roles.length < ROLES.length;
  const offline = isTrue('OFFLINE', environment);
  const serves = runs('gateway');
  const needs = {
    PROXY_KEY: required.includes('PROXY_KEY') || (runs('ingestor', 'metrics-forwarder') && !offline),
    AUTH_SECRET: serves,
    NATS_URL: shares,
    REDIS_ADDRESS: shares && runs('projector', 'gateway'),
  };
  const shape = neededBy(RELAY_SETTINGS, needs);
  if (roles.length === ROLES.length) shape['GATEWAY_WORKERS'] = ONE_WORKER;
  if (offline) shape['GENERATE_OFFLINE_CONFIG'] = NOT_OFFLINE;
  const asksUpstream = ({ FORWARD_TARGETS = false }: Partial<Settings>) =>
    needs.PROXY_KEY || (!offline && FORWARD_TARGETS && serves);
  return {
    shape,
    serves,
    asksUpstream,
    faultsBetween: (read) => {
      const faults: string[] = [];
      if (serves && read.TLS_ENABLED && (read.TLS_CERT === undefined || read.TLS_KEY === undefined))
        faults.push('TLS_ENABLED asks for TLS_CERT and TLS_KEY: set both to the path of a PEM file');
      if (asksUpstream(read) && !read.UPSTREAM_CERT !== !read.UPSTREAM_KEY)
        faults.push('UPSTREAM_CERT and UPSTREAM_KEY belong together: set both, or none');
      const { setting, intervalS } = comparisons(read);
      // A gateway alone does not know how often the ingestor compares.
      if (serves && runs('ingestor') && !offline && (read.MAX_DATA_AGE ?? Infinity) <= intervalS)
        faults.push(
          `MAX_DATA_AGE cannot be ${read.MAX_DATA_AGE}: set it to more than ${intervalS} seconds, or leave it out. ` +
            `The upstream is compared only so often (${setting}), and /readyz would be 503 in between`,
        );
      return faults;
    },
  };
}

/** How often everything is compared with the upstream, and what says so. */
function comparisons({
  FLAG_STREAM_ENABLED: listens = true,
  RECONCILE_INTERVAL = Number.NaN,
  FLAG_POLL_INTERVAL = Number.NaN,
}: Partial<Settings>): { readonly setting: string; readonly intervalS: number } {
  return listens
    ? { setting: 'RECONCILE_INTERVAL', intervalS: RECONCILE_INTERVAL }
    : { setting: 'FLAG_POLL_INTERVAL', intervalS: FLAG_POLL_INTERVAL * 60 };
}

/** The validated settings of the relay. Nothing else reads the environment. */
export class RelayConfig {
  readonly clientService: string;
  readonly metricService: string;
  readonly natsUrl: string | undefined;
  readonly natsCredentials: string | undefined;
  readonly natsReplicas: number;
  readonly natsMonitorUrl: string | undefined;
  readonly redis: { address: string; username?: string; password?: string; db: number } | undefined;
  /** As how many processes a gateway serves. */
  readonly gatewayWorkers: number;
  /** Whether CONFIG_DIR stands in for the upstream, and nobody is called. */
  readonly offline: boolean;
  readonly configDir: string;
  readonly dataDir: string;
  readonly host: string;
  readonly port: number;
  readonly managementHost: string;
  readonly managementPort: number;
  /** Where a gateway answers Prometheus; undefined for the port for SDKs, and for a process without a gateway. */
  readonly prometheusPort: number | undefined;
  readonly logLevel: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR';
  readonly logFormat: 'text' | 'json';
  readonly unknownKeyStatus: number;
  readonly bypassAuth: boolean;
  readonly maxDataAgeS: number | undefined;
  readonly headerLimitBytes: number;
  readonly urlLimitBytes: number;
  readonly authBodyLimitBytes: number;
  readonly metricsBodyLimitBytes: number;
  readonly ofrepBodyLimitBytes: number;
  readonly requestTimeoutMs: number;
  readonly forwardTargets: boolean;
  /** Whether SDKs that can read AND rules get them. */
  readonly andRules: boolean;
  readonly goRelayJsonValues: boolean;
  readonly streamIdleTimeoutMs: number;
  readonly reconcileIntervalMs: number;
  /** Whether changes are heard of, and not only found by comparing. */
  readonly listening: boolean;
  /** The file that the proxy key was read from, and where a new one may appear. */
  readonly proxyKeyFile: string | undefined;
  /** 0 where counts are taken and dropped: there is nobody to post them to. */
  readonly metricPostDurationMs: number;
  /** What may wait for the upstream; undefined for a process that does not keep the bounds. */
  readonly metricsBounds: { readonly keepForMs: number; readonly keepBytes: number } | undefined;
  readonly shutdownGraceMs: number;
  readonly drainMs: number;
  readonly streamReplayMs: number;
  readonly streamMaxAgeMs: number;
  readonly maxStreams: number;
  readonly maxStreamsPerKey: number;
  readonly closeStreamsOnUpstreamLoss: boolean;
  readonly keepServingOnKeyDeletion: boolean;
  /** What is good to know and keeps nothing from starting, in sentences. */
  readonly remarks: readonly string[];
  private readonly servingFiles: TlsFiles | undefined;
  private readonly upstreamFiles: TlsFiles | undefined;
  private readonly settings: Settings;

  /**
   * Throws SettingsError with every fault.
   *
   * @param roles what the process runs: a secret is asked for only where it is used, and roles that do not run together
   * need a log and a store that they share. None for a command
   * @param told what was found already where the settings come from
   * @param required what a command needs
   */
  constructor(
    given: NodeJS.ProcessEnv,
    readonly roles: readonly Role[] = ROLES,
    told: { readonly faults: readonly string[]; readonly remarks: readonly string[] } = NOTHING,
    required: readonly 'PROXY_KEY'[] = [],
  ) {
    const environment = withPresentNames(given);
    const runs = (...some: Role[]) => some.some((role) => roles.includes(role));
    const { shape, serves, asksUpstream, faultsBetween } = rulesOf(environment, roles, required);
    const remarks = [...told.remarks, ...remarksOn(environment)];
    let [tls, files]: (TlsFiles | undefined)[] = [];
    const settings = readSettings(shape, environment, {
      remarks,
      faultsIn: (some) => {
        const read = some as Partial<Settings>;
        return [
          ...told.faults,
          ...faultsOf(
            () => (tls = serves ? servingFiles(read) : undefined),
            () => (files = asksUpstream(read) ? upstreamFiles(read) : undefined),
          ),
          ...faultsBetween(read),
        ];
      },
    }) as Settings;
    if (serves && !settings.TLS_ENABLED && (settings.TLS_CERT ?? settings.TLS_KEY))
      remarks.push(
        'TLS_CERT and TLS_KEY do nothing without TLS_ENABLED=true: the port for SDKs speaks plain HTTP',
      );
    this.remarks = remarks;
    this.settings = settings;
    this.servingFiles = tls;
    this.upstreamFiles = files;
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
    this.gatewayWorkers = settings.GATEWAY_WORKERS;
    this.offline = settings.OFFLINE;
    this.configDir = settings.CONFIG_DIR;
    this.dataDir = settings.DATA_DIR;
    this.host = settings.HOST;
    this.port = settings.PORT;
    this.managementHost = settings.MANAGEMENT_HOST;
    this.managementPort = settings.MANAGEMENT_PORT;
    this.prometheusPort =
      runs('gateway') && settings.PROMETHEUS_PORT !== settings.PORT ? settings.PROMETHEUS_PORT : undefined;
    this.logLevel = settings.LOG_LEVEL;
    this.logFormat = settings.LOG_FORMAT;
    this.unknownKeyStatus = settings.UNKNOWN_KEY_STATUS;
    this.bypassAuth = settings.BYPASS_AUTH;
    this.maxDataAgeS = settings.MAX_DATA_AGE;
    this.headerLimitBytes = settings.HEADER_LIMIT;
    this.urlLimitBytes = settings.URL_LIMIT;
    this.authBodyLimitBytes = settings.AUTH_BODY_LIMIT;
    this.metricsBodyLimitBytes = settings.METRICS_BODY_LIMIT;
    this.ofrepBodyLimitBytes = settings.OFREP_BODY_LIMIT;
    this.requestTimeoutMs = settings.REQUEST_TIMEOUT * 1000;
    this.forwardTargets = settings.FORWARD_TARGETS && !settings.OFFLINE;
    this.andRules = settings.AND_RULES;
    this.goRelayJsonValues = settings.GO_RELAY_JSON_VALUES;
    this.streamIdleTimeoutMs = settings.STREAM_IDLE_TIMEOUT * 1000;
    this.listening = settings.FLAG_STREAM_ENABLED;
    this.reconcileIntervalMs = comparisons(settings).intervalS * 1000;
    this.proxyKeyFile = settings.OFFLINE ? undefined : environment['PROXY_KEY_FILE']?.trim() || undefined;
    this.metricPostDurationMs = settings.OFFLINE ? 0 : settings.METRIC_POST_DURATION * 1000;
    this.metricsBounds = runs('metrics-forwarder')
      ? { keepForMs: settings.METRICS_MAX_AGE * 1000, keepBytes: settings.METRICS_MAX_BYTES }
      : undefined;
    this.shutdownGraceMs = settings.SHUTDOWN_GRACE * 1000;
    // The process ends with the grace, and with it whatever is still open.
    this.drainMs = Math.max(0, Math.min(settings.DRAIN_SECONDS, settings.SHUTDOWN_GRACE - 1)) * 1000;
    this.streamReplayMs = settings.STREAM_REPLAY * 1000;
    this.streamMaxAgeMs = settings.STREAM_MAX_AGE * 1000;
    this.maxStreams = settings.MAX_STREAMS;
    this.maxStreamsPerKey = settings.MAX_STREAMS_PER_KEY;
    this.closeStreamsOnUpstreamLoss = settings.CLOSE_STREAMS_ON_UPSTREAM_LOSS;
    this.keepServingOnKeyDeletion = settings.KEEP_SERVING_ON_KEY_DELETION;
  }

  /** What the port for SDKs speaks TLS with; undefined for plain HTTP. Throws, for a command, if it cannot be used. */
  get tls(): TlsFiles | undefined {
    return this.servingFiles ?? (this.roles.length === 0 ? servingFiles(this.settings) : undefined);
  }

  /** What the upstream is reached with. Throws, for a command, if a file that it needs cannot be used. */
  get upstreamLink(): {
    readonly files: TlsFiles | undefined;
    readonly httpsProxy: string | undefined;
    readonly httpProxy: string | undefined;
    readonly noProxy: string | undefined;
  } {
    const { HTTPS_PROXY, HTTP_PROXY, NO_PROXY } = this.settings;
    const files = this.upstreamFiles ?? (this.roles.length === 0 ? upstreamFiles(this.settings) : undefined);
    return { files, httpsProxy: HTTPS_PROXY, httpProxy: HTTP_PROXY, noProxy: NO_PROXY };
  }

  get proxyKey(): string {
    return given(this.settings.PROXY_KEY, 'PROXY_KEY');
  }

  /** The same, for those who can do without. */
  get givenProxyKey(): string | undefined {
    return this.settings.PROXY_KEY;
  }

  get authSecret(): string {
    return given(this.settings.AUTH_SECRET, 'AUTH_SECRET');
  }

  get formerAuthSecrets(): readonly string[] {
    return secretsIn(this.settings.AUTH_SECRET_PREVIOUS ?? '');
  }
}

const NOTHING = { faults: [], remarks: [] };

/** Runs each, and gathers what they throw. */
function faultsOf(...reads: readonly (() => void)[]): readonly string[] {
  return reads.flatMap((read) => {
    try {
      read();
      return [];
    } catch (error) {
      return [(error as Error).message];
    }
  });
}

/** Undefined if they are not all set that it takes. Throws an Error that says what to change. */
function servingFiles({ TLS_ENABLED, TLS_CERT, TLS_KEY }: Partial<Settings>): TlsFiles | undefined {
  if (!TLS_ENABLED || TLS_CERT === undefined || TLS_KEY === undefined) return undefined;
  return TlsFiles.open({
    cert: { setting: 'TLS_CERT', path: TLS_CERT },
    key: { setting: 'TLS_KEY', path: TLS_KEY },
  });
}

function upstreamFiles({
  UPSTREAM_CA,
  UPSTREAM_CERT,
  UPSTREAM_KEY,
}: Partial<Settings>): TlsFiles | undefined {
  const isPart = !UPSTREAM_CERT !== !UPSTREAM_KEY;
  if (isPart || (!UPSTREAM_CA && !UPSTREAM_CERT)) return undefined;
  return TlsFiles.open({
    ...(UPSTREAM_CA && { ca: { setting: 'UPSTREAM_CA', path: UPSTREAM_CA } }),
    ...(UPSTREAM_CERT && { cert: { setting: 'UPSTREAM_CERT', path: UPSTREAM_CERT } }),
    ...(UPSTREAM_KEY && { key: { setting: 'UPSTREAM_KEY', path: UPSTREAM_KEY } }),
  });
}

function given(value: string | undefined, name: string): string {
  if (value === undefined) throw new Error(`${name} is read by a role that does not ask for it`);
  return value;
}

/** What a process runs that is all roles at once, or a gateway beside others (READ_REPLICA). */
export function relayRoles(environment: NodeJS.ProcessEnv): readonly Role[] {
  return isTrue('READ_REPLICA', environment) ? ['gateway'] : ROLES;
}

/** What a process with these settings runs, and what it needs whatever it runs. */
export function startedAs(environment: NodeJS.ProcessEnv): {
  readonly roles: readonly Role[];
  readonly required: readonly 'PROXY_KEY'[];
} {
  return isToGenerateOfflineConfig(environment)
    ? { roles: [], required: ['PROXY_KEY'] }
    : { roles: relayRoles(environment), required: [] };
}

/** Whether a process is only to write CONFIG_DIR, and serves nobody. */
export function isToGenerateOfflineConfig(environment: NodeJS.ProcessEnv): boolean {
  return isTrue('GENERATE_OFFLINE_CONFIG', environment);
}

/** A setting that says which others are needed. If it cannot be read, that is told where all faults are. */
function isTrue(
  name: 'READ_REPLICA' | 'OFFLINE' | 'GENERATE_OFFLINE_CONFIG',
  environment: NodeJS.ProcessEnv,
): boolean {
  const { success, data } = RELAY_SETTINGS[name].safeParse(environment[name]?.trim() || undefined);
  return success && data;
}
