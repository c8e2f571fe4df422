import pLimit from 'p-limit';

import type { EnvironmentState } from '#libs/domain';
import type { StateStore } from '#libs/state-store';

import type { LogFold } from './log-fold.js';

/** Environments at a time: their keys are prepared in memory. */
const AT_A_TIME = 8;
/** How often an environment may move on while it is looked at, before somebody else is left to it. */
const MOST_TRIES = 20;

export interface Rebuilt {
  /** How many environments were compared. */
  readonly compared: number;
  /** Those that differed, and were replaced. */
  readonly replaced: readonly string[];
  /** How many entries were removed that the log does not know. */
  readonly removed: number;
}

/** The store's environment goes on changing under the hands of who rebuilds it. */
export class StoreInUse extends Error {
  override readonly name = 'StoreInUse';
}

/**
 * Makes the store hold what the log says, beside whoever reads it: environments that agree are not touched, others are
 * switched one by one, and what is left over is removed.
 *
 * @param again the environment as the log says it now, asked for when the store's has moved on. Throws StoreInUse if it
 * does so all the time.
 */
export async function rebuild(
  store: StateStore,
  fold: LogFold,
  again: (id: string) => Promise<EnvironmentState>,
  progress: (done: number, of: number) => void = () => undefined,
): Promise<Rebuilt> {
  const { epoch } = fold.position;
  const replaced: string[] = [];
  const limit = pLimit(AT_A_TIME);
  const stored = await store.positions();
  let compared = 0;

  const renew = async (id: string, first: EnvironmentState) => {
    let [state, position] = [first, stored.get(id)];
    for (let tries = 1; !(await store.holds(state, epoch)); tries++) {
      const movedOn = position?.epoch === epoch && position.sequence > state.sequence;
      if (!movedOn && (await store.replace(state, epoch, position))) {
        replaced.push(id);
        break;
      }
      if (tries === MOST_TRIES) throw new StoreInUse(`environment ${id} changes all the time in the store`);
      position = (await store.positions()).get(id);
      state = await again(id);
    }
    progress(++compared, fold.states.size);
  };
  await Promise.all([...fold.states].map(([id, state]) => limit(() => renew(id, state))));
  const removed = await store.sweep(fold.states, fold.position);
  return { compared, replaced, removed };
}
