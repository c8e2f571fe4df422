import type { EnvironmentFact, EnvironmentState, Flag, Position, Segment } from '#libs/domain';

/** How much of the log the store holds. */
export interface Progress {
  /** Every fact up to here is in the store. */
  readonly position: Position;
  /** Every environment of the account is there: what the store does not know, does not exist. */
  readonly complete: boolean;
  /** Who keeps the store: made anew by each that takes it over, so that one who lost it notices. */
  readonly writer: string;
}

export interface StoredEnvironment {
  readonly state: EnvironmentState;
  /** The newest fact about the environment that the state holds. */
  readonly position: Position;
}

/** A step of one environment. */
export interface EnvironmentChange {
  readonly before: EnvironmentState;
  /** What leads from `before` to `after`: an adapter may write only what they touch. */
  readonly facts: readonly EnvironmentFact[];
  readonly after: EnvironmentState;
}

/**
 * What came of a change: it was written; the store holds it already, or something newer; or the store does not hold
 * what the change starts from, so that it must be rebuilt: it was flushed, restored from an old copy, or is of another
 * epoch.
 */
export type Applied = 'written' | 'held' | 'unexpected';

/**
 * What is true now, for those who start from it: the fold of the facts, kept by the projector. It may be thrown away at
 * any time and made again from the log.
 *
 * Each environment changes as a whole: a reader sees all of a change or nothing of it. The position of an environment
 * is that of its newest fact, `{epoch, sequence: state.sequence}`; a removed one keeps it. Every write names the
 * position that it starts from, so that a writer that was stalled, and a store that was flushed or restored, cannot be
 * mistaken for what they were.
 *
 * Every method throws while the store cannot be reached. None waits longer than a few seconds.
 */
export abstract class StateStore {
  /** Whether the store answers, as far as is known now. */
  abstract get reachable(): boolean;

  /** Puts an environment's next state in place of the one before. @param epoch of the log that the facts are from */
  abstract apply(change: EnvironmentChange, epoch: string): Promise<Applied>;

  /**
   * Puts a whole state in place of whatever the store holds for the environment. It is written beside the stored one,
   * and takes its place in one step.
   *
   * @param stored the position that the stored one has, undefined for none
   * @returns false if the stored one has another position by now; nothing was written then
   */
  abstract replace(state: EnvironmentState, epoch: string, stored: Position | undefined): Promise<boolean>;

  /** Whether the store holds exactly this state, at its position, in every key and index. */
  abstract holds(state: EnvironmentState, epoch: string): Promise<boolean>;

  /**
   * Removes what the store holds beyond these states: other environments, and what is left of entities and SDK keys
   * that the environments do not have. Environments that changed after `position` are left alone.
   *
   * @returns how many entries (on Redis: keys) were removed
   */
  abstract sweep(states: ReadonlyMap<string, EnvironmentState>, position: Position): Promise<number>;

  /** The position of every environment, removed ones included. */
  abstract positions(): Promise<ReadonlyMap<string, Position>>;

  /** Takes the store over: from now on only this writer advances it. */
  abstract begin(progress: Progress): Promise<void>;

  /**
   * Says how much of the log is in. Less than was said before, by the same writer and within an epoch, is ignored.
   *
   * @returns false if the store has another writer, or none: it was taken over, flushed or restored
   */
  abstract advance(progress: Progress): Promise<boolean>;

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
