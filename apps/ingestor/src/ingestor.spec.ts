import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import {
  apiKeysOf,
  environmentFactsIn,
  type EnvironmentState,
  type Fact,
  factIn,
  flagIn,
  flagsOf,
  fold,
  segmentIn,
  segmentsOf,
  unknownEnvironment,
} from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';
import { UpstreamStatus } from '#libs/observability';
import { type Backoff, SaasClient } from '#libs/saas-client';

import { aFlag, aSegment } from '../../../libs/domain/src/builders.suite.js';
import { Ingestor, type IngestorOptions } from './ingestor.js';
import { IngestorRecord } from './ingestor-record.js';
import { Ledger } from './ledger.js';
import {
  type Answer,
  body,
  cut,
  page,
  refusal,
  ScriptedUpstream,
  type UpstreamEnvironment,
} from './scripted-upstream.suite.js';

const KEY = 'a'.repeat(64);
const OTHER_KEY = 'b'.repeat(64);
const HOUR_MS = 3_600_000;

const anEnvironment = (changes: Partial<UpstreamEnvironment> = {}): UpstreamEnvironment => ({
  flags: [aFlag('dark-mode'), aFlag('banner')],
  segments: [aSegment('beta')],
  apiKeys: [KEY],
  ...changes,
});

let folder: string;
let log: EmbeddedEventLog;
let upstream: ScriptedUpstream;
let logged: string[];
let ingestors: Ingestor[];

beforeEach(async () => {
  logged = [];
  ingestors = [];
  const note = (message: unknown) => void logged.push(String(message));
  Logger.overrideLogger({ log: note, warn: note, error: note });
  folder = await mkdtemp(join(tmpdir(), 'ff-relay-ingestor-'));
  log = await EmbeddedEventLog.open(folder);
  upstream = await ScriptedUpstream.start({ dev: anEnvironment() });
});

afterEach(async () => {
  await Promise.all(ingestors.map((ingestor) => ingestor.stop()));
  upstream.close();
  await log.close();
  await rm(folder, { recursive: true });
});

interface Running {
  readonly ingestor: Ingestor;
  readonly status: UpstreamStatus;
  readonly record: IngestorRecord;
  /** How long each change took that was told, in ms. */
  readonly took: readonly number[];
  /** Resolves when the account has been compared once more, or for the first time. */
  readonly compared: () => Promise<void>;
}

const impatient: Backoff = () => 1;

async function start(options: Partial<IngestorOptions> = {}, backoff = impatient): Promise<Running> {
  const saas = new SaasClient({
    baseUrl: upstream.url,
    proxyKey: { current: 'key' },
    streamIdleTimeoutMs: HOUR_MS,
  });
  let clock = 0;
  const status = new UpstreamStatus(() => ++clock);
  const took: number[] = [];
  const record = new IngestorRecord((ms) => took.push(ms));
  const ingestor = new Ingestor(
    log,
    saas,
    status,
    { reconcileIntervalMs: HOUR_MS, keepServingOnKeyDeletion: false, recentMs: 0, ...options },
    backoff,
    record,
  );
  ingestors.push(ingestor);
  await ingestor.start();
  let last: number | undefined;
  const compared = async () => {
    last = await eventually(
      () => status.lastAgreedMs,
      (agreed) => agreed !== last,
    );
  };
  return { ingestor, status, record, took, compared };
}

/** An ingestor that has the account of the upstream in the log and listens. */
async function listening(options: Partial<IngestorOptions> = {}, backoff = impatient): Promise<Running> {
  const running = await start(options, backoff);
  await running.compared();
  upstream.asked.length = 0;
  return running;
}

async function eventually<Seen>(
  look: () => Seen | Promise<Seen>,
  holds: (seen: Seen) => unknown,
): Promise<Seen> {
  const deadline = Date.now() + 120_000;
  for (;;) {
    const seen = await look();
    if (holds(seen)) return seen;
    if (Date.now() > deadline) {
      throw new Error(
        `it did not come about; last seen: ${JSON.stringify(seen)}; logged: ${logged.join('\n')}`,
      );
    }
    await delay(2);
  }
}

/** Every fact of the log, oldest first. */
async function facts(): Promise<Fact[]> {
  const { sequence } = await log.head('FF_FACTS');
  const all: Fact[] = [];
  if (sequence === 0) return all;
  for await (const messages of log.tail('FF_FACTS', undefined, new AbortController().signal)) {
    all.push(...messages.map((message) => factIn(message.body)));
    if ((messages.at(-1)?.position.sequence ?? 0) >= sequence) break;
  }
  return all;
}
/** What was published of a flag, after so many facts. */
const published = (all: readonly Fact[], after: number, feature: string) =>
  all.slice(after).filter((fact) => fact.type === 'FlagPublished' && fact.flag.feature === feature);
const typesOf = (all: readonly Fact[]) => all.map(({ type }) => type);
const removalsIn = (all: readonly Fact[]) => typesOf(all).filter((type) => type.endsWith('Removed'));

/** What the log says about an environment. */
async function state(id = 'dev'): Promise<EnvironmentState> {
  const read = [];
  for await (const messages of log.latest('FF_FACTS')) {
    read.push(
      ...messages.map((message) => ({ fact: factIn(message.body), sequence: message.position.sequence })),
    );
  }
  return fold(
    unknownEnvironment(id),
    environmentFactsIn(read).filter(({ fact }) => fact.environment === id),
  );
}
const becomes = (holds: (seen: EnvironmentState) => unknown, id = 'dev') =>
  eventually(() => state(id), holds);
const becomesLogged = (text: string) =>
  eventually(
    () => logged,
    (lines) => lines.some((line) => line.includes(text)),
  );
const versionIn = (seen: EnvironmentState, flag: string) => flagIn(seen, flag)?.version;

/** A new version of a flag upstream, of which nobody is told. */
function change(flag: string, version: number, id = 'dev'): void {
  const environment = upstream.environment(id);
  environment.flags = [
    ...environment.flags.filter(({ feature }) => feature !== flag),
    aFlag(flag, { version, state: 'on' }),
  ];
}

const tellFlag = (event: string, identifier: string, version: number, environment = 'dev') =>
  upstream.tell({ domain: 'flag', event, identifier, version, environment });
const tellSegment = (event: string, identifier: string, version: number, environment = 'dev') =>
  upstream.tell({ domain: 'target-segment', event, identifier, version, environment });
const tellProxy = (event: string, fields: object = {}) =>
  upstream.tell({ domain: 'proxy', event, ...fields });
const makeCompare = () => upstream.say('data: garbage\n\n');
/** From now on each comparison is followed by another that somebody asked for. */
function keepAsking(): void {
  upstream.watch = (request) => {
    if (request.startsWith('config')) makeCompare();
  };
  makeCompare();
}
/** The log is without the fact, as after a restore from an old copy. */
function loseFromLog(subject: string): void {
  const file = new DatabaseSync(join(folder, 'log.sqlite'));
  file.prepare('DELETE FROM FF_FACTS WHERE subject = ?').run(subject);
  file.close();
}
/** The log was told a day ago what it holds. */
function wasLongAgo(): void {
  const file = new DatabaseSync(join(folder, 'log.sqlite'));
  file.exec(`UPDATE FF_FACTS SET time = time - ${24 * HOUR_MS}`);
  file.close();
}
/** The log shows what is appended, or of that only what the subject names, before it says that it is. */
function logAnswersAfter(ms: number, subject = ''): void {
  const append = log.append.bind(log);
  log.append = async (...[stream, message]: Parameters<typeof append>) => {
    const position = await append(stream, message);
    if (message.subject.includes(subject)) await delay(ms);
    return position;
  };
}
/** Both reads of an environment that follow come from a replica that lags. */
function lagsTwice(flags: UpstreamEnvironment['flags']): void {
  upstream.next('flags dev', body(flags));
  upstream.next('config dev', body(page({ dev: anEnvironment({ flags }) })));
}
/** An ingestor that listens, long after the log was told what there is. */
async function listeningLongAfter(options: Partial<IngestorOptions>): Promise<Running> {
  const { ingestor } = await listening();
  await ingestor.stop();
  wasLongAgo();
  return listening(options);
}
/** A replica that lists what there was when the token was given. */
function listsWhatTheTokenOpens(): void {
  upstream.readBy = ({ headers }) => {
    const claims = Buffer.from(headers.authorization?.split('.')[1] ?? '', 'base64url').toString();
    const { environments } = JSON.parse(claims) as { environments: string[] };
    const opened = Object.entries(upstream.environments).filter(([id]) => environments.includes(id));
    return Object.fromEntries(opened);
  };
}

/** One more change, told and waited for: whatever was said before it has been dealt with. */
async function settled(): Promise<void> {
  change('marker', 1);
  tellFlag('create', 'marker', 1);
  await becomes((seen) => flagIn(seen, 'marker'));
}

/** What is published of a flag by a read of the account that comes now, and is looked into by another. */
async function publishedBy(release: () => void, feature: string): Promise<Fact[]> {
  const before = (await facts()).length;
  release();
  await eventually(
    () => upstream.timesAsked('config dev'),
    (times) => times > 0,
  );
  await settled();
  return published(await facts(), before, feature);
}

describe('A first start', () => {
  it('writes the whole account: groups, then flags, then SDK keys, and that this was all', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment({ apiKeys: [OTHER_KEY] }) };
    await listening();
    const written = await facts();
    for (const id of ['dev', 'prod']) {
      expect(typesOf(written.filter((fact) => 'environment' in fact && fact.environment === id))).toEqual([
        'EnvironmentAdded',
        'SegmentPublished',
        'FlagPublished',
        'FlagPublished',
        'ApiKeyAdded',
      ]);
    }
    expect(written).toContainEqual({ type: 'EnvironmentAdded', environment: 'dev', account: 'acc' });
    expect(written.at(-1)).toEqual({ type: 'SnapshotCompleted', account: 'acc', environments: 2 });
  });

  it('reads the account only once the stream is open, so that no change falls between the two', async () => {
    const opening = upstream.hold('stream');
    const { compared } = await start();
    await opening.arrived;
    expect(upstream.asked).toEqual(['auth', 'stream']);
    opening.release();
    await compared();
    expect(upstream.asked).toEqual(['auth', 'stream', 'config']);
  });

  it('reads all pages', async () => {
    const ids = ['a', 'b', 'c', 'd', 'e'];
    upstream.environments = Object.fromEntries(ids.map((id) => [id, anEnvironment()]));
    upstream.environmentsPerPage = 2;
    await listening();
    for (const id of ids) expect(flagsOf(await state(id))).toHaveLength(2);
    expect((await facts()).at(-1)).toMatchObject({ type: 'SnapshotCompleted', environments: 5 });
  });

  it('reads on after an environment that cannot be settled', async () => {
    upstream.environments = { a: anEnvironment(), b: anEnvironment() };
    upstream.environmentsPerPage = 1;
    await listening();
    // A flag of the first page is gone, and nobody says whether that is so.
    upstream.environment('a').flags = [];
    upstream.next('config a', ...Array.from({ length: 50 }, () => refusal(500)));
    change('dark-mode', 2, 'b');
    makeCompare();
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2, 'b');
    expect(flagsOf(await state('a'))).toHaveLength(2);
  });

  it('finds what is gone though another environment cannot be settled, as long as the answers are whole', async () => {
    upstream.environments = { a: anEnvironment(), b: anEnvironment() };
    await listening();
    upstream.environments = { a: anEnvironment({ flags: [] }) };
    upstream.next('config a', ...Array.from({ length: 50 }, () => refusal(500)));
    makeCompare();
    await becomes((seen) => !seen.exists, 'b');
    expect(flagsOf(await state('a'))).toHaveLength(2);
  });

  it('waits for an upstream that is not there, as long as it asks', async () => {
    const waits: number[] = [];
    upstream.next('auth', cut, refusal(503, { 'retry-after': '7' }), refusal(401));
    const { status, compared } = await start({}, (_failures, _random, askedMs = 0) => {
      waits.push(askedMs);
      return 1;
    });
    await compared();
    expect(waits).toContain(7000);
    await eventually(
      () => status.streamStatus.state,
      (now) => now === 'CONNECTED',
    );
    expect(flagsOf(await state())).toHaveLength(2);
  });

  it('says that all is there only when all is there', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    upstream.environmentsPerPage = 1;
    upstream.next('config', (_, usual) => usual(), refusal(500));
    await listening();
    const types = typesOf(await facts());
    expect(types.indexOf('SnapshotCompleted')).toBe(types.length - 1);
    expect(types.filter((type) => type === 'EnvironmentAdded')).toHaveLength(2);
  });
});

describe('An environment that is removed while the account is read for the first time', () => {
  it('is not counted among what is there', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    upstream.environmentsPerPage = 1;
    upstream.next('config', (_, usual) => usual());
    const second = upstream.hold('config');
    const { compared } = await start();
    await second.arrived;
    await becomes((seen) => apiKeysOf(seen).length === 1);
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await becomes((seen) => !seen.exists);
    second.release();
    await compared();
    // The upstream goes on listing it, so it comes back before all is said to be there.
    const types = typesOf(await facts());
    expect(types.filter((type) => type === 'EnvironmentAdded')).toHaveLength(3);
    expect(types.indexOf('SnapshotCompleted')).toBe(types.length - 1);
  });
});

describe('A restart', () => {
  it('with nothing changed upstream writes nothing', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment({ apiKeys: [OTHER_KEY] }) };
    await (await listening()).ingestor.stop();
    const before = await log.head('FF_FACTS');
    await log.close();
    log = await EmbeddedEventLog.open(folder);
    await listening();
    expect(await log.head('FF_FACTS')).toEqual(before);
  });

  it('finds what changed meanwhile, and only that', async () => {
    await (await listening()).ingestor.stop();
    const before = (await facts()).length;
    change('dark-mode', 2);
    await listening();
    expect(typesOf((await facts()).slice(before))).toEqual(['FlagPublished']);
    expect(versionIn(await state(), 'dark-mode')).toBe(2);
  });

  it('finishes the removal that a deleted proxy key had begun', async () => {
    await (await listening()).ingestor.stop();
    const ledger = new Ledger(log, Date.now);
    await ledger.load();
    await ledger.append([{ type: 'ProxyKeyDeleted', identifier: '' }]);
    upstream.next('auth', ...Array<Answer>(3).fill(refusal(401)));
    await start();
    await becomes((seen) => !seen.exists);
  });
});

describe('A change that is told', () => {
  it('costs one read and becomes a fact', async () => {
    await listening();
    const before = (await facts()).length;
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(typesOf((await facts()).slice(before))).toEqual(['FlagPublished']);
    expect(upstream.asked).toEqual(['flags dev']);
  });

  it('of a target group costs one read of the groups', async () => {
    await listening();
    upstream.environment('dev').segments = [aSegment('beta', { version: 2 })];
    tellSegment('patch', 'beta', 2);
    await becomes((seen) => segmentIn(seen, 'beta')?.version === 2);
    expect(upstream.asked).toEqual(['segments dev']);
  });

  it('a hundred times while a read is under way costs one more read of each kind', async () => {
    await listening();
    const flags = upstream.hold('flags dev');
    const segments = upstream.hold('segments dev');
    tellFlag('patch', 'dark-mode', 1);
    tellSegment('patch', 'beta', 1);
    await Promise.all([flags.arrived, segments.arrived]);
    for (let version = 2; version <= 101; version++) {
      change('dark-mode', version);
      tellFlag('patch', 'dark-mode', version);
      upstream.environment('dev').segments = [aSegment('beta', { version })];
      tellSegment('patch', 'beta', version);
    }
    // The removal is dealt with at once, so all that was told before it has come.
    tellFlag('delete', 'banner', 2);
    await becomes((seen) => !flagIn(seen, 'banner'));
    upstream.environment('dev').flags = [aFlag('dark-mode', { version: 101 })];
    flags.release();
    segments.release();
    await becomes((seen) => versionIn(seen, 'dark-mode') === 101 && segmentIn(seen, 'beta')?.version === 101);
    await settled();
    expect(upstream.timesAsked('flags dev')).toBeLessThanOrEqual(3);
    expect(upstream.timesAsked('segments dev')).toBeLessThanOrEqual(2);
  });

  it('as a removal needs no read', async () => {
    await listening();
    upstream.environment('dev').flags = [aFlag('banner')];
    upstream.environment('dev').segments = [];
    tellFlag('delete', 'dark-mode', 1);
    tellSegment('delete', 'beta', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode') && !segmentIn(seen, 'beta'));
    expect(upstream.asked).toEqual([]);
    expect((await facts()).slice(-2)).toEqual([
      { type: 'FlagRemoved', environment: 'dev', identifier: 'dark-mode', version: 1 },
      { type: 'SegmentRemoved', environment: 'dev', identifier: 'beta', version: 1 },
    ]);
  });

  it('as the removal of a later version than is known is a fact at once, and costs one read', async () => {
    const { compared } = await listening();
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 2);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    makeCompare();
    await compared();
    expect(upstream.asked.toSorted()).toEqual(['config', 'config dev']);
    expect(await facts()).toContainEqual({
      type: 'FlagRemoved',
      environment: 'dev',
      identifier: 'dark-mode',
      version: 2,
    });
  });

  it('twice as the same removal is one fact', async () => {
    await listening();
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 2);
    tellFlag('delete', 'dark-mode', 2);
    await settled();
    expect(removalsIn(await facts())).toEqual(['FlagRemoved']);
  });

  it('as the removal of what is not known holds against a read that is older', async () => {
    await listening();
    const stale = { ...upstream.environment('dev') };
    stale.flags = [...stale.flags, aFlag('short-lived')];
    stale.apiKeys = [...stale.apiKeys, OTHER_KEY];
    const read = upstream.hold('config', body(page({ dev: stale })));
    makeCompare();
    await read.arrived;
    tellFlag('delete', 'short-lived', 1);
    tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: OTHER_KEY });
    await eventually(facts, (all) => removalsIn(all).length === 2);
    read.release();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    await settled();
    expect(apiKeysOf(await state())).toEqual([KEY]);
    expect(flagIn(await state(), 'short-lived')).toBeUndefined();
  });

  it('as the removal of an older version than is known is left to a read', async () => {
    change('dark-mode', 5);
    await listening();
    tellFlag('delete', 'dark-mode', 2);
    await eventually(
      () => upstream.timesAsked('flags dev'),
      (times) => times === 1,
    );
    await settled();
    expect(versionIn(await state(), 'dark-mode')).toBe(5);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('in a flood that nobody could keep up with is found by reading', async () => {
    const flags = Array.from({ length: 1300 }, (_, i) => aFlag(`flag-${i}`));
    upstream.environments = { dev: anEnvironment({ flags }) };
    await listening();
    upstream.environment('dev').flags = [];
    for (const { feature } of flags) tellFlag('delete', feature, 2);
    await becomes((seen) => flagsOf(seen).length === 0);
    expect(upstream.asked).toContain('config dev');
  });

  it('brings back a flag that was removed', async () => {
    await listening();
    upstream.environment('dev').flags = [];
    tellFlag('delete', 'dark-mode', 2);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    change('dark-mode', 1);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 1);
  });

  it('of an environment that is not known makes the ingestor read the account', async () => {
    await listening();
    upstream.environments['new'] = anEnvironment();
    tellFlag('patch', 'dark-mode', 1, 'new');
    await becomes((seen) => seen.exists && flagsOf(seen).length === 2, 'new');
  });

  it('of an environment that the token does not open has the account read with a new one', async () => {
    await listening();
    listsWhatTheTokenOpens();
    upstream.environments['new'] = anEnvironment();
    tellFlag('patch', 'dark-mode', 1, 'new');
    await becomes((seen) => seen.exists, 'new');
  });

  it('of an environment that is not known, a hundred times, costs one new token for each comparison', async () => {
    await listening();
    const read = upstream.hold('config');
    tellFlag('patch', 'dark-mode', 1, 'new');
    await read.arrived;
    for (let times = 0; times < 100; times++) {
      tellProxy('apiKeyAdded', { environments: ['new'], apiKey: KEY });
      change('banner', times);
      if (times % 10 === 0) tellFlag('patch', 'banner', times);
    }
    await settled();
    expect(upstream.timesAsked('auth')).toBe(1);
    read.release();
    await eventually(
      () => upstream.timesAsked('config'),
      (times) => times === 2,
    );
    expect(upstream.timesAsked('auth')).toBe(2);
  });

  it('by somebody else who writes to the same log is taken note of, and not overwritten', async () => {
    const { compared } = await listening();
    const other = new Ledger(log, Date.now);
    await other.load();
    change('dark-mode', 2);
    await other.append([
      { type: 'FlagPublished', environment: 'dev', flag: aFlag('dark-mode', { version: 2, state: 'on' }) },
    ]);
    change('dark-mode', 3);
    makeCompare();
    await compared();
    const versions = (await facts()).flatMap((fact) =>
      fact.type === 'FlagPublished' && fact.flag.feature === 'dark-mode' ? [fact.flag.version] : [],
    );
    expect(versions).toEqual([1, 2, 3]);
  });
});

describe('A version that is announced', () => {
  const lag: Answer = body([aFlag('dark-mode'), aFlag('banner')]);

  it('is read again until the read shows it', async () => {
    await listening();
    change('dark-mode', 2);
    upstream.next('flags dev', lag, lag);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(upstream.timesAsked('flags dev')).toBe(3);
  });

  it('and never shown is given up after eight such reads, other failures not counted', async () => {
    await listening();
    const answers = [refusal(500), lag, lag, lag, lag, lag, lag, refusal(500), lag, lag];
    upstream.next('flags dev', ...answers);
    tellFlag('patch', 'dark-mode', 99);
    await becomesLogged('the next comparison will tell');
    await settled();
    expect(upstream.timesAsked('flags dev')).toBe(answers.length + 1);
  });

  it('is no longer looked for once the flag is removed', async () => {
    await listening();
    const read = upstream.hold('flags dev');
    tellFlag('patch', 'dark-mode', 2);
    await read.arrived;
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 3);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    read.release();
    await settled();
    expect(upstream.timesAsked('flags dev')).toBeLessThanOrEqual(2);
    expect(logged.join('\n')).not.toContain('is not read so');
  });

  it.each(['is lost', 'comes after it'])(
    'and is that of the flag before, whose removal %s, is read, though the first read lags',
    async (removal) => {
      await listening({ recentMs: 300 });
      const reading = upstream.hold('flags dev', body(upstream.environment('dev').flags));
      upstream.environment('dev').flags = [aFlag('banner'), aFlag('dark-mode', { state: 'on' })];
      tellFlag('create', 'dark-mode', 1);
      await reading.arrived;
      reading.release();
      if (removal === 'comes after it') {
        await settled();
        tellFlag('delete', 'dark-mode', 1);
      }
      await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'on');
    },
  );

  it('and not shown holds up no change of its list that is announced after it', async () => {
    await listening({}, (_failures, random) => (random < 1 ? HOUR_MS : 1));
    tellFlag('patch', 'dark-mode', 99);
    await becomesLogged('is not read so');
    for (let version = 2; version <= 10; version++) {
      change('banner', version);
      tellFlag('patch', 'banner', version);
      await becomes((seen) => versionIn(seen, 'banner') === version);
    }
    // Others do not use up the patience for it.
    change('dark-mode', 99);
    tellFlag('patch', 'banner', 10);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 99);
    expect(logged.filter((line) => line.includes('is not read so'))).toHaveLength(1);
  });

  it('ends no wait for an upstream that fails, or that asked for it', async () => {
    await listening({}, (_failures, random) => (random < 1 ? HOUR_MS : 1));
    upstream.next('flags dev', refusal(503));
    upstream.next('segments dev', refusal(429, { 'retry-after': '3600' }));
    tellFlag('patch', 'dark-mode', 2);
    tellSegment('patch', 'beta', 2);
    await eventually(
      () => logged.filter((line) => line.includes('trying again')).length,
      (times) => times === 2,
    );
    tellFlag('patch', 'dark-mode', 3);
    tellSegment('patch', 'beta', 3);
    // It is dealt with at once, so all that was told before it has come.
    tellFlag('delete', 'banner', 1);
    await becomes((seen) => !flagIn(seen, 'banner'));
    expect(upstream.asked.toSorted()).toEqual(['flags dev', 'segments dev']);
  });

  it('and not shown holds up no change of another kind', async () => {
    await listening({}, (_failures, _random) => HOUR_MS);
    tellFlag('patch', 'dark-mode', 99);
    await becomesLogged('trying again');
    upstream.environment('dev').segments = [aSegment('beta', { version: 2 })];
    tellSegment('patch', 'beta', 2);
    await becomes((seen) => segmentIn(seen, 'beta')?.version === 2);
  });
});

describe('A read that fails', () => {
  it.each<[string, Answer]>([
    ['with 500', refusal(500)],
    ['with 403', refusal(403)],
    ['with 404', refusal(404)],
    ['with 429', refusal(429, { 'retry-after': '0' })],
    ['by garbage', body('<html>')],
    ['by something that is no list', body({ flags: [] })],
    ['by a connection that breaks', cut],
  ])('%s is repeated until it succeeds, and removes nothing', async (_, failure) => {
    await listening();
    change('dark-mode', 2);
    upstream.next('flags dev', failure, failure, failure);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(upstream.timesAsked('flags dev')).toBe(4);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('as its token was refused is repeated with a new one, at once', async () => {
    await listening({}, () => HOUR_MS);
    upstream.revokeTokens();
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(upstream.asked).toEqual(['flags dev', 'auth', 'flags dev']);
  });

  it('as its token was refused shares the new one with others that were refused', async () => {
    await listening();
    upstream.revokeTokens();
    const reads = [upstream.hold('flags dev'), upstream.hold('segments dev')];
    change('dark-mode', 2);
    upstream.environment('dev').segments = [aSegment('beta', { version: 2 })];
    tellFlag('patch', 'dark-mode', 2);
    tellSegment('patch', 'beta', 2);
    for (const read of reads) await read.arrived;
    reads[0]?.release();
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    reads[1]?.release();
    await becomes((seen) => segmentIn(seen, 'beta')?.version === 2);
    expect(upstream.timesAsked('auth')).toBe(1);
  });

  it('of the account, as its token was refused, is repeated with a new one', async () => {
    const { compared } = await listening();
    upstream.revokeTokens();
    change('dark-mode', 2);
    makeCompare();
    await compared();
    expect(versionIn(await state(), 'dark-mode')).toBe(2);
    expect(upstream.timesAsked('auth')).toBe(1);
  });

  it('holds up nothing that the upstream says outright', async () => {
    await listening({}, () => HOUR_MS);
    upstream.next('flags dev', refusal(500));
    tellFlag('patch', 'dark-mode', 2);
    await becomesLogged('trying again');
    tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: KEY });
    await becomes((seen) => apiKeysOf(seen).length === 0);
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await eventually(facts, (all) => removalsIn(all).includes('EnvironmentRemoved'));
  });

  it('by taking its time holds up nothing that the upstream says outright', async () => {
    await listening();
    const flags = upstream.hold('flags dev');
    tellFlag('patch', 'dark-mode', 2);
    await flags.arrived;
    tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: KEY });
    await becomes((seen) => apiKeysOf(seen).length === 0);
    flags.release();
  });

  it('ends with its environment', async () => {
    await listening();
    upstream.environments['new'] = anEnvironment();
    upstream.next('flags dev', ...Array<Answer>(5).fill(refusal(403)));
    tellFlag('patch', 'dark-mode', 2);
    await becomesLogged('trying again');
    delete upstream.environments['dev'];
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await becomes((seen) => !seen.exists);
    const reads = upstream.timesAsked('flags dev');
    tellFlag('patch', 'dark-mode', 1, 'new');
    await becomes((seen) => seen.exists, 'new');
    expect(upstream.timesAsked('flags dev')).toBeLessThanOrEqual(reads + 1);
    expect((await state()).exists).toBe(false);
  });
});

describe('A list of which a part cannot be used', () => {
  it('is taken as far as it can be, removes nothing, and is logged once', async () => {
    const { compared } = await listening();
    upstream.environment('dev').flags = [
      aFlag('dark-mode', { version: 2, kind: 'colour' as 'string' }),
      aFlag('new'),
    ];
    upstream.environment('dev').segments = [aSegment('beta', { name: 7 as unknown as string })];
    for (let times = 0; times < 3; times++) {
      makeCompare();
      await compared();
    }
    expect(flagsOf(await state()).map(({ feature, version }) => [feature, version])).toEqual([
      ['banner', 1],
      ['dark-mode', 1],
      ['new', 1],
    ]);
    expect(logged.filter((line) => line.includes('dark-mode: kind'))).toHaveLength(1);
    expect(logged.filter((line) => line.includes('beta: name'))).toHaveLength(1);
  });
});

describe('A message that cannot be read', () => {
  it('makes the ingestor compare everything', async () => {
    await listening();
    change('dark-mode', 2);
    upstream.say('data: {"event":"patch","domain":\n\n');
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(upstream.asked).toEqual(['config']);
  });

  it.each<[string, { event: string; [field: string]: unknown }]>([
    ['an SDK key of no environment', { event: 'apiKeyAdded', environments: [], apiKey: OTHER_KEY }],
    ['no SDK key', { event: 'apiKeyAdded', environments: ['dev'] }],
    ['something else for an SDK key', { event: 'apiKeyAdded', environments: ['dev'], apiKey: 'raw' }],
    ['the removal of no environment', { event: 'environmentsRemoved' }],
  ])('with %s makes the ingestor compare everything', async (_, message) => {
    const { compared } = await listening();
    change('dark-mode', 2);
    upstream.tell({ domain: 'proxy', ...message });
    await compared();
    expect(versionIn(await state(), 'dark-mode')).toBe(2);
    expect(apiKeysOf(await state())).toEqual([KEY]);
  });

  it('as its kind is unknown is counted and logged once, and the stream goes on', async () => {
    const { record } = await listening();
    for (let times = 0; times < 3; times++) upstream.tell({ domain: 'flag', event: 'archived' });
    upstream.tell({ domain: 'weather', event: 'rain' });
    await settled();
    const lines = logged.filter((line) => line.includes('does not know'));
    expect(record.unknown).toEqual(
      new Map([
        ['message flag archived', 3],
        ['message weather rain', 1],
      ]),
    );
    expect(lines).toEqual([
      expect.stringContaining('flag archived'),
      expect.stringContaining('weather rain'),
    ]);
  });
});

describe('A flag that a read does not list', () => {
  const without = (feature: string): UpstreamEnvironment =>
    anEnvironment({ flags: anEnvironment().flags.filter((flag) => flag.feature !== feature) });

  it('and the next one does is not removed', async () => {
    const { compared } = await listening();
    upstream.next('config', body(page({ dev: without('dark-mode') })));
    makeCompare();
    await compared();
    expect(upstream.asked).toEqual(['config', 'config dev']);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('and the next one neither is removed', async () => {
    const { compared } = await listening();
    upstream.environments = { dev: without('dark-mode') };
    makeCompare();
    await compared();
    expect(upstream.asked).toEqual(['config', 'config dev']);
    expect(removalsIn(await facts())).toEqual(['FlagRemoved']);
    expect(flagsOf(await state()).map(({ feature }) => feature)).toEqual(['banner']);
  });

  it('is not removed when another is told of and the next read has it again', async () => {
    await listening();
    change('banner', 2);
    upstream.next('flags dev', body([aFlag('banner', { version: 2, state: 'on' })]));
    tellFlag('patch', 'banner', 2);
    await becomes((seen) => versionIn(seen, 'banner') === 2);
    await settled();
    expect(upstream.asked).toContain('config dev');
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('is not removed when the read after it fails', async () => {
    const { compared } = await listening();
    upstream.next('config', body(page({ dev: without('dark-mode') })));
    upstream.next('config dev', refusal(500));
    makeCompare();
    await compared();
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('keeps its place while reads contradict each other, and changes that are sure go in', async () => {
    const { compared } = await listening();
    change('new', 1);
    const [first, second] = [without('dark-mode'), without('banner')];
    for (const { flags } of [first, second]) flags.push(aFlag('new', { state: 'on' }));
    upstream.next('config', body(page({ dev: first })));
    const answers = [second, first, second].map((read) => body(page({ dev: read })));
    upstream.next('config dev', ...answers);
    makeCompare();
    await compared();
    expect(removalsIn(await facts())).toEqual([]);
    expect(flagIn(await state(), 'new')).toBeDefined();
    expect(logged.join('\n')).toContain('contradict each other');
  });
});

describe('A version below the known one', () => {
  const older = { dev: anEnvironment({ flags: [aFlag('dark-mode', { version: 4 }), aFlag('banner')] }) };

  it('is not believed when the next read does not confirm it', async () => {
    change('dark-mode', 5);
    const { compared } = await listening();
    upstream.next('config', body(page(older)));
    makeCompare();
    await compared();
    expect(versionIn(await state(), 'dark-mode')).toBe(5);
    const versions = (await facts()).flatMap((fact) =>
      fact.type === 'FlagPublished' ? [fact.flag.version] : [],
    );
    expect(versions).not.toContain(4);
  });

  it('is believed when the next read confirms it: the upstream was restored from a backup', async () => {
    change('dark-mode', 5);
    const { compared } = await listening();
    upstream.environments = older;
    makeCompare();
    await compared();
    expect(versionIn(await state(), 'dark-mode')).toBe(4);
    expect(logged.join('\n')).toContain('dark-mode from version 5 to 4. Was the upstream restored');
  });
});

describe('A read that contradicts what the log was told a moment ago', () => {
  it('is not believed, though the next one agrees: both may come from a replica that lags', async () => {
    await listening({ recentMs: HOUR_MS });
    change('new', 1);
    tellFlag('create', 'new', 1);
    await becomes((seen) => flagIn(seen, 'new'));
    upstream.environments = { dev: anEnvironment() };
    upstream.asked.length = 0;
    makeCompare();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    tellFlag('patch', 'banner', 1);
    await eventually(
      () => upstream.timesAsked('flags dev'),
      (times) => times === 1,
    );
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('is believed once that is no longer so', async () => {
    const { compared } = await listening({ recentMs: 200 });
    upstream.environments = { dev: anEnvironment({ flags: [aFlag('banner')] }) };
    makeCompare();
    await compared();
    expect(removalsIn(await facts())).toEqual(['FlagRemoved']);
  });

  it('is not believed either where a former process was told', async () => {
    const { ingestor } = await listening();
    await ingestor.stop();
    upstream.asked.length = 0;
    upstream.environments = { dev: anEnvironment({ flags: [aFlag('banner')] }) };
    await start({ recentMs: HOUR_MS });
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    await settled();
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('is believed when it shows what the upstream has announced since', async () => {
    await listeningLongAfter({ recentMs: HOUR_MS });
    tellFlag('delete', 'dark-mode', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    upstream.environment('dev').flags = [aFlag('banner'), aFlag('dark-mode', { state: 'on' })];
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'on');
  });

  it.each([
    ['at once', 0],
    ['after a round trip', 20],
  ])(
    'is believed when it shows a lower version than there was for long, also if the log answers %s',
    async (_, ms) => {
      logAnswersAfter(ms);
      change('dark-mode', 7);
      await listeningLongAfter({ recentMs: HOUR_MS });
      upstream.environment('dev').flags = [aFlag('banner')];
      tellFlag('delete', 'dark-mode', 7);
      await becomes((seen) => !flagIn(seen, 'dark-mode'));
      for (const version of [1, 2]) {
        change('dark-mode', version);
        makeCompare();
        await becomes((seen) => versionIn(seen, 'dark-mode') === version);
      }
    },
  );

  it('is not believed either where it is older, but of a higher version: of before a flag was made anew', async () => {
    await listeningLongAfter({ recentMs: HOUR_MS });
    const lagging = { dev: anEnvironment({ flags: [aFlag('banner'), aFlag('dark-mode', { version: 7 })] }) };
    tellFlag('delete', 'dark-mode', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    change('dark-mode', 2);
    tellFlag('create', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    const before = (await facts()).length;
    upstream.asked.length = 0;
    upstream.next('config', body(page(lagging)));
    upstream.next('config dev', body(page(lagging)));
    makeCompare();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    change('banner', 2);
    tellFlag('patch', 'banner', 2);
    await becomes((seen) => versionIn(seen, 'banner') === 2);
    expect(published(await facts(), before, 'dark-mode')).toEqual([]);
  });

  it('is not believed either where it is of before, at the version at which the flag was made anew', async () => {
    await listening({ recentMs: 1000 });
    const lagging = body(page(structuredClone(upstream.environments)));
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    const before = (await facts()).length;
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 2);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    upstream.next('config', lagging);
    upstream.next('config dev', lagging);
    const anew = aFlag('dark-mode', { state: 'on' });
    upstream.environment('dev').flags = [aFlag('banner'), anew];
    upstream.next('flags dev', body([aFlag('dark-mode'), aFlag('banner')]));
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'on');
    expect(published(await facts(), before, 'dark-mode')).toEqual([
      { type: 'FlagPublished', environment: 'dev', flag: anew },
    ]);
  });

  it('is not believed either where it is of a life before the last one, though that is announced late', async () => {
    await listening({ recentMs: 500 });
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    tellFlag('delete', 'dark-mode', 3);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    const before = (await facts()).length;
    lagsTwice([aFlag('banner'), aFlag('dark-mode', { version: 3 })]);
    tellFlag('patch', 'dark-mode', 3);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(published(await facts(), before, 'dark-mode')).toHaveLength(1);
  });

  it('is not believed either where it is of a life before the last one that a former process knew', async () => {
    change('dark-mode', 5);
    const { ingestor } = await listeningLongAfter({ recentMs: HOUR_MS });
    const lagging = upstream.environment('dev').flags;
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 5);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    change('dark-mode', 1);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 1);
    await ingestor.stop();
    await listening({ recentMs: HOUR_MS });
    const before = (await facts()).length;
    lagsTwice(lagging);
    tellFlag('delete', 'dark-mode', 1);
    tellFlag('patch', 'dark-mode', 5);
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times > 0,
    );
    await settled();
    expect(published(await facts(), before, 'dark-mode')).toEqual([]);
  });

  it('is not believed either where it is of a life of which only the end was told, again', async () => {
    change('dark-mode', 7);
    await listeningLongAfter({ recentMs: HOUR_MS });
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 7);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    tellFlag('delete', 'dark-mode', 1);
    const lagging = body(page({ dev: anEnvironment({ flags: [aFlag('banner'), aFlag('dark-mode')] }) }));
    upstream.next('config', lagging);
    upstream.next('config dev', lagging);
    makeCompare();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    await settled();
    expect(flagIn(await state(), 'dark-mode')).toBeUndefined();
  });

  it('is not believed either where another process told of a life that began anew', async () => {
    change('dark-mode', 5);
    await listeningLongAfter({ recentMs: HOUR_MS });
    const other = new Ledger(log, Date.now);
    await other.load();
    change('dark-mode', 1);
    await other.append([
      { type: 'FlagPublished', environment: 'dev', flag: aFlag('dark-mode', { state: 'on' }) },
      { type: 'FlagPublished', environment: 'dev', flag: aFlag('of-the-other') },
    ]);
    const before = (await facts()).length;
    upstream.environment('dev').flags.push(aFlag('of-the-other'));
    tellFlag('delete', 'of-the-other', 1);
    await becomes((seen) => !flagIn(seen, 'of-the-other'));
    upstream.next('flags dev', body([aFlag('banner'), aFlag('dark-mode', { version: 6 })]));
    tellFlag('patch', 'banner', 1);
    await settled();
    expect(published(await facts(), before, 'dark-mode')).toEqual([]);
  });

  it('of what is gone and is back at worst as it was last is made good by a later one', async () => {
    await listeningLongAfter({ recentMs: 300 });
    const lagging = upstream.environment('dev').flags;
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    upstream.environment('dev').flags = [aFlag('banner'), aFlag('dark-mode', { state: 'on' })];
    lagsTwice(lagging);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'off');
    await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'on');
  });

  it('of what was announced is looked at later, if the next one lags more', async () => {
    const { ingestor } = await listening({ recentMs: 300 });
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    await ingestor.stop();
    await listening({ recentMs: 300 });
    upstream.next('config dev', body(page(structuredClone(upstream.environments))));
    change('dark-mode', 3);
    tellFlag('patch', 'dark-mode', 3);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 3);
  });

  it('is not believed either where it shows no version', async () => {
    upstream.environment('dev').flags = [aFlag('banner'), aFlag('dark-mode', { version: undefined })];
    await listening({ recentMs: HOUR_MS });
    const lagging = body(page(structuredClone(upstream.environments)));
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 0);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    upstream.next('config', lagging);
    upstream.next('config dev', lagging);
    makeCompare();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times === 1,
    );
    await settled();
    expect(flagIn(await state(), 'dark-mode')).toBeUndefined();
  });

  it.each<[string, Answer]>([
    ['is only confirmed later', (_, usual) => usual()],
    ['cannot be confirmed', refusal(500)],
    ['is not confirmed for long', () => undefined],
  ])('holds up no other change of its environment while it %s', async (_, confirmation) => {
    await listening({ recentMs: HOUR_MS }, (failures, random) => (random < 1 ? HOUR_MS : failures));
    change('new', 1);
    tellFlag('create', 'new', 1);
    await becomes((seen) => flagIn(seen, 'new'));
    upstream.environments = { dev: anEnvironment() };
    upstream.next('config dev', confirmation);
    change('banner', 2);
    tellFlag('patch', 'banner', 2);
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times > 0,
    );
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('does not remove an environment that was added a moment ago', async () => {
    await listening({ recentMs: HOUR_MS });
    const lagging = { ...upstream.environments };
    upstream.environments['new'] = anEnvironment();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => seen.exists, 'new');
    upstream.environments = lagging;
    delete upstream.environments['new'];
    makeCompare();
    await becomesLogged('environment new was added a moment ago');
    expect((await state('new')).exists).toBe(true);
  });
});

describe('A removal that is told late, or once more', () => {
  /** A flag that was removed and was made anew. */
  async function withFlagMadeAnew(recentMs: number): Promise<void> {
    await listeningLongAfter({ recentMs });
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    change('dark-mode', 1);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 1);
    upstream.asked.length = 0;
  }

  it.each([5, 1, 0])('at version %i, removes no flag that was made anew a moment ago', async (version) => {
    await withFlagMadeAnew(HOUR_MS);
    tellFlag('delete', 'dark-mode', version);
    await eventually(
      () => upstream.timesAsked('flags dev'),
      (times) => times === 1,
    );
    await settled();
    expect(versionIn(await state(), 'dark-mode')).toBe(1);
    expect(removalsIn(await facts())).toEqual(['FlagRemoved']);
  });

  it('is told apart by reads from one that is true, though the first of them lags', async () => {
    await withFlagMadeAnew(300);
    const lagging = upstream.environment('dev').flags;
    upstream.next('flags dev', body(lagging));
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 1);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    expect(upstream.timesAsked('flags dev')).toBe(1);
  });

  it('and removes a flag that was made anew long ago is made good by a read', async () => {
    await listening();
    tellFlag('delete', 'dark-mode', 5);
    await eventually(facts, (all) => removalsIn(all).includes('FlagRemoved'));
    await becomes((seen) => flagIn(seen, 'dark-mode'));
  });

  it('removes no environment that was added a moment ago', async () => {
    await listening({ recentMs: HOUR_MS });
    upstream.environments['new'] = anEnvironment();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => apiKeysOf(seen).length === 1, 'new');
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await settled();
    expect((await state('new')).exists).toBe(true);
  });

  it('is told apart by comparisons from the true one of an environment that was added a moment ago', async () => {
    await listening({ recentMs: 300 });
    upstream.environments['new'] = anEnvironment();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => apiKeysOf(seen).length === 1, 'new');
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    const lagging = page(upstream.environments);
    delete upstream.environments['new'];
    upstream.next('config', body(lagging));
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await becomes((seen) => !seen.exists, 'new');
  });

  it('and removes an environment that was added long ago is made good by a comparison', async () => {
    await listening();
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await eventually(facts, (all) => removalsIn(all).includes('EnvironmentRemoved'));
    await becomes((seen) => apiKeysOf(seen).length === 1);
  });

  it('as the removal of an SDK key is never doubted', async () => {
    await listening({ recentMs: HOUR_MS });
    for (const event of ['apiKeyRemoved', 'apiKeyAdded', 'apiKeyRemoved']) {
      tellProxy(event, { environments: ['dev'], apiKey: KEY });
    }
    await eventually(facts, (all) => removalsIn(all).length === 2);
    expect(apiKeysOf(await state())).toEqual([]);
  });
});

describe('Two reads that agree', () => {
  it('do not confirm what was known to be otherwise only between them', async () => {
    change('dark-mode', 5);
    await listening();
    const older = page({
      dev: anEnvironment({ flags: [aFlag('dark-mode', { version: 4 }), aFlag('banner')] }),
    });
    const second = upstream.hold('config dev', body(older));
    upstream.next('config', body(older));
    makeCompare();
    await second.arrived;
    change('dark-mode', 6);
    tellFlag('patch', 'dark-mode', 6);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 6);
    const before = (await facts()).length;
    second.release();
    await eventually(
      () => upstream.timesAsked('config dev'),
      (times) => times > 1,
    );
    await settled();
    expect(published(await facts(), before, 'dark-mode')).toEqual([]);
  });
});

describe('An answer that is not the whole and consistent account', () => {
  const both = () => ({ dev: anEnvironment(), prod: anEnvironment() });
  const devOnly = () => ({ dev: anEnvironment() });

  it.each<[string, Answer]>([
    ['an empty list', body({ itemCount: 0, pageCount: 0, environments: [] })],
    ['an empty object', body({})],
    ['an empty body', body('')],
    ['garbage', body('<html>')],
    ['fewer environments than it counts', body(page(devOnly(), { itemCount: 2 }))],
    ['more environments than it counts', body(page(both(), { itemCount: 1 }))],
    [
      'the same environment twice',
      body({ itemCount: 1, pageCount: 1, environments: [{ id: 'dev' }, { id: 'dev' }] }),
    ],
    ['401', refusal(401)],
    ['403', refusal(403)],
    ['404', refusal(404)],
    ['500', refusal(500)],
    ['a connection that breaks', cut],
  ])('removes nothing, however often it comes: %s', async (_, answer) => {
    upstream.environments = both();
    const { compared } = await listening();
    upstream.next('config', answer, answer, answer);
    makeCompare();
    await compared();
    expect(upstream.timesAsked('config')).toBe(4);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it.each<[string, Answer]>([
    ['the environment of the first', body(page(devOnly(), { itemCount: 2, pageCount: 2 }))],
    ['another count', body(page({ prod: anEnvironment() }, { itemCount: 3, pageCount: 2 }))],
    ['another number of pages', body(page({ prod: anEnvironment() }, { itemCount: 2, pageCount: 3 }))],
  ])('removes nothing when its second page has %s', async (_, second) => {
    upstream.environments = both();
    upstream.environmentsPerPage = 1;
    const { compared } = await listening();
    const asUsual: Answer = (_response, usual) => usual();
    upstream.next('config', asUsual, second, asUsual, second);
    makeCompare();
    await compared();
    expect(upstream.timesAsked('config')).toBe(6);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('removes nothing where it leaves out fields, and the lists are read instead', async () => {
    const { compared } = await listening();
    upstream.next(
      'config',
      body({ itemCount: 1, pageCount: 1, environments: [{ id: 'dev', segments: null }] }),
    );
    makeCompare();
    await compared();
    expect(upstream.asked).toEqual(['config', 'flags dev', 'segments dev']);
    expect(removalsIn(await facts())).toEqual([]);
  });
});

describe('An environment that a complete read does not list', () => {
  beforeEach(() => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
  });

  it('and the next one does is not removed', async () => {
    const { compared } = await listening();
    upstream.next('config', body(page({ dev: anEnvironment() })));
    makeCompare();
    await compared();
    expect(upstream.timesAsked('config')).toBe(2);
    expect((await state('prod')).exists).toBe(true);
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('and the next one neither is removed', async () => {
    await listening();
    upstream.environments = { dev: anEnvironment() };
    makeCompare();
    await becomes((seen) => !seen.exists, 'prod');
    expect(upstream.timesAsked('config')).toBe(2);
    expect((await state('dev')).exists).toBe(true);
  });

  it('is not removed when the next read is not complete', async () => {
    const { compared } = await listening();
    upstream.next('config', body(page({ dev: anEnvironment() })), refusal(500));
    makeCompare();
    await compared();
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('comes back, with what it holds then, when two reads list it again', async () => {
    const { compared } = await listening();
    upstream.environments = { dev: anEnvironment() };
    makeCompare();
    await becomes((seen) => !seen.exists, 'prod');
    await compared();
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment({ flags: [aFlag('fresh')] }) };
    makeCompare();
    await becomes((seen) => seen.exists, 'prod');
    await compared();
    expect(flagsOf(await state('prod')).map(({ feature }) => feature)).toEqual(['fresh']);
    expect((await state('prod')).account).toBe('acc');
    expect(upstream.timesAsked('config prod')).toBe(1);
  });
});

describe('An environment that is gone', () => {
  it('comes back whole, though a flag changes between the reads', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    await listening();
    delete upstream.environments['prod'];
    tellProxy('environmentsRemoved', { environments: ['prod'] });
    await becomes((seen) => !seen.exists, 'prod');
    const before = (await facts()).length;
    upstream.environments['prod'] = anEnvironment();
    const confirming = upstream.hold('config prod');
    makeCompare();
    await confirming.arrived;
    change('dark-mode', 2, 'prod');
    confirming.release();
    await becomes((seen) => apiKeysOf(seen).length === 1, 'prod');
    expect(typesOf((await facts()).slice(before))).toEqual([
      'EnvironmentAdded',
      'SegmentPublished',
      'FlagPublished',
      'FlagPublished',
      'ApiKeyAdded',
    ]);
    expect(versionIn(await state('prod'), 'dark-mode')).toBe(2);
  });

  it('and is said to be removed once more is not brought back by reads that lag', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    const { ingestor } = await listening();
    delete upstream.environments['prod'];
    tellProxy('environmentsRemoved', { environments: ['prod'] });
    await becomes((seen) => !seen.exists, 'prod');
    await ingestor.stop();
    wasLongAgo();
    await listening({ recentMs: HOUR_MS });
    upstream.environments['prod'] = anEnvironment();
    tellProxy('environmentsRemoved', { environments: ['prod'] });
    await eventually(
      () => upstream.timesAsked('config prod'),
      (times) => times > 0,
    );
    await settled();
    expect((await state('prod')).exists).toBe(false);
  });
});

describe('An environment that begins', () => {
  const beginning = ['EnvironmentAdded', 'SegmentPublished', 'FlagPublished', 'FlagPublished', 'ApiKeyAdded'];

  it('with lists that the account leaves out has them read before its SDK keys are let in', async () => {
    upstream.leavesOutLists = true;
    await listening();
    expect(typesOf(await facts())).toEqual([...beginning, 'SnapshotCompleted']);
  });

  it('again, with lists that the account leaves out, has them read then too', async () => {
    upstream.leavesOutLists = true;
    upstream.environments['new'] = anEnvironment();
    await listening();
    delete upstream.environments['new'];
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await becomes((seen) => !seen.exists, 'new');
    const before = (await facts()).length;
    upstream.environments['new'] = anEnvironment();
    makeCompare();
    await becomes((seen) => apiKeysOf(seen).length === 1, 'new');
    expect(typesOf((await facts()).slice(before))).toEqual(beginning);
  });

  it('with flags of which none can be used lets nobody in until one can', async () => {
    const usable = upstream.environment('dev').flags;
    upstream.environment('dev').flags = [{ feature: 'no more than a name' } as never];
    await listening();
    expect(apiKeysOf(await state())).toEqual([]);
    upstream.environment('dev').flags = usable;
    makeCompare();
    await becomes((seen) => apiKeysOf(seen).length === 1);
    expect(flagsOf(await state())).toHaveLength(2);
  });
});

describe('An upstream that asks for too much', () => {
  it('by adding environments on every stream is kept waiting longer each time', async () => {
    const waits: number[] = [];
    await listening({}, (failures, random) => {
      if (random < 1) waits.push(failures);
      return 1;
    });
    for (let times = 1; times <= 4; times++) {
      await eventually(
        () => upstream.openStreams,
        (open) => open === 1,
      );
      const before = upstream.timesAsked('stream');
      tellProxy('environmentsAdded', { environments: ['dev'] });
      await eventually(
        () => upstream.timesAsked('stream'),
        (asked) => asked > before,
      );
    }
    expect(waits).toEqual([2, 3, 4]);
  });

  it('by adding environments on every stream is told to be disconnected while it waits, and compared', async () => {
    const { status, compared } = await listening({}, (failures, random) =>
      random < 1 && failures > 1 ? HOUR_MS : 1,
    );
    tellProxy('environmentsAdded', { environments: ['dev'] });
    await compared();
    change('banner', 2);
    tellProxy('environmentsAdded', { environments: ['dev'] });
    await eventually(
      () => status.streamStatus.state,
      (state) => state === 'DISCONNECTED',
    );
    await becomes((seen) => versionIn(seen, 'banner') === 2);
  });

  it('by messages that lead to nothing has comparisons move apart, and is logged once', async () => {
    const distances: number[] = [];
    const { compared } = await listening({}, (failures, random) => {
      if (random === 1) distances.push(failures);
      return 1;
    });
    for (let times = 0; times < 8; times++) {
      tellFlag('patch', 'any', 1, 'unknown-environment');
      await compared();
    }
    await eventually(
      () => distances.length,
      (length) => length >= 7,
    );
    expect(distances.slice(0, 7)).toEqual([1, 2, 3, 4, 4, 4, 4]);
  });

  it('by messages that lead to nothing, among changes that others tell of, has them move apart too', async () => {
    const distances: number[] = [];
    const { compared } = await listening({}, (failures, random) => {
      if (random === 1) distances.push(failures);
      return 1;
    });
    for (let version = 2; version < 8; version++) {
      const read = upstream.hold('config');
      tellFlag('patch', 'any', 1, 'unknown-environment');
      await read.arrived;
      change('banner', version);
      tellFlag('patch', 'banner', version);
      await becomes((seen) => versionIn(seen, 'banner') === version);
      read.release();
      await compared();
    }
    await eventually(
      () => distances,
      (seen) => seen.includes(4),
    );
  });

  it('is not compared again at once, though each comparison finds something', async () => {
    const distances: number[] = [];
    const { compared } = await listening({}, (failures, random) => {
      if (random === 1) distances.push(failures);
      return 1;
    });
    for (let version = 2; version < 8; version++) {
      change('banner', version);
      makeCompare();
      await compared();
    }
    await eventually(
      () => distances.length,
      (length) => length >= 6,
    );
    expect(new Set(distances)).toEqual(new Set([1]));
  });

  it('by garbage without an end is logged once for each comparison', async () => {
    await listening();
    const read = upstream.hold('config');
    makeCompare();
    await read.arrived;
    for (let times = 0; times < 100; times++) makeCompare();
    read.release();
    await becomesLogged('messages of the upstream could not be read');
    await settled();
    expect(logged.filter((line) => line.includes('cannot be read')).length).toBeLessThan(10);
  });
});

describe('SDK keys', () => {
  it('come and go by what the upstream says, without a read', async () => {
    await listening();
    tellProxy('apiKeyAdded', { environments: ['dev'], apiKey: OTHER_KEY });
    await becomes((seen) => apiKeysOf(seen).length === 2);
    tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: KEY });
    await becomes((seen) => apiKeysOf(seen).length === 1);
    expect(apiKeysOf(await state())).toEqual([OTHER_KEY]);
    expect(upstream.asked).toEqual([]);
  });

  it('that are said to be added after their removal are let in, and looked at later: that may have come late', async () => {
    await listening({ recentMs: 300 });
    upstream.environment('dev').apiKeys = [];
    tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: KEY });
    await becomes((seen) => apiKeysOf(seen).length === 0);
    tellProxy('apiKeyAdded', { environments: ['dev'], apiKey: KEY });
    await becomes((seen) => apiKeysOf(seen).length === 1);
    await becomes((seen) => apiKeysOf(seen).length === 0);
  });

  it('that are told of twice are one fact', async () => {
    await listening();
    for (let times = 0; times < 2; times++) {
      tellProxy('apiKeyAdded', { environments: ['dev'], apiKey: OTHER_KEY });
      tellProxy('apiKeyRemoved', { environments: ['dev'], apiKey: 'c'.repeat(64) });
    }
    await settled();
    expect(typesOf(await facts()).filter((type) => type.startsWith('ApiKey'))).toEqual([
      'ApiKeyAdded',
      'ApiKeyAdded',
      'ApiKeyRemoved',
    ]);
  });
});

describe('Environments', () => {
  it('that the stream does not tell of, as its token is older, have it opened anew', async () => {
    await listening({ reconcileIntervalMs: 20 });
    upstream.environments['new'] = anEnvironment();
    await becomes((seen) => seen.exists, 'new');
    await eventually(
      () => upstream.timesAsked('stream'),
      (times) => times === 1,
    );
    await eventually(
      () => upstream.timesAsked('config'),
      (times) => times > 5,
    );
    expect(upstream.timesAsked('stream')).toBe(1);
  });

  it('that are added are read with a new token and a new stream', async () => {
    await listening();
    upstream.environments['new'] = anEnvironment();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => apiKeysOf(seen).length === 1, 'new');
    expect(upstream.asked.slice(0, 2)).toEqual(['auth', 'stream']);
    expect(upstream.asked).toContain('config new');
    change('dark-mode', 2, 'new');
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    tellFlag('patch', 'dark-mode', 2, 'new');
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2, 'new');
  });

  it('that are added are read at once, though the last comparison failed and waits', async () => {
    await listening({}, (_, random) => (random < 1 ? HOUR_MS : 1));
    upstream.next('config', refusal(500));
    makeCompare();
    await becomesLogged('could not be compared');
    upstream.environments['new'] = anEnvironment();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => seen.exists, 'new');
  });

  it('that are added and not listed yet are looked for with a new token each time', async () => {
    await listening();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await eventually(
      () => upstream.timesAsked('config'),
      (times) => times >= 3,
    );
    upstream.environments['new'] = anEnvironment();
    await becomes((seen) => seen.exists, 'new');
    const reads = upstream.asked.filter((asked) => asked === 'auth' || asked === 'config');
    expect(reads.slice(0, 6)).toEqual(['auth', 'config', 'auth', 'config', 'auth', 'config']);
  });

  it('that are added and never listed are given up after eight reads of the account', async () => {
    const { compared } = await listening();
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomesLogged('Environment new was added, and is not listed after 8 reads');
    await compared();
    expect(upstream.timesAsked('config')).toBe(8);
    makeCompare();
    await compared();
    expect(upstream.timesAsked('config')).toBe(9);
  });

  it('that are added and removed before they are listed are not looked for', async () => {
    const { compared } = await listening();
    const read = upstream.hold('config');
    tellProxy('environmentsAdded', { environments: ['new'] });
    await read.arrived;
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await settled();
    read.release();
    await compared();
    expect(upstream.timesAsked('config')).toBe(1);
  });

  it('that are removed are gone with all that they held', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    await listening();
    delete upstream.environments['dev'];
    for (let times = 0; times < 2; times++) tellProxy('environmentsRemoved', { environments: ['dev'] });
    const gone = await becomes((seen) => !seen.exists);
    expect([flagsOf(gone), apiKeysOf(gone)]).toEqual([[], []]);
    change('dark-mode', 2, 'prod');
    tellFlag('patch', 'dark-mode', 2, 'prod');
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2, 'prod');
    expect(removalsIn(await facts())).toEqual(['EnvironmentRemoved']);
    expect(upstream.timesAsked('config dev')).toBe(0);
  });

  it('that are removed while they are read stay removed', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    const { compared } = await listening();
    const { dev = anEnvironment(), ...rest } = upstream.environments;
    const read = upstream.hold('flags dev', body(dev.flags));
    tellFlag('patch', 'dark-mode', 1);
    await read.arrived;
    upstream.environments = rest;
    upstream.next('config dev', body(page({ dev })));
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await becomes((seen) => !seen.exists);
    read.release();
    for (let times = 0; times < 3; times++) {
      makeCompare();
      await compared();
    }
    expect(typesOf(await facts()).filter((type) => type === 'EnvironmentAdded')).toHaveLength(2);
  });
});

describe('A proxy key that is deleted', () => {
  it('takes with it what it gave access to', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    await listening();
    upstream.next('auth', ...Array<Answer>(50).fill(refusal(401)));
    tellProxy('proxyKeyDeleted', { identifier: 'relay-key' });
    await becomes((seen) => !seen.exists, 'dev');
    await becomes((seen) => !seen.exists, 'prod');
    expect(await facts()).toContainEqual({ type: 'ProxyKeyDeleted', identifier: 'relay-key' });
    // The old token is not used any more, good as it may be.
    await eventually(
      () => upstream.timesAsked('auth'),
      (times) => times > 3,
    );
    expect((await state()).exists).toBe(false);
  });

  it('does so at once, though a read is under way, and does not come back by it', async () => {
    const { compared } = await listening();
    const read = upstream.hold('config');
    makeCompare();
    await read.arrived;
    upstream.revokeTokens();
    upstream.next('auth', ...Array<Answer>(5).fill(refusal(401)));
    tellProxy('proxyKeyDeleted');
    await becomes((seen) => !seen.exists);
    const before = (await facts()).length;
    read.release();
    // Until the upstream gives tokens again: then it is all there anew.
    await compared();
    expect(typesOf((await facts()).slice(before))).toEqual([
      'EnvironmentAdded',
      'SegmentPublished',
      'FlagPublished',
      'FlagPublished',
      'ApiKeyAdded',
      'SnapshotCompleted',
    ]);
    expect(upstream.timesAsked('auth')).toBeGreaterThan(5);
  });

  it('takes nothing with it when it is to be kept', async () => {
    await listening({ keepServingOnKeyDeletion: true });
    upstream.next('auth', ...Array<Answer>(5).fill(refusal(401)));
    tellProxy('proxyKeyDeleted');
    upstream.endStreams();
    await eventually(
      () => upstream.timesAsked('auth'),
      (times) => times > 5,
    );
    expect(removalsIn(await facts())).toEqual([]);
    expect(typesOf(await facts())).not.toContain('ProxyKeyDeleted');
  });
});

describe('A stream that breaks', () => {
  it('is opened again, and what changed meanwhile is found', async () => {
    const { status } = await listening();
    const reopening = upstream.hold('stream');
    upstream.endStreams();
    await reopening.arrived;
    expect(status.streamStatus.state).toBe('DISCONNECTED');
    change('dark-mode', 2);
    reopening.release();
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    await eventually(
      () => status.streamStatus.state,
      (now) => now === 'CONNECTED',
    );
    expect(removalsIn(await facts())).toEqual([]);
  });

  it('and cannot be opened leaves reading as the way to learn of changes', async () => {
    await listening();
    upstream.next('stream', ...Array<Answer>(10_000).fill(refusal(503)));
    change('dark-mode', 2);
    upstream.endStreams();
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    change('dark-mode', 3);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 3);
  });

  it('waits longer after each failure, until it is open for long', async () => {
    const failures: number[] = [];
    await listening({}, (failed, random) => {
      // With 1 it is the distance of comparisons.
      if (random < 1) failures.push(failed);
      return 1;
    });
    upstream.next('stream', refusal(503), refusal(503));
    upstream.endStreams();
    await eventually(
      () => failures,
      (seen) => seen.length === 3,
    );
    expect(failures).toEqual([1, 2, 3]);
  });
});

describe('The record of what the ingestor went through', () => {
  it('tells of messages, of what a comparison found, and of each environment', async () => {
    const { record, compared } = await listening();
    change('dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    change('banner', 5);
    makeCompare();
    await compared();
    expect(record.status(['dev', 'prod'])).toMatchObject({
      messages: { read: 1, unreadable: 1, last: { kind: 'flag patch', environment: 'dev' } },
      comparisons: { failed: 0, last: { environments: 1, found: { FlagPublished: 1 } } },
      facts: {
        EnvironmentAdded: 1,
        FlagPublished: 4,
        SegmentPublished: 1,
        ApiKeyAdded: 1,
        SnapshotCompleted: 1,
      },
      failing: {},
      environments: { dev: { comparedAt: expect.any(Number) }, prod: { comparedAt: null } },
    });
  });

  it('tells how long changes took that were told, once each, and not of what comparisons find', async () => {
    const { took, compared } = await listening();
    change('dark-mode', 2);
    for (let times = 0; times < 2; times++) tellFlag('patch', 'dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    upstream.environment('dev').segments = [aSegment('beta', { version: 2 })];
    tellSegment('patch', 'beta', 2);
    await becomes((seen) => segmentIn(seen, 'beta')?.version === 2);
    upstream.environment('dev').segments = [];
    for (let times = 0; times < 2; times++) tellSegment('delete', 'beta', 2);
    await becomes((seen) => !segmentIn(seen, 'beta'));
    change('banner', 2);
    makeCompare();
    await compared();
    expect(versionIn(await state(), 'banner')).toBe(2);
    expect(took).toHaveLength(3);
  });

  it('tells how long a change took since it was announced first, with reads that fail or lag', async () => {
    const { took } = await listening();
    const read = upstream.hold('flags dev', refusal(503));
    upstream.next('flags dev', body([aFlag('dark-mode'), aFlag('banner')]));
    tellFlag('patch', 'dark-mode', 2);
    await read.arrived;
    const first = performance.now();
    tellFlag('patch', 'dark-mode', 3);
    tellFlag('delete', 'banner', 1);
    await becomes((seen) => !flagIn(seen, 'banner'));
    change('dark-mode', 3);
    const last = performance.now();
    read.release();
    await eventually(
      () => took.length,
      (times) => times === 2,
    );
    expect(versionIn(await state(), 'dark-mode')).toBe(3);
    expect(took[1]).toBeGreaterThanOrEqual(last - first);
  });

  it('tells of what fails, until it succeeds', async () => {
    const { record } = await listening({}, (_, random) => (random < 1 ? 50 : 1));
    change('dark-mode', 2);
    upstream.next('flags dev', refusal(503));
    upstream.next('config', refusal(500));
    tellFlag('patch', 'dark-mode', 2);
    makeCompare();
    const failing = await eventually(
      () => new Map(record.failing),
      (seen) => seen.size === 2,
    );
    expect(failing.get('account')).toMatchObject({
      failures: 1,
      reason: expect.stringContaining('answered with 500'),
    });
    expect(failing.get('dev flags')).toMatchObject({
      failures: 1,
      reason: expect.stringContaining('answered with 503'),
    });
    await eventually(
      () => record.failing.size,
      (left) => left === 0,
    );
    expect([record.retries, record.comparisons.failed]).toEqual([2, 1]);
  });

  it('tells no more of what fails and how old environments are once another process leads', async () => {
    const { ingestor, record } = await listening({}, (_, random) => (random < 1 ? HOUR_MS : 1));
    upstream.next('flags dev', refusal(503));
    tellFlag('patch', 'dark-mode', 2);
    await eventually(
      () => record.failing.size,
      (failing) => failing === 1,
    );
    expect(record.comparedAt.size).toBe(1);
    await ingestor.stop();
    expect([record.failing.size, record.comparedAt.size]).toEqual([0, 0]);
  });

  it('tells no more of an environment that is removed while it is read', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    const { record } = await listening();
    upstream.environment('dev').flags = [aFlag('banner')];
    const whole = upstream.hold('config dev', body(page({ dev: anEnvironment() })));
    tellFlag('patch', 'banner', 1);
    await whole.arrived;
    delete upstream.environments['dev'];
    tellProxy('environmentsRemoved', { environments: ['dev'] });
    await becomes((seen) => !seen.exists);
    whole.release();
    change('banner', 2, 'prod');
    tellFlag('patch', 'banner', 2, 'prod');
    await becomes((seen) => versionIn(seen, 'banner') === 2, 'prod');
    expect([...record.comparedAt.keys()]).toEqual(['prod']);
  });

  it('tells of fields that are new, once each, and the field is kept', async () => {
    const { record } = await listening();
    upstream.environment('dev').flags = [
      { ...aFlag('dark-mode', { version: 2 }), colour: 'red' } as ReturnType<typeof aFlag>,
      aFlag('banner'),
    ];
    tellFlag('patch', 'dark-mode', 2);
    const seen = await becomes((held) => versionIn(held, 'dark-mode') === 2);
    expect(flagIn(seen, 'dark-mode')).toMatchObject({ colour: 'red' });
    expect(record.unknown.get('field flag.colour')).toBe(1);
    expect(logged.filter((line) => line.includes('flag.colour'))).toHaveLength(1);
  });
});

describe('A relay that does not listen', () => {
  it('opens no stream, and finds by comparing what changed', async () => {
    const { status } = await start({ listening: false, reconcileIntervalMs: 20 });
    await becomes((seen) => flagIn(seen, 'dark-mode'));
    change('dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    upstream.environments['new'] = anEnvironment();
    await becomes((seen) => seen.exists, 'new');
    expect(upstream.timesAsked('stream')).toBe(0);
    expect(status.streamStatus.state).toBe('DISCONNECTED');
  });
});

describe('A new proxy key', () => {
  it('is used at once, and changes nothing where it opens the same environments', async () => {
    const { ingestor, compared } = await listening();
    const before = await facts();
    upstream.revokeTokens();
    upstream.next('stream', refusal(401), refusal(401));
    upstream.endStreams();
    ingestor.proxyKeyChanged();
    await compared();
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    expect(await facts()).toEqual(before);
  });

  it('ends the wait for an upstream that refused the old one', async () => {
    const { ingestor } = await listening({}, (_, random) => (random < 1 ? HOUR_MS : 1));
    upstream.revokeTokens();
    upstream.endStreams();
    await becomesLogged('connecting again in 3600 s');
    await becomesLogged('trying again in 3600 s');
    ingestor.proxyKeyChanged();
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
  });

  it('brings back what was removed with a deleted one', async () => {
    const { ingestor, compared } = await listening();
    upstream.next('auth', ...Array<Answer>(50).fill(refusal(401)));
    tellProxy('proxyKeyDeleted');
    upstream.revokeTokens();
    await becomes((seen) => !seen.exists);
    upstream.forget('auth');
    ingestor.proxyKeyChanged();
    await becomes((seen) => seen.exists && flagsOf(seen).length === 2);
    await compared();
    expect(ingestor.isComplete).toBe(true);
  });
});

describe('The account', () => {
  it('is compared again and again, whatever the stream says', async () => {
    await listening({ reconcileIntervalMs: 20 });
    change('dark-mode', 2);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
    change('dark-mode', 3);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 3);
  });

  it('as it was when it was read does not bring back a flag that was made anew meanwhile', async () => {
    await listening();
    const reading = upstream.hold('config', body(page({ dev: anEnvironment() })));
    makeCompare();
    await reading.arrived;
    upstream.environment('dev').flags = [aFlag('dark-mode', { state: 'on' }), aFlag('banner')];
    tellFlag('delete', 'dark-mode', 1);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => flagIn(seen, 'dark-mode')?.state === 'on');
    expect(await publishedBy(reading.release, 'dark-mode')).toEqual([]);
  });

  it('as it was when it was read does not bring back a flag of before it was made anew at a lower version', async () => {
    change('dark-mode', 7);
    await listening();
    const reading = upstream.hold('config', body(page(structuredClone(upstream.environments))));
    makeCompare();
    await reading.arrived;
    upstream.environment('dev').flags = [aFlag('banner')];
    tellFlag('delete', 'dark-mode', 7);
    await becomes((seen) => !flagIn(seen, 'dark-mode'));
    change('dark-mode', 1);
    tellFlag('create', 'dark-mode', 1);
    await becomes((seen) => versionIn(seen, 'dark-mode') === 1);
    expect(await publishedBy(reading.release, 'dark-mode')).toEqual([]);
  });

  it.each([
    ['together', 0],
    ['one after the other', 50],
  ])(
    'as it was when it was read does not pass for newer by a higher version, with facts acknowledged %s',
    async (_, ms) => {
      await listening();
      logAnswersAfter(ms, 'banner');
      const reading = upstream.hold(
        'config',
        body(page({ dev: anEnvironment({ flags: [aFlag('banner'), aFlag('dark-mode', { version: 3 })] }) })),
      );
      makeCompare();
      await reading.arrived;
      change('banner', 2);
      change('dark-mode', 2);
      tellFlag('patch', 'dark-mode', 2);
      await becomes((seen) => versionIn(seen, 'dark-mode') === 2);
      expect(await publishedBy(reading.release, 'dark-mode')).toEqual([]);
    },
  );

  it('as it was when it was read adds nothing to an environment that came back meanwhile', async () => {
    upstream.environments['new'] = anEnvironment();
    await listening();
    const reading = upstream.hold('config', body(page(structuredClone(upstream.environments))));
    makeCompare();
    await reading.arrived;
    delete upstream.environments['new'];
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await becomes((seen) => !seen.exists, 'new');
    upstream.environments['new'] = anEnvironment({ flags: [aFlag('banner')], apiKeys: [OTHER_KEY] });
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomes((seen) => apiKeysOf(seen).length === 1, 'new');
    const before = (await facts()).length;
    const times = upstream.timesAsked('config new');
    reading.release();
    await eventually(
      () => upstream.timesAsked('config new'),
      (now) => now > times,
    );
    await settled();
    expect(
      (await facts()).slice(before).filter((fact) => 'environment' in fact && fact.environment === 'new'),
    ).toEqual([]);
  });

  it('that leaves out lists is compared with what is read of them', async () => {
    upstream.leavesOutLists = true;
    const { compared } = await listening();
    upstream.environments = {
      dev: anEnvironment({ flags: [aFlag('dark-mode', { version: 2 })], segments: [] }),
    };
    makeCompare();
    await compared();
    const seen = await state();
    expect([flagsOf(seen), segmentsOf(seen)]).toEqual([[aFlag('dark-mode', { version: 2 })], []]);
  });

  it('that changed under the same version is taken over', async () => {
    const { compared } = await listening();
    upstream.environment('dev').flags = [aFlag('dark-mode', { state: 'on' }), aFlag('banner')];
    makeCompare();
    await compared();
    expect(flagIn(await state(), 'dark-mode')?.state).toBe('on');
  });
});

describe('Once in an interval the account', () => {
  const intervalMs = 300;
  const lost = 'ff.facts.v1.dev.flag.banner';

  it('is compared with what the log holds then, though comparisons are asked for without an end', async () => {
    await listening({ reconcileIntervalMs: intervalMs });
    keepAsking();
    loseFromLog(lost);
    await becomes((seen) => flagIn(seen, 'banner'));
  });

  it('is compared with what the log holds then, though comparisons fail without an end', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    await listening({ reconcileIntervalMs: intervalMs }, () => 20);
    // A flag is gone, and nobody says whether that is so.
    upstream.environment('prod').flags = [];
    upstream.next('config prod', ...Array<Answer>(10_000).fill(refusal(500)));
    makeCompare();
    await becomesLogged('could not be compared');
    loseFromLog(lost);
    await becomes((seen) => flagIn(seen, 'banner'));
  });

  it('is read with a new token, though comparisons are asked for without an end', async () => {
    await listening({ reconcileIntervalMs: intervalMs });
    listsWhatTheTokenOpens();
    upstream.environments['new'] = anEnvironment();
    keepAsking();
    await becomes((seen) => seen.exists, 'new');
  });
});

describe('Stopping', () => {
  it('ends the stream, reads that are under way and waits for the next try', async () => {
    upstream.environments = { dev: anEnvironment(), prod: anEnvironment() };
    const { ingestor } = await listening({}, (_, random) => (random < 1 ? HOUR_MS : 1));
    const flags = upstream.hold('flags dev');
    const config = upstream.hold('config');
    upstream.next('flags prod', refusal(500));
    tellFlag('patch', 'dark-mode', 2);
    tellFlag('patch', 'dark-mode', 2, 'prod');
    makeCompare();
    await Promise.all([flags.arrived, config.arrived, becomesLogged('Environment prod')]);
    await ingestor.stop();
    await eventually(
      () => upstream.openStreams,
      (open) => open === 0,
    );
    expect(upstream.asked.toSorted()).toEqual(['config', 'flags dev', 'flags prod']);
  });

  it('ends the wait for an upstream that is not there', async () => {
    upstream.close();
    const { ingestor } = await start({}, () => HOUR_MS);
    await becomesLogged('connecting again');
    await ingestor.stop();
  });

  it('is possible before anything has come', async () => {
    upstream.hold('auth');
    const { ingestor } = await start();
    await ingestor.stop();
    expect(await facts()).toEqual([]);
  });
});
