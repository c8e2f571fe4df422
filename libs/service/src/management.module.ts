import { Inject, Module, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { ObservabilityModule, StatusBoard, Telemetry } from '#libs/observability';

import { ManagementServer, PrometheusServer } from './management-server.js';

/** The management port of this process, and that of Prometheus if it has its own, open from start to end. */
@Module({
  imports: [ObservabilityModule],
  providers: [
    {
      provide: ManagementServer,
      inject: [StatusBoard, Telemetry],
      useFactory: (board: StatusBoard, telemetry: Telemetry) => new ManagementServer(board, telemetry),
    },
    {
      provide: PrometheusServer,
      inject: [Telemetry],
      useFactory: (telemetry: Telemetry) => new PrometheusServer(telemetry),
    },
  ],
})
export class ManagementModule implements OnApplicationBootstrap, OnApplicationShutdown {
  constructor(
    @Inject(ManagementServer) private readonly management: ManagementServer,
    @Inject(PrometheusServer) private readonly prometheus: PrometheusServer,
    @Inject(RelayConfig) private readonly config: RelayConfig,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    const { host, managementHost, managementPort, prometheusPort } = this.config;
    await this.management.listen(managementHost, managementPort);
    if (prometheusPort !== undefined) await this.prometheus.listen(host, prometheusPort);
  }

  async onApplicationShutdown(): Promise<void> {
    await Promise.all([this.management.close(), this.prometheus.close()]);
  }
}
