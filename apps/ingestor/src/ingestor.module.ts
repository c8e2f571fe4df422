import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, StatusBoard, UpstreamStatus } from '#libs/observability';
import { SaasClient } from '#libs/saas-client';

import { Ingestor } from './ingestor.js';
import { IngestorLead } from './ingestor-lead.js';

/** Upstream → facts. */
@Module({
  imports: [EventLogModule, ObservabilityModule],
  providers: [
    {
      provide: SaasClient,
      inject: [RelayConfig],
      useFactory: (config: RelayConfig) =>
        new SaasClient({
          baseUrl: config.clientService,
          proxyKey: config.proxyKey,
          streamIdleTimeoutMs: config.streamIdleTimeoutMs,
        }),
    },
    {
      provide: IngestorLead,
      inject: [EventLog, SaasClient, UpstreamStatus, RelayConfig],
      useFactory: (log: EventLog, saas: SaasClient, status: UpstreamStatus, config: RelayConfig) =>
        new IngestorLead(log, status, () => new Ingestor(log, saas, status, config)),
    },
  ],
})
export class IngestorModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(
    @Inject(IngestorLead) private readonly ingestor: IngestorLead,
    @Inject(StatusBoard) private readonly board: StatusBoard,
  ) {}

  onApplicationBootstrap(): void {
    this.board.show('ingestor', () => this.ingestor.status());
    this.ingestor.start();
  }

  onModuleDestroy(): Promise<void> {
    return this.ingestor.stop();
  }
}
