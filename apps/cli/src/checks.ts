import { access, constants, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';

import { expectRoom, readBundle } from '#libs/bundle';
import {
  isSecret,
  nowNamed,
  RELAY_SETTINGS,
  RelayConfig,
  type Role,
  SettingsError,
  type TlsFiles,
} from '#libs/config';
import { EmbeddedEventLog, lookAtNats } from '#libs/event-log';
import { SaasClient, UpstreamLink, UpstreamRefusal } from '#libs/saas-client';

import { certificateFinding } from './certificate.js';
import type { Finding } from './finding.js';
import { counted, reasonOf } from './outcome.js';
import { secretFindings } from './secrets.js';
import { heardWhile, openStore } from './services.js';
import { span } from './terminal.js';

const ANSWER_MS = 10_000;
/** A header tells whole seconds only. */
const SAME_TIME_MS = 2000;
const WRONG_TIME_MS = 60_000;
const REACH_IT = 'Check CLIENT_SERVICE, and that this machine may reach it (name, firewall, certificate).';
const MIB = 1024 ** 2;
const LITTLE_SPACE = 1024 * MIB;
const NO_SPACE = 100 * MIB;
/** A large environment is a few hundred KB. */
const SMALL_PAYLOAD = MIB;

/** What is checked, and for which process. */
export interface Checked {
  readonly environment: NodeJS.ProcessEnv;
  /** None for one that only writes CONFIG_DIR. */
  readonly roles: readonly Role[];
  /** What it needs whatever it runs. */
  readonly required: readonly 'PROXY_KEY'[];
}

/** Every check that the process needs, one after the other. A wrong setting is told, and the checks go on without it. */
export async function* findings({ environment, roles, required }: Checked): AsyncIterable<Finding> {
  const { faults, remarks } = saidOf(environment, roles, required);
  yield* faults.map((what): Finding => ({ level: 'fail', subject: 'settings', what }));
  const usable = without(faults, environment);
  const config = new RelayConfig(usable, []);
  if (faults.length === 0) yield { level: 'ok', subject: 'settings', what: 'all can be used' };
  yield* remarks.map((what): Finding => ({ level: 'warn', subject: 'settings', what }));

  const isSet = (name: string) => Boolean(usable[name]?.trim() || usable[`${name}_FILE`]?.trim());
  const runs = (...some: Role[]) => some.some((role) => roles.includes(role));
  const generates = roles.length === 0;
  if (config.offline) {
    if (runs('ingestor')) yield await bundle(config);
  } else if (generates || runs('ingestor', 'metrics-forwarder')) {
    const link = new UpstreamLink(config.upstreamLink);
    try {
      if (isSet('PROXY_KEY')) yield* upstream(config, link);
      else yield await upstreamWithoutKey(config, link);
      if (runs('metrics-forwarder')) yield await counts(config, link);
      yield await clock(config, link);
    } finally {
      await link.close();
    }
    yield* certificate(config.upstreamLink.files);
  }
  if (runs('gateway')) yield* certificate(config.tls);
  if (generates) {
    yield await bundleToBe(config);
  } else {
    yield* config.natsUrl === undefined ? disk(config.dataDir) : nats(config, config.natsUrl);
    if (config.redis) yield* redis(config);
  }
  yield* secretFindings({
    proxyKey: isSet('PROXY_KEY') ? config.proxyKey : undefined,
    authSecret: isSet('AUTH_SECRET') ? config.authSecret : undefined,
    formerAuthSecrets: config.formerAuthSecrets,
    bypassAuth: config.bypassAuth,
    files: await secretFiles(usable),
  });
}

interface Said {
  readonly faults: readonly string[];
  readonly remarks: readonly string[];
}

/** What a process with these settings would say at its start. */
function saidOf(
  environment: NodeJS.ProcessEnv,
  roles: readonly Role[],
  required: readonly 'PROXY_KEY'[],
): Said {
  try {
    return { faults: [], remarks: new RelayConfig(environment, roles, undefined, required).remarks };
  } catch (error) {
    if (error instanceof SettingsError) return error;
    throw error;
  }
}

/** Of these, one alone is of no use. */
const TOGETHER = [
  ['TLS_ENABLED', 'TLS_CERT', 'TLS_KEY'],
  ['UPSTREAM_CA', 'UPSTREAM_CERT', 'UPSTREAM_KEY'],
];

/** The settings but those that have faults, whatever name they go by. */
function without(faults: readonly string[], environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const faulty = faults.map((fault) => /^[A-Z_]+/.exec(fault)?.[0]?.replace(/_FILE$/, '') ?? '');
  const left = new Set(
    faulty.flatMap((name) => TOGETHER.find((settings) => settings.includes(name)) ?? [name]),
  );
  return Object.fromEntries(
    Object.entries(environment).filter(([name]) => !left.has(nowNamed(name.replace(/_FILE$/, '')) ?? '')),
  );
}

function* certificate(files: TlsFiles | undefined): Iterable<Finding> {
  if (files?.validity) yield certificateFinding(files.validity, Date.now());
}

async function* upstream(config: RelayConfig, link: UpstreamLink): AsyncIterable<Finding> {
  const { clientService: baseUrl, proxyKey, streamIdleTimeoutMs } = config;
  const saas = new SaasClient({ baseUrl, proxyKey: { current: proxyKey }, link, streamIdleTimeoutMs });
  const signal = AbortSignal.timeout(ANSWER_MS);
  const subject = 'upstream';
  try {
    const began = performance.now();
    const session = await saas.authenticate(signal);
    const tookMs = Math.round(performance.now() - began);
    for await (const { itemCount } of saas.configPages(session, signal)) {
      const what = `${baseUrl} takes the proxy key, which opens ${counted(itemCount, 'environment')} (${tookMs} ms)`;
      yield itemCount > 0
        ? { level: 'ok', subject, what }
        : {
            level: 'warn',
            subject,
            what,
            fix: 'Give the key environments upstream: there is nothing to serve.',
          };
      break;
    }
  } catch (error) {
    const isRefused = error instanceof UpstreamRefusal && [401, 403, 404].includes(error.status);
    const fix = isRefused
      ? 'Set PROXY_KEY to a key that this upstream knows, and CLIENT_SERVICE to the upstream that gave it.'
      : REACH_IT;
    yield { level: 'fail', subject, what: `${baseUrl}: ${reasonOf(error)}`, fix };
  }
}

async function upstreamWithoutKey({ clientService }: RelayConfig, link: UpstreamLink): Promise<Finding> {
  const subject = 'upstream';
  try {
    await answer(clientService, link);
    return { level: 'ok', subject, what: `${clientService} answers; without PROXY_KEY no more was tried` };
  } catch (error) {
    return { level: 'fail', subject, what: `${clientService}: ${reasonOf(error)}`, fix: REACH_IT };
  }
}

async function counts(
  { metricService, metricPostDurationMs }: RelayConfig,
  link: UpstreamLink,
): Promise<Finding> {
  const subject = 'counts';
  if (metricPostDurationMs === 0) {
    const fix = 'Set METRIC_POST_DURATION to the seconds between posts, for example 60.';
    return {
      level: 'warn',
      subject,
      what: 'evaluation counts are taken and dropped (METRIC_POST_DURATION=0)',
      fix,
    };
  }
  try {
    await answer(metricService, link);
    return { level: 'ok', subject, what: `${metricService} answers` };
  } catch (error) {
    const fix = 'Check METRIC_SERVICE. Counts wait in the log for METRICS_MAX_AGE at most.';
    return { level: 'fail', subject, what: `${metricService}: ${reasonOf(error)}`, fix };
  }
}

async function clock({ clientService }: RelayConfig, link: UpstreamLink): Promise<Finding> {
  const subject = 'clock';
  try {
    const { date, atMs, withinMs } = await answer(clientService, link);
    if (date === undefined)
      return {
        level: 'warn',
        subject,
        what: 'the upstream does not tell its time',
        fix: 'Make sure that a time service (NTP) runs here.',
      };
    const offMs = Math.abs(date - atMs);
    const within = SAME_TIME_MS + withinMs;
    if (offMs <= within) return { level: 'ok', subject, what: "agrees with the upstream's" };
    const what = `is ${span(offMs)} ${date < atMs ? 'ahead of' : 'behind'} the upstream's`;
    const fix = 'Let a time service (NTP) set it, for example: timedatectl set-ntp true';
    return { level: offMs > WRONG_TIME_MS ? 'fail' : 'warn', subject, what, fix };
  } catch {
    return {
      level: 'warn',
      subject,
      what: 'cannot be compared, since the upstream does not answer',
      fix: 'See upstream.',
    };
  }
}

interface Answer {
  /** By the other's clock, in ms since the epoch; undefined if it does not tell. */
  readonly date: number | undefined;
  /** By ours, and how much that may be off. */
  readonly atMs: number;
  readonly withinMs: number;
}

/** Any answer will do, whatever its status. Throws an Error with the reason if there is none. */
async function answer(url: string, link: UpstreamLink): Promise<Answer> {
  const began = Date.now();
  try {
    const response = await link.fetch(url, { signal: AbortSignal.timeout(ANSWER_MS) });
    const halfMs = (Date.now() - began) / 2;
    await response.body?.cancel();
    const date = Date.parse(response.headers.get('date') ?? '');
    return { date: Number.isNaN(date) ? undefined : date, atMs: began + halfMs, withinMs: halfMs };
  } catch (error) {
    const { cause } = error as Error;
    const { message, code } = Object(cause) as Partial<NodeJS.ErrnoException>;
    throw new Error(message || code || reasonOf(error), { cause: error });
  }
}

/** What takes the upstream's place. */
async function bundle({ configDir }: RelayConfig): Promise<Finding> {
  const subject = 'bundle';
  try {
    const { environments, manifest } = await readBundle(configDir);
    const what = `CONFIG_DIR ${configDir} has ${counted(environments.length, 'environment')}`;
    if (manifest?.complete === false)
      return {
        level: 'warn',
        subject,
        what: `${what}, and is not complete`,
        fix: 'Nobody is served what it lacks (leftOut in its manifest.json): export it again once all is known.',
      };
    return { level: 'ok', subject, what };
  } catch (error) {
    const fix = 'Write it again with ff-relay export, or set CONFIG_DIR to where it is.';
    return {
      level: 'fail',
      subject,
      what: `CONFIG_DIR ${configDir} cannot be served: ${reasonOf(error)}`,
      fix,
    };
  }
}

/** What GENERATE_OFFLINE_CONFIG writes. */
async function bundleToBe({ configDir }: RelayConfig): Promise<Finding> {
  const subject = 'bundle';
  const folder = resolve(configDir);
  try {
    if ((await writable(folder)) === folder) await expectRoom(folder);
    return { level: 'ok', subject, what: `CONFIG_DIR ${folder} can be written` };
  } catch (error) {
    const fix =
      'Set CONFIG_DIR to a folder that this user may write to, and that holds nothing but a bundle.';
    return {
      level: 'fail',
      subject,
      what: `CONFIG_DIR ${folder} cannot be written: ${reasonOf(error)}`,
      fix,
    };
  }
}

async function* disk(dataDir: string): AsyncIterable<Finding> {
  const subject = 'disk';
  const folder = resolve(dataDir);
  try {
    const existing = await writable(folder);
    const { bavail, bsize } = await statfs(existing);
    const free = bavail * bsize;
    const size = await logBytes(folder);
    const log = size > 0 ? `the log has ${bytes(size)}` : 'no log there yet';
    const what = `DATA_DIR ${folder} can be written, ${bytes(free)} free, ${log}`;
    const fix = 'Make room, or set DATA_DIR to a folder on a larger disk.';
    if (free < LITTLE_SPACE) yield { level: free < NO_SPACE ? 'fail' : 'warn', subject, what, fix };
    else yield { level: 'ok', subject, what };
    const holder = EmbeddedEventLog.holder(folder);
    if (holder)
      yield {
        level: 'warn',
        subject,
        what: `it is in use by ${holder}`,
        fix: 'A second relay cannot start on it. If that is your relay, all is well.',
      };
  } catch (error) {
    const fix = 'Set DATA_DIR to a folder that this user may write to.';
    yield { level: 'fail', subject, what: `DATA_DIR ${folder} cannot be used: ${reasonOf(error)}`, fix };
  }
}

/** Of the log, with what is not yet in its main file. */
async function logBytes(folder: string): Promise<number> {
  const files = ['log.sqlite', 'log.sqlite-wal'].map((name) =>
    stat(join(folder, name)).then(
      ({ size }) => size,
      () => 0,
    ),
  );
  return (await Promise.all(files)).reduce((sum, size) => sum + size, 0);
}

/** The folder, or the one that it would be made in, which can be written. Throws if it cannot. */
async function writable(folder: string): Promise<string> {
  const existing = await nearest(folder);
  if (existing === folder) await write(folder);
  else await access(existing, constants.W_OK);
  return existing;
}

/** The folder, or the one that it would be made in. */
async function nearest(folder: string): Promise<string> {
  const there = await stat(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' || dirname(folder) === folder) throw error;
    return undefined;
  });
  if (!there) return nearest(dirname(folder));
  if (!there.isDirectory()) throw new Error(`${folder} is no folder`);
  return folder;
}

async function write(folder: string): Promise<void> {
  const file = join(folder, `.ff-relay-check-${process.pid}`);
  await writeFile(file, 'to see whether it can be written', { flush: true });
  await rm(file);
}

async function* nats(config: RelayConfig, servers: string): AsyncIterable<Finding> {
  const { natsReplicas: replicas, natsCredentials: credentialsFile, natsMonitorUrl: monitorUrl } = config;
  const subject = 'nats';
  try {
    const found = await lookAtNats({ servers, replicas, credentialsFile, monitorUrl });
    const streams =
      found.missing.length === 0 ? 'has the streams' : `lets the relay make ${found.missing.join(', ')}`;
    const what = `NATS ${found.version} runs JetStream and ${streams}`;
    yield { level: 'ok', subject, what };
    if (found.maxPayload < SMALL_PAYLOAD)
      yield {
        level: 'warn',
        subject,
        what: `a message may have ${bytes(found.maxPayload)} only`,
        fix: 'Raise max_payload: larger flags are set aside and keep their last good state.',
      };
    yield* found.warnings.map((warning): Finding => ({ level: 'warn', subject, what: warning }));
  } catch (error) {
    const fix = 'Check NATS_URL and NATS_CREDS, and that the server runs with JetStream (nats-server -js).';
    yield { level: 'fail', subject, what: `cannot be used: ${reasonOf(error)}`, fix };
  }
}

async function* redis(config: RelayConfig): AsyncIterable<Finding> {
  const subject = 'redis';
  try {
    const { result, heard } = await heardWhile(async () => {
      const store = await openStore(config);
      try {
        // What it found out about the server is said by then.
        await immediate();
        return (await store.positions()).size;
      } finally {
        await store.close();
      }
    });
    yield { level: 'ok', subject, what: `answers, and holds ${counted(result, 'environment')}` };
    yield* heard.map((warning): Finding => ({ level: 'warn', subject, what: warning }));
  } catch (error) {
    yield { level: 'fail', subject, what: reasonOf(error) };
  }
}

/** Settings that name files with secrets. */
const SECRET_FILES = [
  ...Object.entries(RELAY_SETTINGS).flatMap(([name, schema]) => (isSecret(schema) ? `${name}_FILE` : [])),
  'NATS_CREDS',
  'TLS_KEY',
  'UPSTREAM_KEY',
];

async function secretFiles(environment: NodeJS.ProcessEnv) {
  const files = SECRET_FILES.map(async (setting) => {
    const file = environment[setting]?.trim();
    if (!file) return [];
    const mode = await stat(file).then(
      (of) => of.mode,
      () => 0,
    );
    return [{ setting, file, mode }];
  });
  return (await Promise.all(files)).flat();
}

function bytes(count: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  let [value, unit] = [count, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.floor(value)} ${units[unit]}`;
}
