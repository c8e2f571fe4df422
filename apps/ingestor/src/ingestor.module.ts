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

import { BundleIngestor } from './bundle-ingestor.js';
import { Ingestor } from './ingestor.js';
import { IngestorLead } from './ingestor-lead.js';
import { IngestorRecord } from './ingestor-record.js';
import { intakeTimes, showIngestor } from './ingestor-telemetry.js';

/** Upstream, or CONFIG_DIR in its place → facts. */
@Module({
  imports: [EventLogModule, ObservabilityModule, ProxyKeyModule, UpstreamLinkModule],
  providers: [
    {
      provide: IngestorLead,
      inject: [EventLog, ProxyKey, UpstreamLink, UpstreamStatus, RelayConfig, Telemetry],
      useFactory: (
        log: EventLog,
        proxyKey: ProxyKey,
        link: UpstreamLink,
        status: UpstreamStatus,
        config: RelayConfig,
        telemetry: Telemetry,
      ) => {
        const record = new IngestorRecord(intakeTimes(telemetry));
        const { clientService: baseUrl, streamIdleTimeoutMs, configDir: directory } = config;
        const fromDirectory = () =>
          new BundleIngestor(log, status, record, { directory, rereadMs: config.reconcileIntervalMs });
        const fromUpstream = () => {
          const observe = upstreamCalls(telemetry);
          const saas = new SaasClient({ baseUrl, proxyKey, link, streamIdleTimeoutMs, observe });
          return () => new Ingestor(log, saas, status, config, backoffMs, record);
        };
        const lead = new IngestorLead(log, status, record, config.offline ? fromDirectory : fromUpstream());
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
