import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type Fact, factBody, factSubject, flagIn, flagsOf, unknownEnvironment } from '#libs/domain';
import { EmbeddedEventLog, type EventLog } from '#libs/event-log';
import { MemoryStateStore, type StateStore } from '#libs/state-store';

import {
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
} from '../../domain/src/builders.suite.js';
import { foldLog, LogFold, rebuild, StoreInUse } from './index.js';

const snapshot: Fact = { type: 'SnapshotCompleted', account: 'demo', environments: 1 };
const keyDeleted: Fact = { type: 'ProxyKeyDeleted', identifier: 'relay' };

let folder: string;
let log: EmbeddedEventLog;
let ids = 0;
beforeEach(async () => {
  Logger.overrideLogger(false);
  folder = await mkdtemp(join(tmpdir(), 'ff-relay-projection-'));
  log = await EmbeddedEventLog.open(folder);
});
afterEach(async () => {
  await log.close();
  await rm(folder, { recursive: true });
});

const happen = async (...facts: Fact[]) => {
  for (const fact of facts) {
    const id = `fact-${++ids}`;
    await log.append('FF_FACTS', { subject: factSubject(fact), id, body: factBody(fact, { id, time: 1 }) });
  }
};
/** The log, to which something is appended as soon as it was asked where it ends. */
const appendedMeanwhile = (...facts: Fact[]): EventLog =>
  new Proxy<EventLog>(log, {
    get: (_, name) => {
      if (name !== 'head') return Reflect.get(log, name).bind(log);
      return async () => {
        const head = await log.head('FF_FACTS');
        await happen(...facts);
        return head;
      };
    },
  });

describe('The fold of the log', () => {
  it('says what is true now, where that was so, and whether that is all', async () => {
    await happen(environmentAdded(), flagPublished('a', 1), flagPublished('a', 2), flagPublished('b'));
    const before = await foldLog(log);
    expect([before.complete, before.decided]).toEqual([false, false]);
    await happen(flagRemoved('b'), snapshot);
    const fold = await foldLog(log);
    expect(flagsOf(fold.states.get('dev') ?? unknownEnvironment(''))).toMatchObject([
      { feature: 'a', version: 2 },
    ]);
    expect(fold.position).toEqual(await log.head('FF_FACTS'));
    expect([fold.complete, fold.decided]).toEqual([true, true]);
    await happen(keyDeleted);
    const after = await foldLog(log);
    expect([after.complete, after.decided]).toEqual([false, true]);
  });

  it('of one environment holds nothing about others', async () => {
    await happen(environmentAdded(), environmentAdded('prod'), flagPublished('a', 1, 'prod'));
    expect([...(await foldLog(log, 'prod')).states.keys()]).toEqual(['prod']);
  });

  it('holds all facts up to its position, though more are appended while it is made', async () => {
    await happen(environmentAdded(), flagPublished('a', 1), flagPublished('b', 1));
    const fold = await foldLog(appendedMeanwhile(flagPublished('c', 1), flagPublished('a', 2)));
    const state = fold.states.get('dev') ?? unknownEnvironment('');
    expect(fold.position.sequence).toBe(5);
    expect(flagsOf(state).map(({ feature, version }) => `${feature} ${version}`)).toEqual([
      'a 2',
      'b 1',
      'c 1',
    ]);
  });
});

describe('A rebuild', () => {
  let store: StateStore;
  beforeEach(() => {
    store = new MemoryStateStore();
  });
  const never = () => Promise.reject(new Error('nothing moved on'));

  it('replaces what differs, removes what the log does not know, and leaves the rest alone', async () => {
    await happen(environmentAdded(), flagPublished('a'), apiKeyAdded('k'));
    await happen(environmentAdded('prod'), flagPublished('a', 1, 'prod'));
    const fold = await foldLog(log);
    await rebuild(store, fold, never);
    await happen(flagPublished('a', 2));
    const stranger = new LogFold({ ...fold.position, sequence: 1 });
    await store.replace(
      { ...unknownEnvironment('stranger'), exists: true },
      stranger.position.epoch,
      undefined,
    );

    const progress: string[] = [];
    const rebuilt = await rebuild(store, await foldLog(log), never, (done, of) =>
      progress.push(`${done}/${of}`),
    );
    expect(rebuilt).toMatchObject({ compared: 2, replaced: ['dev'], removed: 1 });
    expect(progress).toEqual(['1/2', '2/2']);
    expect(await store.environments()).toEqual(['dev', 'prod']);
    expect((await store.flag('dev', 'a'))?.version).toBe(2);
    expect(await rebuild(store, await foldLog(log), never)).toEqual({
      compared: 2,
      replaced: [],
      removed: 0,
    });
  });

  it('takes an environment as the log says it by then, when the store has moved on meanwhile', async () => {
    await happen(environmentAdded(), flagPublished('a', 1));
    const old = await foldLog(log);
    await happen(flagPublished('a', 2));
    await rebuild(store, await foldLog(log), never);
    const again = async (id: string) => (await foldLog(log, id)).states.get(id) ?? unknownEnvironment(id);
    expect(await rebuild(store, old, again)).toMatchObject({ replaced: [] });
    const state = (await store.environment('dev'))?.state;
    expect(state && flagIn(state, 'a')?.version).toBe(2);
  });

  it('gives up an environment that moves on all the time, and says so', async () => {
    await happen(environmentAdded());
    const old = await foldLog(log);
    await happen(flagPublished('a'));
    await rebuild(store, await foldLog(log), never);
    const behind = async () => old.states.get('dev') ?? unknownEnvironment('dev');
    await expect(rebuild(store, old, behind)).rejects.toThrow(StoreInUse);
  });

  it('keeps a removed environment removed', async () => {
    await happen(environmentAdded(), flagPublished('a'));
    await rebuild(store, await foldLog(log), never);
    await happen(environmentRemoved());
    await rebuild(store, await foldLog(log), never);
    expect(await store.environments()).toEqual([]);
    expect(await rebuild(store, await foldLog(log), never)).toMatchObject({ replaced: [], removed: 0 });
  });
});
