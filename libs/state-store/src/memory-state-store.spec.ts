import { MemoryStateStore } from './index.js';
import { stateStoreContract } from './state-store.suite.js';

stateStoreContract('memory', async () => ({ store: new MemoryStateStore(), dispose: async () => {} }));
