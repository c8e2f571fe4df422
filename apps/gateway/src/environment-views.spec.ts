import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import {
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  type Fact,
  factBody,
  factSubject,
  type Flag,
  flagIn,
  type Position,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, type LoggedMessage, UnknownEpoch } from '#libs/event-log';
import type { UpstreamSnapshot } from '#libs/observability';
import { MemoryStateStore } from '#libs/state-store';

import { EnvironmentViews, type Jump } from './environment-views.js';

const at = (sequence: number, epoch = 'e1'): Position => ({ epoch, sequence });
const added: EnvironmentFact = { type: 'EnvironmentAdded', environment: 'dev', account: 'acme' };
const flag = (version: number): EnvironmentFact => ({
  type: 'FlagPublished',
  environment: 'dev',
  flag: { feature: 'a', version } as Flag,
});
const logged = (fact: Fact, sequence: number, epoch = 'e1'): LoggedMessage => ({
  subject: factSubject(fact),
  body: factBody(fact, { id: String(sequence), time: 1 }),
  position: at(sequence, epoch),
  time: 1,
});

/** A log whose tails are told by hand: each call gets the next one's messages, then fails or goes on for ever. */
class ToldLog {
  readonly followedFrom: (Position | undefined)[] = [];
  private readonly followed = new Map<number, PromiseWithResolvers<void>>();

  reachable = true;
  /** What the ingestor said last of its link. */
  link: UpstreamSnapshot | undefined;
  /** What `latest` says. */
  holds: LoggedMessage[] = [];
  private told = Promise.withResolvers<LoggedMessage[]>();
  private heads = 0;
  private readonly headWanted = new Map<number, () => void>();

  constructor(
    private readonly tails: { messages: LoggedMessage[]; failure?: Error }[],
    public end = at(0),
  ) {}

  async head(): Promise<Position> {
    this.headWanted.get(++this.heads)?.();
    return this.end;
  }

  /** Resolves when the views have asked so often where the log ends. */
  askedForHead(times: number): Promise<void> {
    return this.heads >= times
      ? Promise.resolve()
      : new Promise((done) => void this.headWanted.set(times, done));
  }

  async recall(): Promise<unknown> {
    return this.link;
  }

  async *latest() {
    yield this.holds;
  }

  /** Says more in the tail that is read now. */
  tell(messages: LoggedMessage[]): void {
    this.told.resolve(messages);
  }

  async *tail(_stream: string, after: Position | undefined, signal: AbortSignal) {
    const { messages, failure } = this.tails[this.followedFrom.push(after) - 1] ?? { messages: [] };
    if (messages.length > 0) yield messages;
    this.call(this.followedFrom.length).resolve();
    if (failure) throw failure;
    const stopped = new Promise<LoggedMessage[]>((done) => signal.addEventListener('abort', () => done([])));
    yield await Promise.race([this.told.promise, stopped]);
    await stopped;
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
  const stored = async (version: number, epoch = 'e1') => {
    const state = evolve(evolve(unknownEnvironment('dev'), added, 1), flag(version), 2);
    await store.replace(state, epoch, (await store.positions()).get('dev'));
    await store.begin({ position: at(2, epoch), complete: true, writer: 'projector' });
  };
  const snapshot: Fact = { type: 'SnapshotCompleted', account: 'acme', environments: 1 };

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
    const log = new ToldLog([{ messages: [] }], at(3));
    log.holds = [logged(added, 1), logged(flag(1), 2), logged(snapshot, 3)];
    const started = start(log);
    await started.complete;
    await log.takenIn(1);
    expect(log.followedFrom).toEqual([at(3)]);
    expect(versionIn(started)).toBe(1);
  });

  it('are not complete when the log goes on to say that the proxy key was deleted', async () => {
    await store.begin({ position: at(0), complete: false, writer: 'projector' });
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

  const jumps = (of: EnvironmentViews) => {
    const seen: unknown[] = [];
    of.jumps.subscribe(({ environments }) =>
      seen.push(...environments.map(({ before, after }) => [versionOf(before), versionOf(after)])),
    );
    return seen;
  };
  const versionOf = (state: EnvironmentState | undefined) => state && flagIn(state, 'a')?.version;
  const lost = { messages: [], failure: new UnknownEpoch('e1 is gone') };

  it('keep what they know of a log that was lost, until the store holds the one that took its place', async () => {
    await stored(5);
    const log = new ToldLog([lost]);
    const started = start(log);
    const seen = jumps(started);
    await log.takenIn(1);
    log.end = at(2, 'e2');
    await log.askedForHead(3);
    expect(versionIn(started)).toBe(5);
    await stored(1, 'e2');
    await log.takenIn(2);
    expect(log.followedFrom).toEqual([at(2), at(2, 'e2')]);
    expect(versionIn(started)).toBe(1);
    expect(seen).toEqual([[5, 1]]);
  });

  it('keep what they know of a log that lost its newest facts, until it was compared with the upstream', async () => {
    await stored(5);
    const log = new ToldLog([lost], at(1));
    log.holds = [logged(added, 1)];
    const started = start(log);
    await log.askedForHead(4);
    expect(versionIn(started)).toBe(5);
    expect(log.followedFrom).toEqual([at(2)]);
    log.end = at(3);
    log.holds = [logged(added, 1), logged(flag(6), 2), logged(snapshot, 3)];
    log.link = {
      stream: { state: 'CONNECTED', since: 1 },
      config: { state: 'SYNCED', since: 1 },
      lastAgreedMs: Date.now() + 1000,
      at: Date.now(),
    };
    await log.takenIn(2);
    expect(log.followedFrom).toEqual([at(2), at(3)]);
    expect(versionIn(started)).toBe(6);
  });

  it('take a log that was made anew as it is when the store is away', async () => {
    await stored(5);
    const log = new ToldLog([lost]);
    const started = start(log);
    await log.takenIn(1);
    Object.defineProperty(store, 'reachable', { value: false });
    store.progress = () => Promise.reject(new Error('made to fail'));
    log.end = at(3, 'e2');
    log.holds = [logged(added, 1, 'e2'), logged(flag(2), 2, 'e2')];
    await log.askedForHead(4);
    expect(versionIn(started)).toBe(5);
    log.holds = [...log.holds, logged(snapshot, 3, 'e2')];
    await log.takenIn(2);
    expect(log.followedFrom).toEqual([at(2), at(3, 'e2')]);
    expect(versionIn(started)).toBe(2);
  });

  it('start from the store alone when the log is away', async () => {
    await stored(5);
    const log = new ToldLog([{ messages: [], failure: new Error('made to fail') }]);
    log.head = () => Promise.reject(new Error('made to fail'));
    const started = start(log);
    await started.complete;
    expect(versionIn(started)).toBe(5);
  });

  it('follow the store while the log is away, and say for which facts that stands', async () => {
    await stored(1);
    const log = new ToldLog([]);
    const started = start(log);
    await log.takenIn(1);
    const seen: Jump[] = [];
    started.jumps.subscribe((jump) => seen.push(jump));
    log.reachable = false;
    const state = evolve(evolve(unknownEnvironment('dev'), added, 1), flag(2), 3);
    await store.replace(state, 'e1', (await store.positions()).get('dev'));
    await store.advance({ position: at(3), complete: true, writer: 'projector' });
    await started.level();
    expect(versionIn(started)).toBe(2);
    expect(seen.map(({ over }) => over)).toEqual([{ epoch: 'e1', after: 2, until: 3 }]);
  });

  it('are level with the store before a request is answered, if that takes no longer than a moment', async () => {
    await stored(1);
    const log = new ToldLog([]);
    const started = start(log);
    await started.complete;
    await started.level();
    await store.advance({ position: at(3), complete: true, writer: 'projector' });
    let isLevel = false;
    const level = started.level().then(() => (isLevel = true));
    await new Promise((done) => setImmediate(done));
    expect(isLevel).toBe(false);
    log.tell([logged(flag(2), 3)]);
    await level;
    expect(versionIn(started)).toBe(2);
  });

  it('answer with what they have when the store does not answer, and do not ask again at once', async () => {
    await stored(1);
    const started = start(new ToldLog([]));
    await started.complete;
    let asked = 0;
    store.progress = () => new Promise(() => void asked++);
    await Promise.all([started.level(), started.level()]);
    await started.level();
    expect(asked).toBe(1);
  });
});
