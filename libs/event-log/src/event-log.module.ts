import { Inject, Module, type OnApplicationShutdown } from '@nestjs/common';

import { ConfigModule, RelayConfig } from '#libs/config';

import { EmbeddedEventLog } from './embedded-event-log.js';
import { EventLog } from './event-log.js';

/** The log of this process, opened at start and closed when all who use it have stopped. */
@Module({
  imports: [ConfigModule],
  providers: [
    {
      provide: EventLog,
      inject: [RelayConfig],
      useFactory: ({ dataDir }: RelayConfig) => EmbeddedEventLog.open(dataDir),
    },
  ],
  exports: [EventLog],
})
export class EventLogModule implements OnApplicationShutdown {
  constructor(@Inject(EventLog) private readonly log: EventLog) {}

  onApplicationShutdown(): Promise<void> {
    return this.log.close();
  }
}
