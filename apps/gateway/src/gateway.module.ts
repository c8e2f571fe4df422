import { Inject, Logger, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { EventLog, EventLogModule } from '#libs/event-log';
import {
  ObservabilityModule,
  type PartStatus,
  StatusBoard,
  Telemetry,
  upstreamCalls,
  UpstreamStatus,
} from '#libs/observability';
import { SaasClient, UpstreamLink, UpstreamLinkModule } from '#libs/saas-client';
import { StateStore, StateStoreModule } from '#libs/state-store';

import { ClientApiController } from './client-api.controller.js';
import { EnvironmentBytes } from './environment-bytes.js';
import { EnvironmentViews } from './environment-views.js';
import { Evaluator } from './evaluator.js';
import { GatewayTelemetry } from './gateway-telemetry.js';
import { GatewayWorker } from './gateway-worker.js';
import { HealthController } from './health.controller.js';
import { MetricsIntake } from './metrics-intake.js';
import { NoticeHub } from './notice-hub.js';
import { OfrepController } from './ofrep.controller.js';
import { RememberedTargets } from './remembered-targets.js';
import { PrometheusController } from './prometheus.controller.js';
import { SdkAccess } from './sdk-access.js';
import { SdkEvaluations } from './sdk-evaluations.js';
import { SdkTokens } from './sdk-tokens.js';
import { StreamController } from './stream.controller.js';
import { TargetForwarder } from './target-forwarder.js';
import { UpstreamLoss } from './upstream-loss.js';
import { UpstreamReports } from './upstream-reports.js';

/** State and notices → SDKs. */
@Module({
  imports: [EventLogModule, StateStoreModule, ObservabilityModule, UpstreamLinkModule],
  controllers: [
    ClientApiController,
    OfrepController,
    StreamController,
    HealthController,
    PrometheusController,
  ],
  providers: [
    {
      provide: EnvironmentViews,
      inject: [EventLog, StateStore],
      useFactory: (log: EventLog, store: StateStore) => new EnvironmentViews(log, store),
    },
    {
      provide: NoticeHub,
      inject: [EventLog, EnvironmentViews, GatewayTelemetry, RelayConfig],
      useFactory: (
        log: EventLog,
        views: EnvironmentViews,
        telemetry: GatewayTelemetry,
        config: RelayConfig,
      ) =>
        new NoticeHub(log, views, telemetry, {
          replayMs: config.streamReplayMs,
          most: config.maxStreams,
          mostOfKey: config.maxStreamsPerKey,
          maxAgeMs: config.streamMaxAgeMs,
          drainMs: config.drainMs,
        }),
    },
    {
      provide: UpstreamLoss,
      inject: [UpstreamStatus, NoticeHub, RelayConfig],
      useFactory: (status: UpstreamStatus, hub: NoticeHub, config: RelayConfig) =>
        new UpstreamLoss(status, hub, config.closeStreamsOnUpstreamLoss),
    },
    {
      provide: SdkAccess,
      inject: [EnvironmentViews, RelayConfig],
      useFactory: (views: EnvironmentViews, config: RelayConfig) =>
        new SdkAccess(views, new SdkTokens(config.authSecret, config.formerAuthSecrets), config),
    },
    {
      provide: UpstreamReports,
      inject: [EventLog, UpstreamStatus],
      useFactory: (log: EventLog, status: UpstreamStatus) => new UpstreamReports(log, status),
    },
    {
      provide: MetricsIntake,
      inject: [EventLog, RelayConfig, GatewayTelemetry],
      useFactory: (log: EventLog, config: RelayConfig, telemetry: GatewayTelemetry) =>
        new MetricsIntake(log, telemetry, {
          bodyLimitBytes: config.metricsBodyLimitBytes,
          isKeeping: config.metricPostDurationMs > 0,
        }),
    },
    {
      provide: GatewayTelemetry,
      inject: [Telemetry, EnvironmentViews],
      useFactory: (telemetry: Telemetry, views: EnvironmentViews) => new GatewayTelemetry(telemetry, views),
    },
    {
      provide: TargetForwarder,
      inject: [RelayConfig, UpstreamLink, Telemetry],
      useFactory: (
        { forwardTargets, clientService: baseUrl, streamIdleTimeoutMs }: RelayConfig,
        link: UpstreamLink,
        telemetry: Telemetry,
      ) => {
        if (!forwardTargets) return undefined;
        // What it calls asks for no proxy key, and a gateway has none.
        const proxyKey = { current: '' };
        const observe = upstreamCalls(telemetry);
        return new TargetForwarder(new SaasClient({ baseUrl, proxyKey, link, streamIdleTimeoutMs, observe }));
      },
    },
    {
      provide: Evaluator,
      inject: [EnvironmentViews, GatewayTelemetry],
      useFactory: (views: EnvironmentViews, telemetry: GatewayTelemetry) => new Evaluator(views, telemetry),
    },
    {
      provide: SdkEvaluations,
      inject: [Evaluator, RelayConfig],
      useFactory: (evaluator: Evaluator, { goRelayJsonValues }: RelayConfig) =>
        new SdkEvaluations(evaluator, goRelayJsonValues),
    },
    { provide: GatewayWorker, useFactory: () => GatewayWorker.join() },
    { provide: RememberedTargets, useFactory: () => new RememberedTargets() },
    { provide: EnvironmentBytes, useFactory: () => new EnvironmentBytes() },
  ],
})
export class GatewayModule implements OnApplicationBootstrap, OnModuleDestroy {
  private isStopping = false;

  constructor(
    @Inject(EnvironmentViews) private readonly views: EnvironmentViews,
    @Inject(NoticeHub) private readonly hub: NoticeHub,
    @Inject(UpstreamReports) private readonly reports: UpstreamReports,
    @Inject(UpstreamLoss) private readonly loss: UpstreamLoss,
    @Inject(UpstreamStatus) private readonly upstream: UpstreamStatus,
    @Inject(TargetForwarder) private readonly targets: TargetForwarder | undefined,
    @Inject(MetricsIntake) private readonly intake: MetricsIntake,
    @Inject(StatusBoard) private readonly board: StatusBoard,
    @Inject(RelayConfig) private readonly config: RelayConfig,
    @Inject(GatewayTelemetry) private readonly telemetry: GatewayTelemetry,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    this.warn();
    this.board.show('gateway', () => ({
      ...this.views.status(),
      ...this.unready(),
      ...(this.config.bypassAuth && { bypassAuth: true }),
      ...this.intake.status(),
      streams: this.hub.openStreams,
      upstream: this.upstream.snapshot(),
      ...(this.targets && { targets: this.targets.status() }),
    }));
    this.telemetry.showStreams(this.hub);
    this.views.revoked.subscribe(({ environment, apiKey }) => {
      if (apiKey === undefined) void this.telemetry.forget(environment);
    });
    await this.hub.start();
    this.views.start();
    this.reports.start();
    this.loss.start();
  }

  async onModuleDestroy(): Promise<void> {
    this.isStopping = true;
    this.loss.stop();
    this.reports.stop();
    // Streams that are still open hear of what changes meanwhile.
    await this.hub.drain();
    await Promise.all([this.views.stop(), this.hub.stop(), this.targets?.stop()]);
  }

  /** What makes a gateway unready that holds the whole account. */
  private unready(): PartStatus | undefined {
    if (this.isStopping) return { ready: false, notReadyBecause: 'it is stopping' };
    const { maxDataAgeS } = this.config;
    const { dataAgeS } = this.upstream;
    if (maxDataAgeS === undefined || (dataAgeS !== undefined && dataAgeS <= maxDataAgeS)) return undefined;
    const age = dataAgeS === undefined ? 'nobody knows when' : `${dataAgeS} s ago`;
    return {
      ready: false,
      notReadyBecause: `the upstream last agreed ${age}, and MAX_DATA_AGE is ${maxDataAgeS} s`,
    };
  }

  private warn(): void {
    const { bypassAuth, formerAuthSecrets, metricPostDurationMs, offline } = this.config;
    const logger = new Logger('Gateway');
    if (bypassAuth) {
      logger.warn('BYPASS_AUTH is on: whoever reaches the SDK port may read every environment of this relay');
    }
    if (metricPostDurationMs === 0) {
      const why = offline ? 'OFFLINE is on' : 'METRIC_POST_DURATION is 0';
      logger.warn(`${why}: evaluation counts of SDKs are taken and dropped`);
    }
    if (formerAuthSecrets.some(({ length }) => length < 32)) {
      logger.warn(
        'AUTH_SECRET_PREVIOUS has a short secret: who guesses it and knows the hash of an SDK key may read as its SDK does. Take it out once the SDKs were restarted',
      );
    }
  }
}
