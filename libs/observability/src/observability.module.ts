import { Module } from '@nestjs/common';

import { UpstreamStatus } from './upstream-status.js';

/** What the roles of a process tell each other about their health. */
@Module({
  providers: [{ provide: UpstreamStatus, useFactory: () => new UpstreamStatus() }],
  exports: [UpstreamStatus],
})
export class ObservabilityModule {}
