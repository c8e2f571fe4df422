import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, StatusBoard, Telemetry, upstreamCalls } from '#libs/observability';
import { ProxyKey, ProxyKeyModule, SaasClient, UpstreamLink, UpstreamLinkModule } from '#libs/saas-client';

import { MetricsForwarder } from './metrics-forwarder.js';

/** Evaluation counts → upstream. */
@Module({
  imports: [EventLogModule, ObservabilityModule, ProxyKeyModule, UpstreamLinkModule],
  providers: [
    {
      provide: MetricsForwarder,
      inject: [EventLog, ProxyKey, UpstreamLink, RelayConfig, Telemetry],
      useFactory: (
        log: EventLog,
        proxyKey: ProxyKey,
        link: UpstreamLink,
        config: RelayConfig,
        telemetry: Telemetry,
      ) => {
        const saas = new SaasClient({
          baseUrl: config.clientService,
          metricsUrl: config.metricService,
          proxyKey,
          link,
          streamIdleTimeoutMs: config.streamIdleTimeoutMs,
          observe: upstreamCalls(telemetry),
        });
        return new MetricsForwarder(log, saas, telemetry, {
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
