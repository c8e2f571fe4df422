import { Inject, Module, type OnApplicationShutdown } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { ObservabilityModule, Telemetry } from '#libs/observability';

import { MemoryStateStore } from './memory-state-store.js';
import { RedisStateStore } from './redis-state-store.js';
import { StateStore } from './state-store.js';

/** The state, in Redis or in the memory of this process; let go of when all who use it have stopped. */
@Module({
  imports: [ObservabilityModule],
  providers: [
    {
      provide: StateStore,
      inject: [RelayConfig],
      useFactory: ({ redis }: RelayConfig) => (redis ? RedisStateStore.open(redis) : new MemoryStateStore()),
    },
  ],
  exports: [StateStore],
})
export class StateStoreModule implements OnApplicationShutdown {
  constructor(
    @Inject(StateStore) private readonly store: StateStore,
    @Inject(Telemetry) telemetry: Telemetry,
  ) {
    telemetry.gauge('ff_relay_store_reachable', '1 while the state store can be reached', [], (set) =>
      set(Number(store.reachable)),
    );
  }

  onApplicationShutdown(): Promise<void> {
    return this.store.close();
  }
}
