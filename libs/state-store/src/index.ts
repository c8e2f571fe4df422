export { StateStoreModule } from './state-store.module.js';
export { MemoryStateStore } from './memory-state-store.js';
export { type Progress, StateStore, type StoredEnvironment } from './state-store.js';
