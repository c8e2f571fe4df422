import { cp, mkdir, mkdtemp, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type BundleEnvironment, writeBundle } from '#libs/bundle';
import { apiKeysOf, type Fact, factBody, factSubject, flagsOf } from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';
import { UpstreamStatus } from '#libs/observability';
import { foldLog } from '#libs/projection';

import { aFlag, aSegment } from '../../../libs/domain/src/builders.suite.js';
import { BundleIngestor, type BundleIngestorOptions } from './bundle-ingestor.js';
import { IngestorRecord } from './ingestor-record.js';

const key = (digit: string) => digit.repeat(64);
const dev: BundleEnvironment = {
  id: 'dev',
  account: 'acme',
  flags: [aFlag('dark-mode'), aFlag('theme')],
  segments: [aSegment('beta')],
  apiKeys: [key('a')],
};
const prod: BundleEnvironment = { ...dev, id: 'prod', apiKeys: [key('b')] };

describe('An ingestor of a directory', () => {
  let folder: string;
  let directory: string;
  let log: EmbeddedEventLog;
  let status: UpstreamStatus;
  let record: IngestorRecord;
  let running: { readonly stop: AbortController; readonly ended: Promise<void> } | undefined;
  let said: string[];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-bundle-ingestor-'));
    directory = join(folder, 'config');
    log = await EmbeddedEventLog.open(join(folder, 'data'));
    said = [];
    const say = (text: unknown) => said.push(String(text));
    Logger.overrideLogger({ log: say, warn: say, error: say });
  });
  afterEach(async () => {
    await stop();
    await log.close();
    await rm(folder, { recursive: true });
  });

  const start = (options: Partial<BundleIngestorOptions> = {}): BundleIngestor => {
    status = new UpstreamStatus();
    record = new IngestorRecord();
    const ingestor = new BundleIngestor(log, status, record, {
      directory,
      rereadMs: 60_000,
      lookEveryMs: 5,
      settledMs: 0,
      ...options,
    });
    const stopping = new AbortController();
    running = { stop: stopping, ended: ingestor.run(stopping.signal) };
    return ingestor;
  };
  const stop = async () => {
    running?.stop.abort();
    await running?.ended;
    running = undefined;
  };
  const write = async (...environments: BundleEnvironment[]) => {
    const time = new Date().toISOString();
    const origin = { source: 'log', position: null, time, writtenAt: time, complete: true } as const;
    await writeBundle(directory, environments, origin, { replaces: true });
  };
  /** The log, once it holds that. */
  const logged = async (holds: (fold: Awaited<ReturnType<typeof foldLog>>) => boolean) => {
    for (;;) {
      const fold = await foldLog(log);
      if (holds(fold)) return fold;
      await delay(5);
    }
  };
  const told = async (pattern: RegExp) => {
    while (!said.some((line) => pattern.test(line))) await delay(5);
  };
  const versionOf = (fold: Awaited<ReturnType<typeof foldLog>>, flag: string, environment = 'dev') =>
    fold.states.get(environment)?.flags.get(flag)?.value?.version;

  it('brings all of it into the log, and says when the account is complete', async () => {
    await write(dev, prod);
    const ingestor = start();
    const { states } = await logged((fold) => fold.complete);
    expect([...states.keys()].toSorted()).toEqual(['dev', 'prod']);
    expect(flagsOf(states.get('dev')!)).toEqual(dev.flags);
    expect(states.get('dev')?.account).toBe('acme');
    await told(/2 environments/);
    expect(ingestor.isComplete).toBe(true);
    expect(status.streamStatus.state).toBe('CONNECTED');
    expect(ingestor.details()).toMatchObject({ bundle: { directory, refused: null } });
  });

  it('appends what differs when files change, and nothing when it starts again', async () => {
    await write(dev, prod);
    start();
    const before = await logged((fold) => fold.complete);
    await write(
      { ...dev, flags: [aFlag('dark-mode', { version: 2, state: 'on' })], segments: [] },
      { ...prod, id: 'new', apiKeys: [key('c')] },
    );
    const after = await logged((fold) => fold.states.get('new')?.exists === true && fold.complete);
    await told(/differences/);
    await logged((fold) => fold.states.get('new')?.apiKeys.size === 1);
    // prod is gone; of dev a flag changed, one is gone and so is the group; new has an environment, 2 flags, a group, a key.
    expect((await log.head('FF_FACTS')).sequence - before.position.sequence).toBe(4 + 5);
    expect(versionOf(after, 'dark-mode')).toBe(2);
    expect(after.states.get('prod')?.exists).toBe(false);
    await stop();
    const { sequence } = await log.head('FF_FACTS');
    const again = start();
    await told(/, 0 differences/);
    expect(again.isComplete).toBe(true);
    expect((await log.head('FF_FACTS')).sequence).toBe(sequence);
  });

  it('takes an SDK key out of one environment before it lets it into another', async () => {
    await write(dev, prod);
    start();
    await logged((fold) => fold.complete);
    await write({ ...dev, apiKeys: [key('b')] }, { ...prod, apiKeys: [key('a')] });
    const { states } = await logged(
      (fold) =>
        apiKeysOf(fold.states.get('prod')!)[0] === key('a') && apiKeysOf(fold.states.get('dev')!).length > 0,
    );
    const entry = (environment: string, digit: string) => states.get(environment)?.apiKeys.get(key(digit));
    expect(apiKeysOf(states.get('dev')!)).toEqual([key('b')]);
    expect(entry('dev', 'b')!.sequence).toBeGreaterThan(entry('prod', 'b')!.sequence);
    expect(entry('prod', 'a')!.sequence).toBeGreaterThan(entry('dev', 'a')!.sequence);
  });

  it.each<[string, RegExp, () => Promise<void>]>([
    [
      'a file is cut off',
      /theme|cut off|changed/,
      () => truncate(join(directory, 'env-dev/feature_config.json'), 50),
    ],
    ['a file is gone', /segments\.json: it is missing/, () => rm(join(directory, 'env-prod/segments.json'))],
    [
      'an environment is gone',
      /env-prod: is missing/,
      () => rm(join(directory, 'env-prod'), { recursive: true }),
    ],
    ['all of it is gone', /no such directory/, () => rm(directory, { recursive: true })],
    [
      'it is empty',
      /it has no folder/,
      () => rm(directory, { recursive: true }).then(() => mkdir(directory)),
    ],
  ])(
    'keeps the last good state when %s, says why, and goes on when it is put right',
    async (_, reason, spoil) => {
      await write(dev, prod);
      const ingestor = start();
      const before = await logged((fold) => fold.complete);
      await told(/is served/);
      await spoil();
      await told(reason);
      expect(said.filter((line) => reason.test(line))).toHaveLength(1);
      expect(said.join('\n')).toContain('What was known before is served');
      expect(ingestor.details()).toMatchObject({
        bundle: { refused: { reason: expect.stringMatching(reason) } },
      });
      expect(record.failing.get('bundle')?.reason).toMatch(reason);
      expect((await foldLog(log)).position).toEqual(before.position);
      expect(status.streamStatus.state).toBe('CONNECTED');
      await stop();

      // A restart with a directory that cannot be used serves what the log holds.
      expect(start().isComplete).toBe(false);
      await told(reason);
      await rm(directory, { recursive: true, force: true });
      await write({ ...dev, flags: [aFlag('dark-mode', { version: 9 })] }, prod);
      await logged((fold) => versionOf(fold, 'dark-mode') === 9);
      await told(/can be used again/);
      expect(record.failing.size).toBe(0);
    },
  );

  it('without anything it could use says so, is not ready, and takes it when it comes', async () => {
    const ingestor = start();
    await told(/There is nothing to serve until it is put right/);
    expect(ingestor.details()).toMatchObject({ notReadyBecause: expect.stringContaining(directory) });
    await write(dev);
    await logged((fold) => fold.complete);
  });

  it('reads a directory without a manifest only when nothing in it has changed for a while', async () => {
    await write(dev, prod);
    await rm(join(directory, 'manifest.json'));
    const half = join(folder, 'half');
    await cp(directory, half, { recursive: true });
    await rename(directory, join(folder, 'whole'));
    start({ settledMs: 1500 });
    // Environment by environment, as a copy does it.
    await mkdir(directory);
    for (const name of ['env-dev', 'env-prod']) {
      await cp(join(half, name), join(directory, name), { recursive: true });
      await delay(30);
    }
    await logged((fold) => fold.complete);
    await told(/is served/);
    expect(said.filter((line) => /is served/.test(line))).toEqual([
      expect.stringMatching(/: 2 environments, /),
    ]);
    expect(said.filter((line) => /is missing/.test(line))).toEqual([]);
    await writeFile(join(directory, 'env-dev/segments.json'), '[]');
    await logged((fold) => fold.states.get('dev')?.segments.get('beta')?.value === undefined);
  });

  it('fills a log again that was lost beside it', async () => {
    await write(dev);
    start({ rereadMs: 20 });
    const { position } = await logged((fold) => fold.complete);
    // Somebody else removes a flag from the log.
    const fact: Fact = { type: 'FlagRemoved', environment: 'dev', identifier: 'theme', version: 1 };
    const id = 'of another';
    await log.append('FF_FACTS', {
      subject: factSubject(fact),
      id,
      body: factBody(fact, { id, time: Date.now() }),
    });
    await logged((fold) => fold.position.sequence > position.sequence + 1);
    expect(versionOf(await foldLog(log), 'theme')).toBe(1);
  });
});
