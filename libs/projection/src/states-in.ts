import type { EnvironmentState } from '#libs/domain';
import type { StateStore } from '#libs/state-store';

/** The environments that a store holds, by id. */
export async function statesIn(store: StateStore): Promise<Map<string, EnvironmentState>> {
  const ids = await store.environments();
  const stored = await Promise.all(ids.map((id) => store.environment(id)));
  return new Map(stored.flatMap((found) => (found ? [[found.state.id, found.state] as const] : [])));
}
