import {
  apiKeysOf,
  type EnvironmentState,
  type Flag,
  flagIn,
  flagsOf,
  type Position,
  type Segment,
  segmentIn,
  segmentsOf,
} from '#libs/domain';

import {
  type Applied,
  type EnvironmentChange,
  type Progress,
  StateStore,
  type StoredEnvironment,
} from './state-store.js';

/** The state of one process, in its memory. States are immutable, so holding one is storing it. */
export class MemoryStateStore extends StateStore {
  readonly reachable = true;
  private readonly stored = new Map<string, StoredEnvironment>();
  private readonly environmentByKey = new Map<string, string>();
  private reached: Progress | undefined;

  async apply({ before, after }: EnvironmentChange, epoch: string): Promise<Applied> {
    const at = this.stored.get(after.id)?.position;
    if (at?.epoch === epoch && at.sequence >= after.sequence) return 'held';
    const expected = before.sequence === 0 ? undefined : { epoch, sequence: before.sequence };
    return (await this.replace(after, epoch, expected)) ? 'written' : 'unexpected';
  }

  async replace(state: EnvironmentState, epoch: string, stored: Position | undefined): Promise<boolean> {
    const before = this.stored.get(state.id);
    if (before?.position.epoch !== stored?.epoch || before?.position.sequence !== stored?.sequence)
      return false;
    if (before?.state.apiKeys !== state.apiKeys || before.state.exists !== state.exists) {
      if (before) this.closeKeysOf(before.state);
      for (const key of apiKeysOf(state)) this.environmentByKey.set(key, state.id);
    }
    this.stored.set(state.id, { state, position: { epoch, sequence: state.sequence } });
    return true;
  }

  async holds(state: EnvironmentState, epoch: string): Promise<boolean> {
    const stored = this.stored.get(state.id);
    if (stored?.position.epoch !== epoch || stored.position.sequence !== state.sequence) return false;
    return (
      stored.state === state ||
      (contentOf(stored.state) === contentOf(state) &&
        apiKeysOf(state).every((key) => this.environmentByKey.get(key) === state.id))
    );
  }

  async sweep(states: ReadonlyMap<string, EnvironmentState>, position: Position): Promise<number> {
    let removed = 0;
    for (const [id, { state, position: at }] of this.stored) {
      const movedOn = at.epoch === position.epoch && at.sequence > position.sequence;
      if (states.has(id) || movedOn) continue;
      this.stored.delete(id);
      removed += 1 + this.closeKeysOf(state);
    }
    return removed;
  }

  async positions(): Promise<ReadonlyMap<string, Position>> {
    return new Map([...this.stored].map(([id, { position }]) => [id, position]));
  }

  async begin(progress: Progress): Promise<void> {
    this.reached = progress;
  }

  async advance(progress: Progress): Promise<boolean> {
    if (this.reached?.writer !== progress.writer) return false;
    const before = this.reached.position;
    const less = before.epoch === progress.position.epoch && before.sequence > progress.position.sequence;
    if (!less) this.reached = progress;
    return true;
  }

  async progress(): Promise<Progress | undefined> {
    return this.reached;
  }

  async environments(): Promise<readonly string[]> {
    return [...this.stored.values()].flatMap(({ state }) => (state.exists ? [state.id] : []));
  }

  async environment(id: string): Promise<StoredEnvironment | undefined> {
    const stored = this.stored.get(id);
    return stored?.state.exists ? stored : undefined;
  }

  async flag(environment: string, identifier: string): Promise<Flag | undefined> {
    const stored = this.stored.get(environment);
    return stored && flagIn(stored.state, identifier);
  }

  async segment(environment: string, identifier: string): Promise<Segment | undefined> {
    const stored = this.stored.get(environment);
    return stored && segmentIn(stored.state, identifier);
  }

  async environmentOf(apiKey: string): Promise<string | undefined> {
    return this.environmentByKey.get(apiKey);
  }

  async close(): Promise<void> {}

  /** @returns how many led to the environment */
  private closeKeysOf(state: EnvironmentState): number {
    const keys = apiKeysOf(state).filter((key) => this.environmentByKey.get(key) === state.id);
    for (const key of keys) this.environmentByKey.delete(key);
    return keys.length;
  }
}

function contentOf(state: EnvironmentState): string {
  return JSON.stringify([state.exists, state.account, flagsOf(state), segmentsOf(state), apiKeysOf(state)]);
}
