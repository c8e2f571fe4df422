import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, StatusBoard } from '#libs/observability';
import { SaasClient } from '#libs/saas-client';

import { MetricsForwarder } from './metrics-forwarder.js';

/** Evaluation counts → upstream. */
@Module({
  imports: [EventLogModule, ObservabilityModule],
  providers: [
    {
      provide: MetricsForwarder,
      inject: [EventLog, RelayConfig],
      useFactory: (log: EventLog, config: RelayConfig) => {
        const saas = new SaasClient({
          baseUrl: config.clientService,
          metricsUrl: config.metricService,
          proxyKey: config.proxyKey,
          streamIdleTimeoutMs: config.streamIdleTimeoutMs,
        });
        return new MetricsForwarder(log, saas, {
          windowMs: config.metricPostDurationMs,
          // The others of this process need their part of it.
          shutdownGraceMs: config.shutdownGraceMs / 2,
        });
      },
    },
  ],
})
export class MetricsForwarderModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(
    @Inject(MetricsForwarder) private readonly forwarder: MetricsForwarder,
    @Inject(StatusBoard) private readonly board: StatusBoard,
  ) {}

  onApplicationBootstrap(): void {
    this.board.show('metrics-forwarder', () => this.forwarder.status());
    this.forwarder.start();
  }

  onModuleDestroy(): Promise<void> {
    return this.forwarder.stop();
  }
}
