import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { ConfigModule, RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, UpstreamStatus } from '#libs/observability';
import { SaasClient } from '#libs/saas-client';

import { Ingestor } from './ingestor.js';

/** Upstream → facts. */
@Module({
  imports: [ConfigModule, EventLogModule, ObservabilityModule],
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
      provide: Ingestor,
      inject: [EventLog, SaasClient, UpstreamStatus, RelayConfig],
      useFactory: (log: EventLog, saas: SaasClient, status: UpstreamStatus, config: RelayConfig) =>
        new Ingestor(log, saas, status, config),
    },
  ],
})
export class IngestorModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(@Inject(Ingestor) private readonly ingestor: Ingestor) {}

  onApplicationBootstrap(): Promise<void> {
    return this.ingestor.start();
  }

  onModuleDestroy(): Promise<void> {
    return this.ingestor.stop();
  }
}
