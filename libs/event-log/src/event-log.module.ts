import { Inject, Module, type OnApplicationShutdown } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { ObservabilityModule, Telemetry } from '#libs/observability';

import { EmbeddedEventLog } from './embedded-event-log.js';
import { EventLog } from './event-log.js';
import { JetStreamEventLog } from './jetstream-event-log.js';

/** Who does not keep the bounds, as a command does not, drops nothing. */
const UNBOUNDED = { keepForMs: Number.POSITIVE_INFINITY, keepBytes: Number.POSITIVE_INFINITY };

/** The log of this process, opened at start and closed when all who use it have stopped. */
@Module({
  imports: [ObservabilityModule],
  providers: [
    {
      provide: EventLog,
      inject: [RelayConfig],
      useFactory: (config: RelayConfig) =>
        config.natsUrl === undefined
          ? EmbeddedEventLog.open(config.dataDir, { metrics: config.metricsBounds ?? UNBOUNDED })
          : JetStreamEventLog.open({
              servers: config.natsUrl,
              replicas: config.natsReplicas,
              credentialsFile: config.natsCredentials,
              monitorUrl: config.natsMonitorUrl,
              metrics: config.metricsBounds,
            }),
    },
  ],
  exports: [EventLog],
})
export class EventLogModule implements OnApplicationShutdown {
  constructor(
    @Inject(EventLog) private readonly log: EventLog,
    @Inject(Telemetry) telemetry: Telemetry,
  ) {
    telemetry.gauge('ff_relay_log_reachable', '1 while the log can be reached', [], (set) =>
      set(Number(log.reachable)),
    );
  }

  onApplicationShutdown(): Promise<void> {
    return this.log.close();
  }
}
