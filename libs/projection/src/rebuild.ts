import { setTimeout as delay } from 'node:timers/promises';

import pLimit from 'p-limit';

import type { EnvironmentState, Position } from '#libs/domain';
import type { StateStore } from '#libs/state-store';

import type { LogFold } from './log-fold.js';

/** Environments at a time: their keys are prepared in memory. */
const AT_A_TIME = 8;
/** How often an environment may move on while it is looked at, at least, before somebody else is left to it. */
const MOST_TRIES = 20;
const LOOK_AGAIN_MS = 20;

export interface Rebuilt {
  /** How many environments were compared. */
  readonly compared: number;
  /** Those that differed, and were replaced. */
  readonly replaced: readonly string[];
  /** How many entries were removed that the log does not know. */
  readonly removed: number;
}

export interface Comparison {
  /** How many environments were compared. */
  readonly compared: number;
  /** Those that the store holds otherwise than the log says, or not at all. */
  readonly differing: readonly string[];
  /** Those that the store holds and the log does not know. */
  readonly unknown: readonly string[];
}

/** How to look at a store that others may be at work on. */
export interface Looking {
  /** How long a store that is behind the log may take to catch up, before it counts as wrong. */
  readonly patienceMs?: number;
  /** How long, in all, an environment is looked at again that moves on each time. */
  readonly giveUpAfterMs?: number;
  readonly progress?: (done: number, of: number) => void;
}

/** The environment as the log says it at a position that is after the fold's. */
export type Again = (id: string, at: Position) => Promise<EnvironmentState>;

/** The store's environment goes on changing under the hands of who rebuilds it. */
export class StoreInUse extends Error {
  override readonly name = 'StoreInUse';
}

/**
 * Makes the store hold what the log says, beside whoever reads it: environments that agree are not touched, others are
 * switched one by one, and what is left over is removed.
 *
 * @param again asked when the store's environment has moved on. Throws StoreInUse if it does so all the time.
 */
export async function rebuild(
  store: StateStore,
  fold: LogFold,
  again: Again,
  looking: Looking = {},
): Promise<Rebuilt> {
  const replaced = await whereWrong(store, fold, again, looking, (state, stored) =>
    store.replace(state, fold.position.epoch, stored),
  );
  const removed = await store.sweep(fold.states, fold.position);
  return { compared: fold.states.size, replaced, removed };
}

/**
 * What `rebuild` would replace. Entries that are left over beside an environment that is right show only when they are
 * removed.
 */
export async function compare(
  store: StateStore,
  fold: LogFold,
  again: Again,
  looking: Looking = {},
): Promise<Comparison> {
  const differing = await whereWrong(store, fold, again, looking, async ({ id }, stored) =>
    same((await store.positions()).get(id), stored),
  );
  const unknown = [...(await store.positions()).keys()].filter((id) => !fold.states.has(id));
  return { compared: fold.states.size, differing, unknown };
}

/**
 * Does something about each environment that the store does not hold as the log says.
 *
 * @param act returns false, having done nothing, if the store's position is not the given one any more
 * @returns the environments where it was done
 */
async function whereWrong(
  store: StateStore,
  { position: { epoch }, states }: LogFold,
  again: Again,
  { patienceMs = 0, giveUpAfterMs = 0, progress = () => undefined }: Looking,
  act: (state: EnvironmentState, stored: Position | undefined) => Promise<boolean>,
): Promise<string[]> {
  const wrong: string[] = [];
  const limit = pLimit(AT_A_TIME);
  const stored = await store.positions();
  const began = performance.now();
  let done = 0;

  /** Where the store is, once it has caught up with the log or had the time to. */
  const caughtUp = async (id: string, sequence: number, seen: Position | undefined) => {
    let position = seen;
    while (performance.now() - began < patienceMs) {
      if (position?.epoch === epoch && position.sequence >= sequence) break;
      await delay(LOOK_AGAIN_MS);
      position = (await store.positions()).get(id);
    }
    return position;
  };
  const look = async (id: string, first: EnvironmentState) => {
    let state = first;
    let position = stored.get(id);
    for (let tries = 1; ; tries++) {
      position = await caughtUp(id, state.sequence, position);
      if (position?.epoch === epoch && position.sequence > state.sequence) state = await again(id, position);
      if (await store.holds(state, epoch)) break;
      if (await act(state, position)) {
        wrong.push(id);
        break;
      }
      if (tries >= MOST_TRIES && performance.now() - began >= giveUpAfterMs)
        throw new StoreInUse(`environment ${id} changes all the time in the store`);
      position = (await store.positions()).get(id);
    }
    progress(++done, states.size);
  };
  await Promise.all([...states].map(([id, state]) => limit(() => look(id, state))));
  return wrong;
}

function same(one: Position | undefined, other: Position | undefined): boolean {
  return one?.epoch === other?.epoch && one?.sequence === other?.sequence;
}
