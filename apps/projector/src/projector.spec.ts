import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc from 'fast-check';

import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  type Fact,
  factBody,
  factSubject,
  type Flag,
  flagsOf,
  foldInto,
  type Notice,
  noticeIn,
  type Position,
  segmentsOf,
  type SequencedFact,
} from '#libs/domain';
import { EmbeddedEventLog, type EventLog, type NewMessage, type StreamName } from '#libs/event-log';
import { type EnvironmentChange, MemoryStateStore, type StateStore } from '#libs/state-store';

import { Projector } from './projector.js';

const flag = (feature: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'FlagPublished',
  environment,
  flag: { feature, version, environment, state: 'on' } as Flag,
});
const noFlag = (identifier: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'FlagRemoved',
  environment,
  identifier,
  version,
});
const segment = (identifier: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'SegmentPublished',
  environment,
  segment: { identifier, name: identifier, version },
});
const noSegment = (identifier: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'SegmentRemoved',
  environment,
  identifier,
  version,
});
const key = (apiKey: string, environment = 'dev'): EnvironmentFact => ({
  type: 'ApiKeyAdded',
  environment,
  apiKey,
});
const noKey = (apiKey: string, environment = 'dev'): EnvironmentFact => ({
  type: 'ApiKeyRemoved',
  environment,
  apiKey,
});
const added = (environment = 'dev'): EnvironmentFact => ({
  type: 'EnvironmentAdded',
  environment,
  account: 'demo',
});
const removed = (environment = 'dev'): EnvironmentFact => ({ type: 'EnvironmentRemoved', environment });
const snapshot: Fact = { type: 'SnapshotCompleted', account: 'demo', environments: 1 };

interface Told {
  readonly notice: Notice;
  readonly of: Position;
}

/** Functions that throw to make the log fail. */
interface Before {
  append(stream: StreamName, message: NewMessage): void;
  remember(): void;
  tail(): void;
}

/** The log, with means to watch it and to make it fail. */
function watched(log: EventLog): { readonly log: EventLog; readonly before: Before } {
  const before: Before = { append: () => undefined, remember: () => undefined, tail: () => undefined };
  const changed: Partial<EventLog> = {
    async append(stream, message) {
      before.append(stream, message);
      return log.append(stream, message);
    },
    async remember(name, value) {
      before.remember();
      await log.remember(name, value);
    },
    async *tail(stream, after, signal) {
      before.tail();
      yield* log.tail(stream, after, signal);
    },
  };
  const unchanged = (name: PropertyKey): unknown => {
    const member: unknown = Reflect.get(log, name);
    return typeof member === 'function' ? member.bind(log) : member;
  };
  return {
    log: new Proxy(log, { get: (_, name) => Reflect.get(changed, name) ?? unchanged(name) }),
    before,
  };
}

/** A store that can be watched and that can fail. */
class WatchedStore extends MemoryStateStore {
  /** Throws to make it fail. */
  beforeApply: (change: EnvironmentChange) => void = () => undefined;

  override async apply(change: EnvironmentChange, epoch: string) {
    this.beforeApply(change);
    return super.apply(change, epoch);
  }
}

/** A function that throws the first time, and the promise that it did. */
function failure(when: (...given: never[]) => boolean = () => true) {
  const { promise, resolve } = Promise.withResolvers<void>();
  let failed = false;
  const once = (...given: never[]) => {
    if (failed || !when(...given)) return;
    failed = true;
    resolve();
    throw new Error('made to fail');
  };
  return { once, happened: promise };
}

describe('The projector', () => {
  let folder: string;
  let log: EmbeddedEventLog;
  let running: Projector[];
  let ids = 0;

  beforeEach(async () => {
    Logger.overrideLogger(false);
    folder = await mkdtemp(join(tmpdir(), 'projector-'));
    log = await EmbeddedEventLog.open(folder);
    running = [];
  });
  afterEach(async () => {
    await stopAll();
    await log.close();
    await rm(folder, { recursive: true });
  });

  const stopAll = async () => {
    for (const projector of running.splice(0)) await projector.stop();
  };
  const start = async (on: EventLog = log, store: StateStore = new MemoryStateStore()) => {
    const projector = new Projector(on, store);
    projector.start();
    running.push(projector);
    while (!projector.status()['leading'] || !projector.status().ready) await delay(5);
    return store;
  };
  /** As if the process had ended and begun again. */
  const restart = async (store: StateStore = new MemoryStateStore()) => {
    await stopAll();
    await log.close();
    log = await EmbeddedEventLog.open(folder);
    return start(log, store);
  };
  /** Appended together, so that they are likely to be delivered together. */
  const happen = (...facts: readonly Fact[]) =>
    Promise.all(
      facts.map((fact) => {
        const id = `fact-${++ids}`;
        return log.append('FF_FACTS', {
          subject: factSubject(fact),
          id,
          body: factBody(fact, { id, time: 1 }),
        });
      }),
    );

  /** Everything that was told when the projector is done with all facts: a last fact is told last. */
  const allTold = async (): Promise<readonly Told[]> => {
    const [mark] = await happen(key(`mark-${++ids}`, 'mark'));
    const told: Told[] = [];
    for await (const messages of log.tail('FF_CHANGES', undefined, new AbortController().signal)) {
      const portion = messages.map(({ body }) => noticeIn(body));
      told.push(...portion.filter(({ notice }) => notice.environment !== 'mark'));
      if (portion.some(({ of }) => of.sequence === mark?.sequence)) break;
    }
    return told;
  };
  const brief = (told: readonly Told[]) =>
    told.map(
      ({ notice: { event, kind, identifier, version } }) => `${event} ${kind} ${identifier} ${version}`,
    );

  const contentOf = (state: EnvironmentState | undefined) =>
    state && {
      flags: flagsOf(state),
      segments: segmentsOf(state),
      keys: apiKeysOf(state),
      account: state.account,
    };
  const content = async (store: StateStore) => {
    const ids = (await store.environments()).filter((id) => id !== 'mark').toSorted();
    const stored = await Promise.all(ids.map((id) => store.environment(id)));
    return stored.map((environment, i) => [
      ids[i],
      contentOf(environment?.state),
      environment?.position.sequence,
    ]);
  };

  describe('keeps the store', () => {
    it('equal to the fold of the facts', async () => {
      const store = await start();
      await happen(
        added(),
        flag('a'),
        segment('s'),
        key('k'),
        flag('b'),
        flag('a', 2),
        noFlag('b'),
        key('l'),
      );
      await happen(noKey('l'), segment('s', 2));
      await allTold();
      expect(contentOf((await store.environment('dev'))?.state)).toEqual({
        flags: [expect.objectContaining({ feature: 'a', version: 2 })],
        segments: [expect.objectContaining({ identifier: 's', version: 2 })],
        keys: ['k'],
        account: 'demo',
      });
      expect(await store.environmentOf('k')).toBe('dev');
    });

    it('equal to the log before it has started, with all that happened without it', async () => {
      await happen(added(), flag('a'), flag('a', 2), key('k'), snapshot);
      const store = await start();
      expect(await store.flag('dev', 'a')).toMatchObject({ version: 2 });
      expect(await store.environmentOf('k')).toBe('dev');
      expect(await store.progress()).toMatchObject({ position: await log.head('FF_FACTS'), complete: true });
    });

    it('told how much of the log it holds, and complete from the snapshot on', async () => {
      const store = await start();
      await happen(added(), flag('a'));
      await allTold();
      expect(await store.progress()).toMatchObject({ position: await log.head('FF_FACTS'), complete: false });
      await happen(snapshot);
      await allTold();
      expect(await store.progress()).toMatchObject({ position: await log.head('FF_FACTS'), complete: true });
    });

    it('free of an environment that was removed, and of its former life when it is added again', async () => {
      const store = await start();
      await happen(added(), flag('old'), key('k'), removed());
      await allTold();
      expect(await store.environments()).not.toContain('dev');
      expect(await store.environmentOf('k')).toBeUndefined();
      await happen(added(), flag('new'));
      await allTold();
      expect(contentOf((await store.environment('dev'))?.state)).toMatchObject({
        flags: [{ feature: 'new' }],
        keys: [],
      });
    });

    it('the same whether fact by fact or rebuilt from the log (P4)', async () => {
      const environment = fc.constantFrom('dev', 'prod');
      const name = fc.constantFrom('a', 'b', 'c');
      const version = fc.integer({ min: 1, max: 5 });
      const fact = fc.oneof(
        { weight: 6, arbitrary: fc.tuple(name, version, environment).map((given) => flag(...given)) },
        { weight: 3, arbitrary: fc.tuple(name, version, environment).map((given) => noFlag(...given)) },
        { weight: 3, arbitrary: fc.tuple(name, version, environment).map((given) => segment(...given)) },
        { weight: 2, arbitrary: fc.tuple(name, version, environment).map((given) => noSegment(...given)) },
        { weight: 3, arbitrary: fc.tuple(name, environment).map(([of, env]) => key(`${env}-${of}`, env)) },
        { weight: 2, arbitrary: fc.tuple(name, environment).map(([of, env]) => noKey(`${env}-${of}`, env)) },
        { weight: 3, arbitrary: environment.map(added) },
        { weight: 1, arbitrary: environment.map(removed) },
      );
      await fc.assert(
        fc.asyncProperty(fc.array(fact, { minLength: 1, maxLength: 60 }), async (facts) => {
          await rm(folder, { recursive: true });
          const incremental = await restart();
          const positions = await happen(...facts);
          await allTold();
          const rebuilt = await restart();

          const sequenced: SequencedFact<EnvironmentFact>[] = facts.map((fact, i) => ({
            fact,
            sequence: positions[i]?.sequence ?? 0,
          }));
          const states = new Map<string, EnvironmentState>();
          foldInto(states, sequenced);
          const expected = [...states.values()]
            .filter(({ exists }) => exists)
            .toSorted((a, b) => (a.id < b.id ? -1 : 1))
            .map((state) => [state.id, contentOf(state), state.sequence]);
          expect(await content(incremental)).toEqual(expected);
          expect(await content(rebuilt)).toEqual(expected);
        }),
        { numRuns: 10 },
      );
    });
  });

  describe('tells', () => {
    it('what was created, changed and deleted, each with its version', async () => {
      await start();
      await happen(
        added(),
        flag('a', 3),
        flag('a', 4),
        noFlag('a', 5),
        flag('a', 1),
        segment('s', 1),
        segment('s', 2),
        noSegment('s', 2),
        key('k'),
        noKey('k'),
        removed(),
      );
      expect(brief(await allTold())).toEqual([
        'create environment dev 0',
        'create flag a 3',
        'patch flag a 4',
        'delete flag a 5',
        'create flag a 1',
        'create segment s 1',
        'patch segment s 2',
        'delete segment s 2',
        'create apikey k 0',
        'delete apikey k 0',
        'delete environment dev 0',
      ]);
    });

    it('of each change, which fact made it', async () => {
      await start();
      const positions = await happen(added(), flag('a'), flag('a', 2));
      expect((await allTold()).map(({ of }) => of)).toEqual(positions);
    });

    it('nobody about the snapshot', async () => {
      await start();
      await happen(added(), snapshot);
      expect(brief(await allTold())).toEqual(['create environment dev 0']);
    });

    it('only what the store holds', async () => {
      const toldTooEarly: EnvironmentChange[] = [];
      const toldOf = new Set<number>();
      const { log: fallible, before } = watched(log);
      before.append = (_, { body }) => void toldOf.add(noticeIn(body).of.sequence);
      const store = new WatchedStore();
      store.beforeApply = (change) => {
        const { before, after } = change;
        const isNew = (sequence: number) => sequence > before.sequence && sequence <= after.sequence;
        if (before.id === 'dev' && [...toldOf].some(isNew)) toldTooEarly.push(change);
      };
      await start(fallible, store);
      await happen(added(), flag('a'), flag('b'));
      await happen(flag('a', 2), noFlag('b'));
      const told = await allTold();
      expect(toldTooEarly).toEqual([]);
      expect(told.every(({ of }) => toldOf.has(of.sequence))).toBe(true);
    });

    it('nothing after a restart when nothing has changed (P6)', async () => {
      const store = await start();
      await happen(added(), flag('a'), key('k'), snapshot);
      const told = brief(await allTold());
      await restart();
      expect(brief(await allTold())).toEqual(told);
      await restart(store);
      expect(brief(await allTold())).toEqual(told);
    });

    it('what happened while it was away, once', async () => {
      await start();
      await happen(added(), flag('a'));
      await allTold();
      await stopAll();
      await happen(flag('a', 2));
      await restart();
      expect(brief(await allTold())).toEqual([
        'create environment dev 0',
        'create flag a 1',
        'patch flag a 2',
      ]);
    });

    it('after a restart what it had stored and not told yet, once', async () => {
      const { log: fallible, before } = watched(log);
      const store = await start(fallible);
      await happen(added(), flag('a'));
      await allTold();
      const { promise: stopped, resolve } = Promise.withResolvers<void>();
      before.append = () => {
        resolve();
        throw new Error('the process is as good as dead');
      };
      await happen(flag('a', 2));
      await stopped;
      expect(await store.flag('dev', 'a')).toMatchObject({ version: 2 });
      await restart(store);
      expect(brief(await allTold())).toEqual([
        'create environment dev 0',
        'create flag a 1',
        'patch flag a 2',
      ]);
    });

    it('after a restart nothing twice that was told by one that could not keep its place', async () => {
      const { log: fallible, before } = watched(log);
      const { promise: stopped, resolve } = Promise.withResolvers<void>();
      await start(fallible);
      before.remember = () => {
        resolve();
        throw new Error('the process is as good as dead');
      };
      await happen(added(), flag('a'));
      await stopped;
      await restart();
      expect(brief(await allTold())).toEqual(['create environment dev 0', 'create flag a 1']);
    });
  });

  describe('loses nothing, doubles nothing and turns nothing round', () => {
    const story = [added(), flag('a'), flag('b'), flag('a', 2), noFlag('a', 3), flag('c'), flag('a', 1)];
    const told = [
      'create environment dev 0',
      'create flag a 1',
      'create flag b 1',
      'patch flag a 2',
      'delete flag a 3',
      'create flag c 1',
      'create flag a 1',
    ];
    const ofA = told.filter((line) => line.includes('flag a'));

    const expectTheStory = async (store: StateStore) => {
      const seen = brief(await allTold());
      expect(seen.toSorted()).toEqual(told.toSorted());
      expect(seen.filter((line) => line.includes('flag a'))).toEqual(ofA);
      expect(contentOf((await store.environment('dev'))?.state)?.flags).toMatchObject([
        { feature: 'a', version: 1 },
        { feature: 'b', version: 1 },
        { feature: 'c', version: 1 },
      ]);
    };

    it('when the store fails', async () => {
      const store = new WatchedStore();
      const { once, happened } = failure(({ after }: EnvironmentChange) => after.sequence >= 4);
      store.beforeApply = once as (change: EnvironmentChange) => void;
      await start(log, store);
      await happen(...story);
      await happened;
      await expectTheStory(store);
    });

    it.each(['create flag a 1', 'patch flag a 2', 'delete flag a 3'])(
      'when the log does not take the notice "%s"',
      async (line) => {
        const { log: fallible, before } = watched(log);
        const { once, happened } = failure(
          (_: StreamName, { body }: NewMessage) => brief([noticeIn(body)])[0] === line,
        );
        before.append = once;
        const store = await start(fallible);
        await happen(...story);
        await happened;
        await expectTheStory(store);
      },
    );

    it('when the log does not keep its place', async () => {
      const { log: fallible, before } = watched(log);
      const { once, happened } = failure();
      const store = await start(fallible);
      before.remember = once;
      await happen(...story);
      await happened;
      await expectTheStory(store);
    });

    it('when the log cannot be read for a while', async () => {
      const { log: fallible, before } = watched(log);
      const { once, happened } = failure();
      before.tail = once;
      const store = await start(fallible);
      await happened;
      await happen(...story);
      await expectTheStory(store);
    });
  });

  it.each([
    ['is not JSON', 'this is not JSON'],
    ['is no fact', '{"specversion":"1.0","type":"something.else","data":{}}'],
    [
      'does not name its entity',
      '{"specversion":"1.0","type":"io.ff-relay.flag.published.v1","data":{"environment":"dev"}}',
    ],
  ])('passes over a message that %s, and the rest flows, now and after a restart', async (_, body) => {
    const unreadable = () =>
      log.append('FF_FACTS', { subject: `ff.facts.v1.dev.flag.bad${++ids}`, id: `bad-${ids}`, body });
    await unreadable();
    const store = await start();
    await happen(added(), flag('a'));
    await unreadable();
    await happen(flag('b'));
    const told = ['create environment dev 0', 'create flag a 1', 'create flag b 1'];
    expect(brief(await allTold())).toEqual(told);
    expect(await store.flag('dev', 'b')).toBeDefined();
    const rebuilt = await restart();
    expect(await rebuilt.flag('dev', 'b')).toBeDefined();
    expect(brief(await allTold())).toEqual(told);
  });
});
