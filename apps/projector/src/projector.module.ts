import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, StatusBoard } from '#libs/observability';
import { StateStore, StateStoreModule } from '#libs/state-store';

import { Projector } from './projector.js';

/** Facts → state, then notices. */
@Module({
  imports: [EventLogModule, StateStoreModule, ObservabilityModule],
  providers: [
    {
      provide: Projector,
      inject: [EventLog, StateStore],
      useFactory: (log: EventLog, store: StateStore) => new Projector(log, store),
    },
  ],
})
export class ProjectorModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(
    @Inject(Projector) private readonly projector: Projector,
    @Inject(StatusBoard) private readonly board: StatusBoard,
  ) {}

  onApplicationBootstrap(): void {
    this.board.show('projector', () => this.projector.status());
    this.projector.start();
  }

  onModuleDestroy(): Promise<void> {
    return this.projector.stop();
  }
}
