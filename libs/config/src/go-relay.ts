/** What a setting of the Go relay (protocol §6) means here. */
export interface GoRelaySetting {
  /** The versions of the Go relay that read it. */
  readonly versions: 'V1' | 'V2' | 'V1, V2' | 'its chart';
  /** Its flag there, where that is not its name in lower case with dashes. */
  readonly flag?: string;
  /** Whether it is true or false, where it is no setting here. */
  readonly yesOrNo?: true;
  /** The setting here, where it has another name. */
  readonly now?: string;
  /** Why it has no meaning here, and what takes its place. */
  readonly instead?: string;
  /** What differs although the name is the same. */
  readonly differs?: string;
  /** The only value for which it differs. */
  readonly differsFor?: string;
  /** What differs where it is not set. */
  readonly unset?: string;
}

const V1_ACCOUNT =
  'PROXY_KEY takes its place: a proxy key tells the account, its environments and their SDK keys';

/** Every setting of the Go relay that is not a setting of the same name, meaning and default here, and those that are. */
export const GO_RELAY: Readonly<Record<string, GoRelaySetting>> = {
  PROXY_KEY: { versions: 'V2' },
  AUTH_SECRET: {
    versions: 'V1, V2',
    differs:
      'has no default here, and at least 32 characters. SDKs stay signed in over the move if this value stands in AUTH_SECRET_PREVIOUS, or is kept where it is long enough',
  },
  CLIENT_SERVICE: { versions: 'V1, V2' },
  METRIC_SERVICE: { versions: 'V1, V2' },
  SDK_BASE_URL: { versions: 'V1', now: 'CLIENT_SERVICE' },
  SDK_EVENTS_URL: { versions: 'V1', now: 'METRIC_SERVICE' },
  METRIC_POST_DURATION: {
    versions: 'V1, V2',
    differs: 'takes evaluation counts and drops them',
    differsFor: '0',
  },
  READ_REPLICA: {
    versions: 'V2',
    flag: 'readReplica',
    differs: 'needs NATS_URL beside REDIS_ADDRESS here',
    differsFor: 'true',
  },
  FORWARD_TARGETS: { versions: 'V2' },
  FLAG_STREAM_ENABLED: { versions: 'V1' },
  FLAG_POLL_INTERVAL: { versions: 'V1' },
  REDIS_ADDRESS: {
    versions: 'V1, V2',
    differs: 'may be left out here. While both relays run, each needs a Redis, or a REDIS_DB, of its own',
  },
  REDIS_USERNAME: { versions: 'V2' },
  REDIS_PASSWORD: { versions: 'V1, V2' },
  REDIS_DB: {
    versions: 'V1, V2',
    differs: 'counts here; the Go relay takes database 0 whatever it says',
  },
  PORT: {
    versions: 'V1, V2',
    unset: 'it is 7000 here, and 8000 where the Go relay runs without its container',
  },
  PROMETHEUS_PORT: {
    versions: 'V2',
    unset: '/metrics is on the port for SDKs and on MANAGEMENT_PORT here, and there on 8000',
  },
  OFFLINE: { versions: 'V1, V2' },
  CONFIG_DIR: { versions: 'V1, V2' },
  GENERATE_OFFLINE_CONFIG: { versions: 'V1, V2' },
  TLS_ENABLED: { versions: 'V1, V2' },
  TLS_CERT: { versions: 'V1, V2' },
  TLS_KEY: { versions: 'V1, V2' },
  BYPASS_AUTH: { versions: 'V1, V2' },
  LOG_LEVEL: { versions: 'V2' },
  AND_RULES: {
    versions: 'V2',
    unset:
      'groups whose rules need several conditions together match as they say here; there the first one decides. AND_RULES=false leaves such rules out of what SDKs read',
  },
  ACCOUNT_IDENTIFIER: { versions: 'V1', instead: V1_ACCOUNT },
  ORG_IDENTIFIER: { versions: 'V1', instead: V1_ACCOUNT },
  ADMIN_SERVICE: { versions: 'V1', instead: V1_ACCOUNT },
  ADMIN_SERVICE_TOKEN: { versions: 'V1', instead: V1_ACCOUNT },
  SERVICE_TOKEN: { versions: 'V1', instead: V1_ACCOUNT },
  API_KEYS: { versions: 'V1', instead: V1_ACCOUNT },
  TARGET_POLL_DURATION: {
    versions: 'V1',
    instead:
      'targets are not read from the upstream: SDKs send theirs, and FORWARD_TARGETS tells the upstream of them',
  },
  HEARTBEAT_INTERVAL: {
    versions: 'V1, V2',
    instead:
      'the relay need not ask itself: /livez and /readyz on MANAGEMENT_PORT tell at any time how it is',
  },
  REDIS_POOL_SIZE: {
    versions: 'V1, V2',
    instead:
      'reads are served from memory, so a process needs one connection; GATEWAY_WORKERS takes more cores',
  },
  METRICS_STREAM_MAX_LEN: {
    versions: 'V2',
    instead:
      'evaluation counts wait in the log until the upstream has taken them, as METRICS_MAX_AGE and METRICS_MAX_BYTES bound it',
  },
  METRIC_STREAM_READ_CONCURRENCY: {
    versions: 'V2',
    flag: 'metrics-stream-read-concurrency',
    instead:
      'the metrics-forwarder reads as fast as the upstream takes counts; several of them share the work',
  },
  PPROF: { versions: 'V2', yesOrNo: true, instead: 'NODE_OPTIONS=--cpu-prof writes a profile of the relay' },
  GCP_PROFILER_ENABLED: {
    versions: 'V2',
    yesOrNo: true,
    instead: 'NODE_OPTIONS=--cpu-prof writes a profile of the relay',
  },
  METRICS_SERVICE: {
    versions: 'its chart',
    instead: 'the Go relay does not read it either: METRIC_SERVICE is meant',
  },
};

/** The names that a setting has in the Go relay, with its versions, for the table of settings. */
export function namesInGoRelay(setting: string): string {
  return Object.entries(GO_RELAY)
    .filter(([name]) => nowNamed(name) === setting)
    .map(([name, { versions }]) => `\`${name}\` (${versions})`)
    .join(', ');
}

/** Others write these so, too. */
export const OTHER_SPELLINGS: Readonly<Record<string, string>> = {
  https_proxy: 'HTTPS_PROXY',
  http_proxy: 'HTTP_PROXY',
  no_proxy: 'NO_PROXY',
};

/** The setting here that has the meaning of a name; undefined if it has none here. */
export function nowNamed(name: string): string | undefined {
  const former = GO_RELAY[name];
  return former?.instead === undefined ? (former?.now ?? OTHER_SPELLINGS[name] ?? name) : undefined;
}

/** The environment with the settings by the names that they have here. What has its name already goes first. */
export function withPresentNames(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const renamed = Object.entries(GO_RELAY).flatMap(([name, { now }]) => (now ? [[name, now] as const] : []));
  const named = { ...environment };
  for (const [name, now] of [...renamed, ...Object.entries(OTHER_SPELLINGS)]) {
    if (isSet(environment[name]) && !isSet(named[now]) && !isSet(named[`${now}_FILE`]))
      named[now] = environment[name];
  }
  return named;
}

/** What somebody who comes from the Go relay should know of the settings that are set. */
export function remarksOn(environment: NodeJS.ProcessEnv): string[] {
  return Object.entries(GO_RELAY).flatMap(([name, { versions, now, instead }]) => {
    if (!isSet(environment[name])) return [];
    const of = versions === 'its chart' ? 'of the chart of the Go relay' : `of the Go relay (${versions})`;
    if (instead !== undefined) return [`${name} ${of} does nothing here: ${instead}`];
    if (now === undefined) return [];
    const other = environment[now]?.trim() !== environment[name]?.trim();
    return [
      other
        ? `${name} ${of} does nothing where ${now} is set, too: ${now} takes its place`
        : `${name} ${of} is taken for ${now}: write it so`,
    ];
  });
}

export function isSet(text: string | undefined): boolean {
  return text !== undefined && text.trim() !== '';
}
