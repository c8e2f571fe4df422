import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import {
  type EnvironmentFact,
  evolve,
  type Fact,
  factBody,
  factSubject,
  type Flag,
  flagIn,
  type Position,
  unknownEnvironment,
} from '#libs/domain';
import type { EventLog, LoggedMessage } from '#libs/event-log';
import { MemoryStateStore } from '#libs/state-store';

import { EnvironmentViews } from './environment-views.js';

const at = (sequence: number, epoch = 'e1'): Position => ({ epoch, sequence });
const added: EnvironmentFact = { type: 'EnvironmentAdded', environment: 'dev', account: 'acme' };
const flag = (version: number): EnvironmentFact => ({
  type: 'FlagPublished',
  environment: 'dev',
  flag: { feature: 'a', version } as Flag,
});
const logged = (fact: Fact, sequence: number): LoggedMessage => ({
  subject: factSubject(fact),
  body: factBody(fact, { id: String(sequence), time: 1 }),
  position: at(sequence),
  time: 1,
});

/** A log whose tails are told by hand: each call gets the next one's messages, then fails or goes on for ever. */
class ToldLog {
  readonly followedFrom: (Position | undefined)[] = [];
  private readonly followed = new Map<number, PromiseWithResolvers<void>>();

  constructor(
    private readonly tails: { messages: LoggedMessage[]; failure?: Error }[],
    private readonly end = at(0),
  ) {}

  async head(): Promise<Position> {
    return this.end;
  }

  async *tail(_stream: string, after: Position | undefined, signal: AbortSignal) {
    const { messages, failure } = this.tails[this.followedFrom.push(after) - 1] ?? { messages: [] };
    if (messages.length > 0) yield messages;
    this.call(this.followedFrom.length).resolve();
    if (failure) throw failure;
    await new Promise((done) => signal.addEventListener('abort', done));
  }

  /** Resolves when the views have taken in all that the tail told. */
  takenIn(tail: number): Promise<void> {
    return this.call(tail).promise;
  }

  private call(tail: number): PromiseWithResolvers<void> {
    const call = this.followed.get(tail) ?? Promise.withResolvers<void>();
    this.followed.set(tail, call);
    return call;
  }
}

describe('The views of a gateway', () => {
  let store: MemoryStateStore;
  let views: EnvironmentViews | undefined;
  beforeEach(() => {
    Logger.overrideLogger(false);
    store = new MemoryStateStore();
  });
  afterEach(() => views?.stop());

  const start = (log: ToldLog) => {
    views = new EnvironmentViews(log as unknown as EventLog, store);
    views.start();
    return views;
  };
  const versionIn = (of: EnvironmentViews) => {
    const state = of.environment('dev');
    return state && flagIn(state, 'a')?.version;
  };
  const stored = async (version: number) => {
    const state = evolve(evolve(unknownEnvironment('dev'), added, 1), flag(version), 2);
    await store.replace(state, at(2));
    await store.advance({ position: at(2), complete: true });
  };

  it('start from the store and follow the log from there', async () => {
    await stored(1);
    const log = new ToldLog([{ messages: [logged(flag(2), 3)] }]);
    const started = start(log);
    await started.complete;
    await log.takenIn(1);
    expect(log.followedFrom).toEqual([at(2)]);
    expect(versionIn(started)).toBe(2);
  });

  it('start from the log alone when the store is empty', async () => {
    const snapshot: Fact = { type: 'SnapshotCompleted', account: 'acme', environments: 1 };
    const log = new ToldLog([{ messages: [logged(added, 1), logged(flag(1), 2), logged(snapshot, 3)] }]);
    const started = start(log);
    await started.complete;
    expect(log.followedFrom).toEqual([undefined]);
    expect(versionIn(started)).toBe(1);
  });

  it('are not complete when the log goes on to say that the proxy key was deleted', async () => {
    const snapshot: Fact = { type: 'SnapshotCompleted', account: 'acme', environments: 1 };
    const deleted: Fact = { type: 'ProxyKeyDeleted', identifier: 'relay' };
    const first = { messages: [logged(added, 1), logged(snapshot, 2)], failure: new Error('made to fail') };
    const log = new ToldLog([first, { messages: [logged(deleted, 3)] }], at(3));
    const started = start(log);
    let complete = false;
    void started.complete.then(() => (complete = true));
    await log.takenIn(2);
    await Promise.resolve();
    expect(complete).toBe(false);
  });

  it.each([
    ['is behind', () => Promise.resolve()],
    ['was lost', async () => void (store = Object.assign(store, new MemoryStateStore()))],
  ])('never go back when the log fails and the store %s', async (_, happensToTheStore) => {
    await stored(1);
    const log = new ToldLog([{ messages: [logged(flag(2), 3)], failure: new Error('made to fail') }]);
    const started = start(log);
    await log.takenIn(1);
    await happensToTheStore();
    await log.takenIn(2);
    expect(log.followedFrom).toEqual([at(2), at(3)]);
    expect(versionIn(started)).toBe(2);
  });

  it('take the store anew when it holds a log that was made anew', async () => {
    await stored(5);
    const log = new ToldLog([{ messages: [], failure: new Error('another epoch') }]);
    const started = start(log);
    await log.takenIn(1);
    await store.replace(evolve(evolve(unknownEnvironment('dev'), added, 1), flag(1), 2), at(2, 'e2'));
    await store.advance({ position: at(2, 'e2'), complete: true });
    await log.takenIn(2);
    expect(log.followedFrom).toEqual([at(2), at(2, 'e2')]);
    expect(versionIn(started)).toBe(1);
  });
});
