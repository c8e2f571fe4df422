import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import {
  ObservabilityModule,
  StatusBoard,
  Telemetry,
  upstreamCalls,
  UpstreamStatus,
} from '#libs/observability';
import {
  backoffMs,
  ProxyKey,
  ProxyKeyModule,
  SaasClient,
  UpstreamLink,
  UpstreamLinkModule,
} from '#libs/saas-client';

import { Ingestor } from './ingestor.js';
import { IngestorLead } from './ingestor-lead.js';
import { IngestorRecord } from './ingestor-record.js';
import { showIngestor } from './ingestor-telemetry.js';

/** Upstream → facts. */
@Module({
  imports: [EventLogModule, ObservabilityModule, ProxyKeyModule, UpstreamLinkModule],
  providers: [
    {
      provide: SaasClient,
      inject: [ProxyKey, UpstreamLink, RelayConfig, Telemetry],
      useFactory: (proxyKey: ProxyKey, link: UpstreamLink, config: RelayConfig, telemetry: Telemetry) =>
        new SaasClient({
          baseUrl: config.clientService,
          proxyKey,
          link,
          streamIdleTimeoutMs: config.streamIdleTimeoutMs,
          observe: upstreamCalls(telemetry),
        }),
    },
    {
      provide: IngestorLead,
      inject: [EventLog, SaasClient, UpstreamStatus, RelayConfig, Telemetry],
      useFactory: (
        log: EventLog,
        saas: SaasClient,
        status: UpstreamStatus,
        config: RelayConfig,
        telemetry: Telemetry,
      ) => {
        const record = new IngestorRecord();
        const ingestor = () => new Ingestor(log, saas, status, config, backoffMs, record);
        const lead = new IngestorLead(log, status, record, ingestor);
        showIngestor(telemetry, lead, record);
        return lead;
      },
    },
  ],
})
export class IngestorModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(
    @Inject(IngestorLead) private readonly ingestor: IngestorLead,
    @Inject(StatusBoard) private readonly board: StatusBoard,
    @Inject(ProxyKey) private readonly proxyKey: ProxyKey,
  ) {}

  onApplicationBootstrap(): void {
    this.board.show('ingestor', () => this.ingestor.status());
    this.proxyKey.changed.subscribe(() => this.ingestor.proxyKeyChanged());
    this.ingestor.start();
  }

  onModuleDestroy(): Promise<void> {
    return this.ingestor.stop();
  }
}
