import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import {
  type EnvironmentFact,
  type EnvironmentState,
  factBody,
  factSubject,
  fold,
  unknownEnvironment,
} from '#libs/domain';
import { EmbeddedEventLog, type EventLog } from '#libs/event-log';
import { MemoryStateStore, type StateStore } from '#libs/state-store';

import {
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
} from '../../domain/src/builders.suite.js';
import { type Again, compare, foldLog, leadOn, type LogFold, rebuild, StoreInUse } from './index.js';

describe('A store beside the log', () => {
  let folder: string;
  let log: EventLog;
  let store: StateStore;
  let appended: number;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-rebuild-'));
    log = await EmbeddedEventLog.open(folder);
    store = new MemoryStateStore();
    appended = 0;
  });
  afterEach(async () => {
    await log.close();
    await rm(folder, { recursive: true });
  });

  const append = async (...facts: EnvironmentFact[]) => {
    for (const fact of facts) {
      const envelope = { id: String(++appended), time: 0 };
      await log.append('FF_FACTS', {
        subject: factSubject(fact),
        id: envelope.id,
        body: factBody(fact, envelope),
      });
    }
  };
  const put = async (state: EnvironmentState) => {
    const { epoch } = await log.head('FF_FACTS');
    await store.replace(state, epoch, (await store.positions()).get(state.id));
  };
  /** The store as a projector has it that is level. */
  const project = async () => {
    for (const state of (await foldLog(log)).states.values()) await put(state);
  };
  const againIn =
    (folded: LogFold): Again =>
    (id, at) =>
      leadOn(log, folded, id, at);
  const rebuilt = async (folded: LogFold, patienceMs = 0) =>
    rebuild(store, folded, againIn(folded), { patienceMs });
  const compared = async (folded: LogFold, patienceMs = 0) =>
    compare(store, folded, againIn(folded), { patienceMs });

  it('that agrees is left as it is', async () => {
    await append(
      environmentAdded(),
      flagPublished('a'),
      environmentAdded('gone'),
      environmentRemoved('gone'),
    );
    await project();
    const folded = await foldLog(log);
    expect(await compared(folded)).toEqual({ compared: 2, differing: [], unknown: [] });
    expect(await rebuilt(folded)).toEqual({ compared: 2, replaced: [], removed: 0 });
  });

  it('is made right where it is wrong, and nowhere else', async () => {
    await append(environmentAdded(), flagPublished('a'), environmentAdded('prod'), apiKeyAdded('0a', 'prod'));
    await project();
    const folded = await foldLog(log);
    const right = folded.states.get('prod') ?? unknownEnvironment('prod');
    await put({ ...right, apiKeys: new Map() });
    await put(fold(unknownEnvironment('stranger'), [{ fact: environmentAdded('stranger'), sequence: 1 }]));

    const found = { compared: 2, differing: ['prod'], unknown: ['stranger'] };
    expect(await compared(folded)).toEqual(found);
    // Comparing changed nothing.
    expect(await compared(folded)).toEqual(found);
    expect(await rebuilt(folded)).toEqual({ compared: 2, replaced: ['prod'], removed: 1 });
    expect(await store.environmentOf('0a')).toBe('prod');
    expect(await compared(folded)).toEqual({ compared: 2, differing: [], unknown: [] });
  });

  it('that moved on since the log was read is compared where it is', async () => {
    await append(environmentAdded(), flagPublished('a'));
    const folded = await foldLog(log);
    await append(flagPublished('a', 2), flagPublished('b'));
    await project();
    await append(flagPublished('a', 3));
    expect(await compared(folded)).toMatchObject({ differing: [] });
    expect(await rebuilt(folded)).toMatchObject({ replaced: [] });

    const state = (await store.environment('dev'))?.state ?? unknownEnvironment('dev');
    await put({ ...state, flags: new Map() });
    expect(await compared(folded)).toMatchObject({ differing: ['dev'] });
    expect(await rebuilt(folded)).toMatchObject({ replaced: ['dev'] });
    expect((await store.flag('dev', 'a'))?.version).toBe(2);
  });

  it('that catches up within the patience is not wrong', async () => {
    await append(environmentAdded(), flagPublished('a'));
    await project();
    await append(flagPublished('a', 2));
    const folded = await foldLog(log);
    const looking = compared(folded, 20_000);
    const replacing = rebuilt(folded, 20_000);
    await project();
    expect(await looking).toMatchObject({ differing: [] });
    expect(await replacing).toMatchObject({ replaced: [] });
  });

  it('that stays behind is wrong', async () => {
    await append(environmentAdded(), flagPublished('a'));
    await project();
    await append(flagPublished('a', 2), environmentAdded('new'));
    const folded = await foldLog(log);
    expect(await compared(folded, 1)).toMatchObject({ differing: ['dev', 'new'] });
    expect(await rebuilt(folded, 1)).toMatchObject({ replaced: ['dev', 'new'] });
    expect((await store.flag('dev', 'a'))?.version).toBe(2);
  });

  it('that changes at every look is left to who changes it', async () => {
    await append(environmentAdded());
    const folded = await foldLog(log);
    const moving = Object.assign(Object.create(store) as StateStore, {
      holds: async () => {
        await append(flagPublished('a', appended));
        await project();
        return false;
      },
    });
    await expect(rebuild(moving, folded, againIn(folded))).rejects.toThrow(StoreInUse);
  });
});
