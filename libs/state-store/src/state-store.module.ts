import { Module } from '@nestjs/common';

import { MemoryStateStore } from './memory-state-store.js';
import { StateStore } from './state-store.js';

/** The state of this process. */
@Module({
  providers: [{ provide: StateStore, useClass: MemoryStateStore }],
  exports: [StateStore],
})
export class StateStoreModule {}
