import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  flagsOf,
  fold,
  segmentsOf,
  unknownEnvironment,
} from '#libs/domain';

import type { StateStore } from './index.js';

export interface StoreUnderTest {
  readonly store: StateStore;
  dispose(): Promise<void>;
}

const flag = (feature: string, version: number): EnvironmentFact => ({
  type: 'FlagPublished',
  environment: 'dev',
  flag: {
    feature,
    project: 'demo',
    environment: 'dev',
    kind: 'boolean',
    state: 'on',
    variations: [],
    offVariation: 'false',
    defaultServe: { variation: 'true' },
    version,
  },
});
const added = (environment = 'dev'): EnvironmentFact => ({
  type: 'EnvironmentAdded',
  environment,
  account: 'demo',
});
const segment = (identifier: string): EnvironmentFact => ({
  type: 'SegmentPublished',
  environment: 'dev',
  segment: { identifier, name: identifier, version: 1 },
});
const key = (apiKey: string): EnvironmentFact => ({ type: 'ApiKeyAdded', environment: 'dev', apiKey });

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

    /** Folds a fact in and stores the result, as the projector does. */
    const project = async (fact: EnvironmentFact, epoch = 'e1') => {
      state = evolve(state, fact, state.sequence + 1);
      return store.apply(state, [fact], { epoch, sequence: state.sequence });
    };
    const content = (of: EnvironmentState | undefined) =>
      of && [flagsOf(of), segmentsOf(of), apiKeysOf(of), of.account];

    it('holds nothing at first', async () => {
      expect(await store.progress()).toBeUndefined();
      expect(await store.environments()).toEqual([]);
      expect(await store.environment('dev')).toBeUndefined();
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
    });

    it('holds an environment as it was put in', async () => {
      for (const fact of [added(), segment('s'), flag('a', 1), flag('b', 2), key('k')]) await project(fact);
      const stored = await store.environment('dev');
      expect(content(stored?.state)).toEqual(content(state));
      expect(stored?.position).toEqual({ epoch: 'e1', sequence: 5 });
      expect(await store.environments()).toEqual(['dev']);
      expect(await store.flag('dev', 'b')).toEqual(flagsOf(state)[1]);
      expect(await store.segment('dev', 's')).toEqual(segmentsOf(state)[0]);
      expect(await store.environmentOf('k')).toBe('dev');
    });

    it('lets go of what was removed', async () => {
      for (const fact of [added(), segment('s'), flag('a', 1), key('k')]) await project(fact);
      await project({ type: 'FlagRemoved', environment: 'dev', identifier: 'a', version: 1 });
      await project({ type: 'SegmentRemoved', environment: 'dev', identifier: 's', version: 1 });
      await project({ type: 'ApiKeyRemoved', environment: 'dev', apiKey: 'k' });
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.segment('dev', 's')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      expect(content((await store.environment('dev'))?.state)).toEqual([[], [], [], 'demo']);
    });

    it('lets go of an environment and its keys, and takes it again', async () => {
      for (const fact of [added(), flag('a', 1), key('k')]) await project(fact);
      await project({ type: 'EnvironmentRemoved', environment: 'dev' });
      expect(await store.environments()).toEqual([]);
      expect(await store.environment('dev')).toBeUndefined();
      expect(await store.flag('dev', 'a')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      await project(added());
      expect(content((await store.environment('dev'))?.state)).toEqual([[], [], [], 'demo']);
    });

    it('ignores a state that is not newer', async () => {
      await project(added());
      const older = state;
      await project(flag('a', 1));
      expect(await store.apply(older, [added()], { epoch: 'e1', sequence: 1 })).toBe(false);
      expect(await store.apply(older, [flag('a', 1)], { epoch: 'e1', sequence: 2 })).toBe(false);
      expect(await store.flag('dev', 'a')).toBeDefined();
    });

    it('ignores a state of another epoch, until one replaces what it holds', async () => {
      for (const fact of [added(), flag('a', 1), flag('old', 1), key('k')]) await project(fact);
      const anew = fold(unknownEnvironment('dev'), [
        { fact: added(), sequence: 1 },
        { fact: flag('a', 2), sequence: 2 },
      ]);
      expect(await store.apply(anew, [flag('a', 2)], { epoch: 'e2', sequence: 99 })).toBe(false);
      await store.replace(anew, { epoch: 'e2', sequence: 2 });
      expect(content((await store.environment('dev'))?.state)).toEqual(content(anew));
      expect(await store.flag('dev', 'old')).toBeUndefined();
      expect(await store.environmentOf('k')).toBeUndefined();
      expect(await project(flag('late', 1), 'e1')).toBe(false);
    });

    it('goes on from a state that it gave out', async () => {
      for (const fact of [added(), flag('a', 1)]) await project(fact);
      const loaded = (await store.environment('dev'))?.state ?? unknownEnvironment('dev');
      const next = evolve(loaded, flag('a', 2), 3);
      expect(flagsOf(next)[0]?.version).toBe(2);
      expect(flagsOf(evolve(loaded, flag('a', 9), 1))[0]?.version).toBe(1);
    });

    it('tells how much of the log it holds, and never less within an epoch', async () => {
      await store.advance({ position: { epoch: 'e1', sequence: 5 }, complete: true });
      await store.advance({ position: { epoch: 'e1', sequence: 3 }, complete: false });
      expect(await store.progress()).toEqual({ position: { epoch: 'e1', sequence: 5 }, complete: true });
      await store.advance({ position: { epoch: 'e2', sequence: 1 }, complete: false });
      expect(await store.progress()).toEqual({ position: { epoch: 'e2', sequence: 1 }, complete: false });
    });
  });
}
