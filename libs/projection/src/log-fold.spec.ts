import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type Fact, factBody, factSubject, flagsOf, unknownEnvironment } from '#libs/domain';
import { EmbeddedEventLog, type EventLog } from '#libs/event-log';

import { environmentAdded, flagPublished, flagRemoved } from '../../domain/src/builders.suite.js';
import { foldLog } from './index.js';

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
