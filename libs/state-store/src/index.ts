export { StateStoreModule } from './state-store.module.js';
export { MemoryStateStore } from './memory-state-store.js';
export { type RedisSettings, RedisStateStore } from './redis-state-store.js';
export {
  type Applied,
  type EnvironmentChange,
  type Progress,
  StateStore,
  type StoredEnvironment,
} from './state-store.js';
