import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  type Flag,
  flagIn,
  type Position,
  type Segment,
  segmentIn,
} from '#libs/domain';

import { type Progress, StateStore, type StoredEnvironment } from './state-store.js';

/** The state of one process, in its memory. States are immutable, so holding one is storing it. */
export class MemoryStateStore extends StateStore {
  private readonly stored = new Map<string, StoredEnvironment>();
  private readonly environmentByKey = new Map<string, string>();
  private reached: Progress | undefined;

  async apply(
    state: EnvironmentState,
    _facts: readonly EnvironmentFact[],
    position: Position,
  ): Promise<boolean> {
    const before = this.stored.get(state.id)?.position;
    if (before && (before.epoch !== position.epoch || before.sequence >= position.sequence)) return false;
    await this.replace(state, position);
    return true;
  }

  async replace(state: EnvironmentState, position: Position): Promise<void> {
    const before = this.stored.get(state.id);
    if (before?.state.apiKeys !== state.apiKeys || before.state.exists !== state.exists) {
      for (const key of before ? apiKeysOf(before.state) : []) {
        if (this.environmentByKey.get(key) === state.id) this.environmentByKey.delete(key);
      }
      for (const key of apiKeysOf(state)) this.environmentByKey.set(key, state.id);
    }
    this.stored.set(state.id, { state, position });
  }

  async advance(progress: Progress): Promise<void> {
    const before = this.reached?.position;
    if (before?.epoch === progress.position.epoch && before.sequence > progress.position.sequence) return;
    this.reached = progress;
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
}
