import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, StatusBoard, UpstreamStatus } from '#libs/observability';
import { StateStore, StateStoreModule } from '#libs/state-store';

import { ClientApiController } from './client-api.controller.js';
import { EnvironmentBytes } from './environment-bytes.js';
import { EnvironmentViews } from './environment-views.js';
import { HealthController } from './health.controller.js';
import { MetricsIntake } from './metrics-intake.js';
import { NoticeHub } from './notice-hub.js';
import { SdkAccess } from './sdk-access.js';
import { SdkTokens } from './sdk-tokens.js';
import { StreamController } from './stream.controller.js';
import { UpstreamReports } from './upstream-reports.js';

/** State and notices → SDKs. */
@Module({
  imports: [EventLogModule, StateStoreModule, ObservabilityModule],
  controllers: [ClientApiController, StreamController, HealthController],
  providers: [
    {
      provide: EnvironmentViews,
      inject: [EventLog, StateStore],
      useFactory: (log: EventLog, store: StateStore) => new EnvironmentViews(log, store),
    },
    {
      provide: NoticeHub,
      inject: [EventLog, EnvironmentViews],
      useFactory: (log: EventLog, views: EnvironmentViews) => new NoticeHub(log, views),
    },
    {
      provide: SdkAccess,
      inject: [EnvironmentViews, RelayConfig],
      useFactory: (views: EnvironmentViews, { authSecret, unknownKeyStatus }: RelayConfig) =>
        new SdkAccess(views, new SdkTokens(authSecret), unknownKeyStatus),
    },
    {
      provide: UpstreamReports,
      inject: [EventLog, UpstreamStatus],
      useFactory: (log: EventLog, status: UpstreamStatus) => new UpstreamReports(log, status),
    },
    {
      provide: MetricsIntake,
      inject: [EventLog],
      useFactory: (log: EventLog) => new MetricsIntake(log),
    },
    { provide: EnvironmentBytes, useFactory: () => new EnvironmentBytes() },
  ],
})
export class GatewayModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(
    @Inject(EnvironmentViews) private readonly views: EnvironmentViews,
    @Inject(NoticeHub) private readonly hub: NoticeHub,
    @Inject(UpstreamReports) private readonly reports: UpstreamReports,
    @Inject(UpstreamStatus) private readonly upstream: UpstreamStatus,
    @Inject(StatusBoard) private readonly board: StatusBoard,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    this.board.show('gateway', () => ({
      ...this.views.status(),
      streams: this.hub.openStreams,
      upstream: this.upstream.snapshot(),
    }));
    await this.hub.start();
    this.views.start();
    this.reports.start();
  }

  async onModuleDestroy(): Promise<void> {
    this.reports.stop();
    await Promise.all([this.views.stop(), this.hub.stop()]);
  }
}
