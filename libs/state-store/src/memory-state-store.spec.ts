import { MemoryStateStore } from './index.js';
import { stateStoreContract } from './state-store.suite.js';

stateStoreContract('memory', async () => {
  const subject = {
    store: new MemoryStateStore(),
    flush: async () => {
      subject.store = new MemoryStateStore();
    },
    dispose: async () => {},
  };
  return subject;
});
