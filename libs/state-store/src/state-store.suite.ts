import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  flagsOf,
  fold,
  type Position,
  segmentsOf,
  unknownEnvironment,
} from '#libs/domain';

import {
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from '../../domain/src/builders.suite.js';
import type { Applied, Progress, StateStore } from './index.js';

export interface StoreUnderTest {
  readonly store: StateStore;
  /** Empties what `store` holds, as an operator or an accident may. */
  flush(): Promise<void>;
  dispose(): Promise<void>;
}

/** A state with facts at the sequences from `first` on. */
export function stateOf(
  id: string,
  facts: readonly EnvironmentFact[],
  from = unknownEnvironment(id),
): EnvironmentState {
  return fold(
    from,
    facts.map((fact, i) => ({ fact, sequence: from.sequence + i + 1 })),
  );
}

/** Applies one fact, as the projector does. @returns the state after it */
export async function applied(
  store: StateStore,
  before: EnvironmentState,
  fact: EnvironmentFact,
  epoch = 'e1',
): Promise<EnvironmentState> {
  const after = evolve(before, fact, before.sequence + 1);
  expect(await store.apply({ before, facts: [fact], after }, epoch)).toBe('written');
  return after;
}

/** What every StateStore promises. */
export function stateStoreContract(adapter: string, create: () => Promise<StoreUnderTest>): void {
  describe(`A state store (${adapter})`, () => {
    let subject: StoreUnderTest;
    let store: StateStore;
    let state: EnvironmentState;

    beforeEach(async () => {
      subject = await create();
      store = subject.store;
      state = unknownEnvironment('dev');
    });
    afterEach(() => subject.dispose());

    /** Folds facts in and stores each result. */
    const project = async (...facts: EnvironmentFact[]) => {
      for (const fact of facts) state = await applied(store, state, fact);
    };
    const flush = async () => {
      await subject.flush();
      ({ store } = subject);
    };
    /** Tries a change, and keeps nothing of it. */
    const attempt = (before: EnvironmentState, fact: EnvironmentFact, epoch = 'e1'): Promise<Applied> =>
      store.apply({ before, facts: [fact], after: evolve(before, fact, before.sequence + 1) }, epoch);
    const stateAt = (sequence: number): Position => ({ epoch: 'e1', sequence });
    const content = (of: EnvironmentState | undefined) =>
      of && [flagsOf(of), segmentsOf(of), apiKeysOf(of), of.account];
    const stored = async () => content((await store.environment('dev'))?.state);

    const full = [
      environmentAdded(),
      segmentPublished('s'),
      flagPublished('a'),
      flagPublished('b'),
      apiKeyAdded('k'),
    ];

    it('holds nothing at first', async () => {
      expect(store.reachable).toBe(true);
      expect(await store.progress()).toBeUndefined();
      expect(await store.environments()).toEqual([]);
      expect(await store.positions()).toEqual(new Map());
      expect(await store.environment('dev')).toBeUndefined();
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
    });

    it('holds an environment as it was put in', async () => {
      await project(...full);
      expect(await stored()).toEqual(content(state));
      expect((await store.environment('dev'))?.position).toEqual(stateAt(5));
      expect(await store.environments()).toEqual(['dev']);
      expect(await store.flag('dev', 'b')).toEqual(flagsOf(state)[1]);
      expect(await store.segment('dev', 's')).toEqual(segmentsOf(state)[0]);
      expect(await store.environmentOf('k')).toBe('dev');
    });

    it('takes several facts in one change', async () => {
      const facts = [...full, flagRemoved('b', 2), flagPublished('a', 2)];
      const after = stateOf('dev', facts);
      expect(await store.apply({ before: state, facts, after }, 'e1')).toBe('written');
      expect(await store.holds(after, 'e1')).toBe(true);
      expect((await store.flag('dev', 'a'))?.version).toBe(2);

      const more = [flagRemoved('a', 3), apiKeyAdded('k2'), segmentPublished('s', 2)];
      const next = stateOf('dev', more, after);
      expect(await store.apply({ before: after, facts: more, after: next }, 'e1')).toBe('written');
      expect(await store.holds(next, 'e1')).toBe(true);
    });

    it('lets go of what was removed', async () => {
      await project(
        ...full,
        flagRemoved('a'),
        flagRemoved('b'),
        { type: 'SegmentRemoved', environment: 'dev', identifier: 's', version: 1 },
        { type: 'ApiKeyRemoved', environment: 'dev', apiKey: 'k' },
      );
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.segment('dev', 's')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      expect(await stored()).toEqual([[], [], [], 'demo']);
    });

    it('lets go of an environment and its keys, keeps its position, and takes it again', async () => {
      await project(...full, environmentRemoved());
      expect(await store.environments()).toEqual([]);
      expect(await store.environment('dev')).toBeUndefined();
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      expect(await store.positions()).toEqual(new Map([['dev', stateAt(6)]]));
      expect(await store.holds(state, 'e1')).toBe(true);
      await project(environmentAdded());
      expect(await stored()).toEqual([[], [], [], 'demo']);
    });

    it('shows nothing of an environment that was not added yet', async () => {
      await project(flagPublished('a'), apiKeyAdded('k'));
      expect(await store.environment('dev')).toBeUndefined();
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      expect(await store.positions()).toEqual(new Map([['dev', stateAt(2)]]));
    });

    it('lets an SDK key move to another environment, in either order', async () => {
      await project(environmentAdded(), apiKeyAdded('k'));
      let other = await applied(store, unknownEnvironment('other'), environmentAdded('other'));
      other = await applied(store, other, apiKeyAdded('k', 'other'));
      await project({ type: 'ApiKeyRemoved', environment: 'dev', apiKey: 'k' });
      expect(await store.environmentOf('k')).toBe('other');
      await applied(store, other, { type: 'ApiKeyRemoved', environment: 'other', apiKey: 'k' });
      await project(apiKeyAdded('k'));
      expect(await store.environmentOf('k')).toBe('dev');
    });

    it('holds a change that it was given before, and any that is older', async () => {
      const unknown = state;
      await project(environmentAdded());
      const first = state;
      await project(flagPublished('a', 1));
      const second = state;
      await project(flagPublished('a', 2));
      expect(await attempt(second, flagPublished('a', 9))).toBe('held');
      expect(await attempt(first, flagPublished('a', 9))).toBe('held');
      expect(await attempt(unknown, environmentAdded())).toBe('held');
      expect((await store.flag('dev', 'a'))?.version).toBe(2);
    });

    it('takes no change that starts from what it does not hold', async () => {
      const unknown = state;
      await project(environmentAdded());
      const first = state;
      const missed = evolve(state, flagPublished('missed'), 2);

      expect(await attempt(missed, flagPublished('a'))).toBe('unexpected');
      expect(await attempt(first, flagPublished('a'), 'e2')).toBe('unexpected');
      expect(await attempt(unknown, environmentAdded(), 'e2')).toBe('unexpected');
      expect(await attempt({ ...first, id: 'other' }, flagPublished('a'))).toBe('unexpected');
      // From an unknown environment on, though the store has it.
      const late = { ...unknown, sequence: 5 };
      expect(await store.apply({ before: unknown, facts: [environmentAdded()], after: late }, 'e1')).toBe(
        'unexpected',
      );
      expect(await store.positions()).toEqual(new Map([['dev', stateAt(1)]]));
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.flag('other', 'a')).toBeUndefined();
    });

    it('notices at the next change that it was flushed', async () => {
      await project(environmentAdded(), flagPublished('a'));
      await store.begin({ position: stateAt(2), complete: true, writer: 'w' });
      await flush();
      expect(await attempt(state, flagPublished('b'))).toBe('unexpected');
      expect(await store.advance({ position: stateAt(3), complete: true, writer: 'w' })).toBe(false);
      expect(await store.environments()).toEqual([]);
      expect(await store.progress()).toBeUndefined();
    });

    describe('given a whole state', () => {
      const anew = stateOf('dev', [
        environmentAdded(),
        flagPublished('a', 2),
        segmentPublished('t'),
        apiKeyAdded('k2'),
      ]);

      it('puts it in place of nothing', async () => {
        expect(await store.replace(anew, 'e1', undefined)).toBe(true);
        expect(await store.holds(anew, 'e1')).toBe(true);
        expect(await store.environments()).toEqual(['dev']);
        expect(await stored()).toEqual(content(anew));
      });

      it('puts it in place of another, whichever that was, and lets go of the rest', async () => {
        await project(...full);
        expect(await store.replace(anew, 'e2', stateAt(5))).toBe(true);
        expect(await stored()).toEqual(content(anew));
        expect(await store.holds(anew, 'e2')).toBe(true);
        expect(await store.flag('dev', 'b')).toBeUndefined();
        expect(await store.segment('dev', 's')).toBeUndefined();
        expect(await store.environmentOf('k')).toBeUndefined();
        expect(await store.environmentOf('k2')).toBe('dev');
        expect(await attempt(state, flagPublished('late'))).toBe('unexpected');
        expect(await attempt(anew, flagPublished('next'), 'e2')).toBe('written');
      });

      it('takes a removed environment too', async () => {
        await project(...full);
        const removed = evolve(state, environmentRemoved(), 6);
        expect(await store.replace(removed, 'e1', stateAt(5))).toBe(true);
        expect(await store.environment('dev')).toBeUndefined();
        expect(await store.flag('dev', 'a')).toBeUndefined();
        expect(await store.environmentOf('k')).toBeUndefined();
        expect(await store.positions()).toEqual(new Map([['dev', stateAt(6)]]));
        expect(await store.holds(removed, 'e1')).toBe(true);
      });

      it.each([
        ['an older one', stateAt(4)],
        ['a newer one', stateAt(6)],
        ['one of another epoch', { epoch: 'e2', sequence: 5 }],
        ['none', undefined],
      ])('writes nothing if another position is stored than %s', async (_, position) => {
        await project(...full);
        expect(await store.replace(anew, 'e1', position)).toBe(false);
        expect(await store.holds(state, 'e1')).toBe(true);
        expect(await store.environmentOf('k2')).toBeUndefined();
      });

      it('writes nothing if none is stored any more', async () => {
        await project(...full);
        await flush();
        expect(await store.replace(anew, 'e1', stateAt(5))).toBe(false);
        expect(await store.positions()).toEqual(new Map());
      });

      it('refuses a writer that was stalled while another went on', async () => {
        await project(environmentAdded());
        const position = (await store.positions()).get('dev');
        await project(flagPublished('a', 7));
        expect(await store.replace(anew, 'e1', position)).toBe(false);
        expect((await store.flag('dev', 'a'))?.version).toBe(7);
      });
    });

    describe('asked whether it holds a state', () => {
      it('says yes only for the very one', async () => {
        await project(...full);
        const others: [string, EnvironmentState][] = [
          ['older', stateOf('dev', full.slice(0, 4))],
          ['newer', evolve(state, flagPublished('c'), 6)],
          ['another flag', stateOf('dev', full.with(2, flagPublished('a', 2)))],
          ['a flag less', stateOf('dev', full.with(2, flagPublished('b', 1)))],
          ['another group', stateOf('dev', full.with(1, segmentPublished('s', 2)))],
          ['another SDK key', stateOf('dev', full.with(4, apiKeyAdded('k2')))],
          ['another account', { ...state, account: 'other' }],
          ['removed', { ...state, exists: false }],
          ['another environment', { ...state, id: 'other' }],
        ];
        expect(await store.holds(state, 'e1')).toBe(true);
        expect(await store.holds(stateOf('dev', full), 'e1')).toBe(true);
        expect(await store.holds(state, 'e2')).toBe(false);
        for (const [name, other] of others)
          expect([name, await store.holds(other, 'e1')]).toEqual([name, false]);
      });

      it('says no once it was flushed', async () => {
        await project(...full);
        await flush();
        expect(await store.holds(state, 'e1')).toBe(false);
      });
    });

    describe('swept', () => {
      it('lets go of environments that are not wanted, with their SDK keys', async () => {
        await project(...full);
        const other = stateOf('other', [
          environmentAdded('other'),
          flagPublished('a', 1, 'other'),
          apiKeyAdded('o', 'other'),
        ]);
        await store.replace(other, 'e1', undefined);
        const removed = stateOf('gone', [environmentAdded('gone'), environmentRemoved('gone')]);
        await store.replace(removed, 'e1', undefined);

        expect(await store.sweep(new Map([['dev', state]]), stateAt(5))).toBeGreaterThan(0);
        expect(await store.positions()).toEqual(new Map([['dev', stateAt(5)]]));
        expect(await store.environment('other')).toBeUndefined();
        expect(await store.flag('other', 'a')).toBeUndefined();
        expect(await store.environmentOf('o')).toBeUndefined();
        expect(await store.holds(state, 'e1')).toBe(true);
        expect(await store.sweep(new Map([['dev', state]]), stateAt(5))).toBe(0);
        expect(await store.replace(other, 'e1', undefined)).toBe(true);
      });

      it('lets go of environments of another epoch, however far they came', async () => {
        await project(...full);
        expect(await store.sweep(new Map(), { epoch: 'e2', sequence: 1 })).toBeGreaterThan(0);
        expect(await store.positions()).toEqual(new Map());
        expect(await store.environmentOf('k')).toBeUndefined();
      });

      it('has nothing to do where all is wanted', async () => {
        await project(...full);
        const removed = stateOf('gone', [environmentAdded('gone'), environmentRemoved('gone')]);
        await store.replace(removed, 'e1', undefined);
        const states = new Map([
          ['dev', state],
          ['gone', removed],
        ]);
        expect(await store.sweep(states, stateAt(5))).toBe(0);
        expect(await store.holds(state, 'e1')).toBe(true);
        expect((await store.positions()).size).toBe(2);
      });

      it('leaves alone what changed since', async () => {
        await project(...full);
        const known = state;
        await project(flagPublished('new'), apiKeyAdded('new'));
        const flags = ['a', 'b', 'c', 'd'].map((flag) => flagPublished(flag, 1, 'other'));
        const other = stateOf('other', [environmentAdded('other'), ...flags, apiKeyAdded('o', 'other')]);
        await store.replace(other, 'e1', undefined);
        expect(await store.sweep(new Map([['dev', known]]), stateAt(5))).toBe(0);
        expect(await store.holds(state, 'e1')).toBe(true);
        expect(await store.environmentOf('new')).toBe('dev');
        expect((await store.positions()).get('other')).toEqual(stateAt(6));
        expect(await store.environmentOf('o')).toBe('other');
      });
    });

    it('goes on from a state that it gave out', async () => {
      await project(environmentAdded(), flagPublished('a', 1));
      const loaded = (await store.environment('dev'))?.state ?? unknownEnvironment('dev');
      const next = evolve(loaded, flagPublished('a', 2), 3);
      expect(flagsOf(next)[0]?.version).toBe(2);
      expect(flagsOf(evolve(loaded, flagPublished('a', 9), 1))[0]?.version).toBe(1);
    });

    describe('told how much of the log it holds', () => {
      const progress = (sequence: number, writer = 'w1', epoch = 'e1'): Progress => ({
        position: { epoch, sequence },
        complete: sequence > 2,
        writer,
      });

      it('keeps the most that its writer said within an epoch', async () => {
        await store.begin(progress(1));
        expect(await store.progress()).toEqual(progress(1));
        expect(await store.advance(progress(5))).toBe(true);
        expect(await store.advance(progress(3))).toBe(true);
        expect(await store.progress()).toEqual(progress(5));
        expect(await store.advance({ ...progress(5), complete: false })).toBe(true);
        expect(await store.progress()).toEqual({ ...progress(5), complete: false });
        expect(await store.advance(progress(1, 'w1', 'e2'))).toBe(true);
        expect(await store.progress()).toEqual(progress(1, 'w1', 'e2'));
      });

      it('listens only to who took it over last', async () => {
        await store.begin(progress(5, 'w1'));
        await store.begin(progress(2, 'w2'));
        expect(await store.advance(progress(6, 'w1'))).toBe(false);
        expect(await store.progress()).toEqual(progress(2, 'w2'));
        expect(await store.advance(progress(3, 'w2'))).toBe(true);
      });

      it('listens to nobody before it was taken over', async () => {
        expect(await store.advance(progress(1))).toBe(false);
        expect(await store.progress()).toBeUndefined();
      });
    });
  });
}
