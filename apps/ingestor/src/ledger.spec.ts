import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { apiKeysOf, type EnvironmentFact, factIn, flagIn, flagsOf } from '#libs/domain';
import { EmbeddedEventLog, UnexpectedSequence } from '#libs/event-log';

import { aFlag } from '../../../libs/domain/src/builders.suite.js';
import { Ledger } from './ledger.js';

const KEY = 'a'.repeat(64);

const added: EnvironmentFact = { type: 'EnvironmentAdded', environment: 'dev', account: 'acc' };
const removed: EnvironmentFact = { type: 'EnvironmentRemoved', environment: 'dev' };
const keyAdded: EnvironmentFact = { type: 'ApiKeyAdded', environment: 'dev', apiKey: KEY };
const flagAt = (version: number): EnvironmentFact => ({
  type: 'FlagPublished',
  environment: 'dev',
  flag: aFlag('dark-mode', { version }),
});

let folder: string;
let log: EmbeddedEventLog;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ff-relay-ledger-'));
  log = await EmbeddedEventLog.open(folder);
});
afterEach(async () => {
  await log.close();
  await rm(folder, { recursive: true });
});

async function loadedLedger(): Promise<Ledger> {
  const ledger = new Ledger(log, () => 0);
  await ledger.load();
  return ledger;
}

async function bodies(): Promise<string[]> {
  const all: string[] = [];
  for await (const messages of log.latest('FF_FACTS')) all.push(...messages.map(({ body }) => body));
  return all;
}

describe('The ledger', () => {
  it('knows what it appended, and so does one that reads the log after it', async () => {
    const ledger = await loadedLedger();
    await ledger.append([added, flagAt(1), keyAdded]);
    await ledger.append([flagAt(2)]);
    expect(flagIn(ledger.environment('dev'), 'dark-mode')?.version).toBe(2);
    expect(ledger.environments()).toEqual(['dev']);

    const restarted = await loadedLedger();
    expect(restarted.environment('dev')).toEqual(ledger.environment('dev'));
    expect(restarted.environment('dev').account).toBe('acc');
    expect(restarted.environments()).toEqual(['dev']);
  });

  it('goes on after the last message of each subject when it has read the log', async () => {
    await (await loadedLedger()).append([added, flagAt(1)]);
    const restarted = await loadedLedger();
    await restarted.append([flagAt(2)]);
    expect(flagIn(restarted.environment('dev'), 'dark-mode')?.version).toBe(2);
  });

  it('writes the facts in the order in which they are given', async () => {
    await (await loadedLedger()).append([added, flagAt(1), keyAdded]);
    expect((await bodies()).map((body) => factIn(body).type)).toEqual([
      'EnvironmentAdded',
      'FlagPublished',
      'ApiKeyAdded',
    ]);
  });

  it('does nothing for no facts', async () => {
    await (await loadedLedger()).append([]);
    expect((await log.head('FF_FACTS')).sequence).toBe(0);
  });

  it('is refused where somebody else has written, and knows then what they wrote', async () => {
    const [one, other] = [await loadedLedger(), await loadedLedger()];
    await one.append([added, flagAt(5)]);
    await expect(other.append([added, flagAt(3)])).rejects.toThrow(UnexpectedSequence);
    expect(flagIn(other.environment('dev'), 'dark-mode')?.version).toBe(5);
    await other.append([flagAt(6)]);
    await expect(one.append([flagAt(7)])).rejects.toThrow(UnexpectedSequence);
    expect(flagIn(one.environment('dev'), 'dark-mode')?.version).toBe(6);
    expect((await bodies()).map(factIn)).toEqual([added, flagAt(6)]);
  });

  it('takes the same fact after the same predecessor for a repeat, whoever appends it', async () => {
    const [one, other] = [await loadedLedger(), await loadedLedger()];
    await one.append([added, flagAt(1)]);
    await other.append([added, flagAt(1)]);
    expect((await log.head('FF_FACTS')).sequence).toBe(2);
    expect(other.environment('dev')).toEqual(one.environment('dev'));
  });

  it('keeps what was appended beside a fact that was refused', async () => {
    const [one, other] = [await loadedLedger(), await loadedLedger()];
    await one.append([added, flagAt(2)]);
    await expect(other.append([flagAt(1), keyAdded])).rejects.toThrow(UnexpectedSequence);
    expect(apiKeysOf(other.environment('dev'))).toEqual([KEY]);
    expect((await loadedLedger()).environment('dev')).toEqual(other.environment('dev'));
  });

  it('reads on after a message that cannot be read, and can replace it', async () => {
    await (await loadedLedger()).append([added, flagAt(1), keyAdded]);
    const subject = 'ff.facts.v1.dev.flag.dark-mode';
    await log.append('FF_FACTS', { subject, id: 'garbage', body: '{"specversion":' });

    const restarted = await loadedLedger();
    expect(flagsOf(restarted.environment('dev'))).toEqual([]);
    expect(apiKeysOf(restarted.environment('dev'))).toEqual([KEY]);
    await restarted.append([flagAt(1)]);
    expect(flagIn((await loadedLedger()).environment('dev'), 'dark-mode')?.version).toBe(1);
  });

  it('starts an environment that is added again without what it held before', async () => {
    const ledger = await loadedLedger();
    await ledger.append([added, flagAt(1), keyAdded]);
    await ledger.append([removed]);
    expect(ledger.environments()).toEqual([]);
    await ledger.append([added]);
    expect(ledger.environments()).toEqual(['dev']);
    expect(flagsOf(ledger.environment('dev'))).toEqual([]);
    await ledger.append([flagAt(1)]);
    const restarted = await loadedLedger();
    expect(flagsOf(restarted.environment('dev')).map(({ version }) => version)).toEqual([1]);
    expect(apiKeysOf(restarted.environment('dev'))).toEqual([]);
  });

  it('knows whether the whole account was there since the proxy key was last deleted', async () => {
    const ledger = await loadedLedger();
    expect(ledger.snapshotCompleted).toBe(false);
    await ledger.append([added, { type: 'SnapshotCompleted', account: 'acc', environments: 1 }]);
    expect((await loadedLedger()).snapshotCompleted).toBe(true);
    expect(ledger.leftBehind()).toEqual([]);

    await ledger.append([{ type: 'ProxyKeyDeleted', identifier: '' }]);
    expect([ledger.snapshotCompleted, ledger.leftBehind()]).toEqual([false, ['dev']]);
    expect((await loadedLedger()).leftBehind()).toEqual(['dev']);

    await ledger.append([removed]);
    await ledger.append([added, { type: 'SnapshotCompleted', account: 'acc', environments: 1 }]);
    const restarted = await loadedLedger();
    expect([restarted.snapshotCompleted, restarted.leftBehind()]).toEqual([true, []]);
  });
});
