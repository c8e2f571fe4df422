import type { EnvironmentFact, EnvironmentState, Flag, Position, Segment } from '#libs/domain';

/** How much of the log the store holds. */
export interface Progress {
  /** Every fact up to here is in the store. */
  readonly position: Position;
  /** Every environment of the account is there: what the store does not know, does not exist. */
  readonly complete: boolean;
}

export interface StoredEnvironment {
  readonly state: EnvironmentState;
  /** The newest fact about the environment that the state holds. */
  readonly position: Position;
}

/**
 * What is true now, for those who start from it: the fold of the facts, kept by the projector. It may be thrown away at
 * any time and made again from the log.
 *
 * Each environment changes as a whole: a reader sees all of a change or nothing of it. Writing is safe to repeat and
 * never goes back: within an epoch of the log, a state that is not newer than the stored one is ignored.
 */
export abstract class StateStore {
  /**
   * Puts an environment's next state in place of the one before.
   *
   * @param facts what leads from the stored state to this one: an adapter may write only what they touch
   * @returns false if nothing was written, since the store holds this state, a newer one, or one of another epoch
   */
  abstract apply(
    state: EnvironmentState,
    facts: readonly EnvironmentFact[],
    position: Position,
  ): Promise<boolean>;

  /** Puts a state in place of whatever is stored for the environment, older, newer or of another epoch. */
  abstract replace(state: EnvironmentState, position: Position): Promise<void>;

  /** Says how much of the log is in. Ignored if that is less than was said before, within an epoch. */
  abstract advance(progress: Progress): Promise<void>;

  /** Undefined for an empty store. Whoever reads it, then the environments, then the log after it, misses nothing. */
  abstract progress(): Promise<Progress | undefined>;

  /** The UUIDs of all environments that exist. */
  abstract environments(): Promise<readonly string[]>;

  /** Undefined if there is no such environment. */
  abstract environment(id: string): Promise<StoredEnvironment | undefined>;

  abstract flag(environment: string, identifier: string): Promise<Flag | undefined>;

  abstract segment(environment: string, identifier: string): Promise<Segment | undefined>;

  /** The environment that an SDK key opens. @param apiKey its SHA-256, lower-case hex */
  abstract environmentOf(apiKey: string): Promise<string | undefined>;

  /** Lets go of what the adapter holds open. */
  abstract close(): Promise<void>;
}
