import { Module } from '@nestjs/common';

import { StatusBoard } from './status-board.js';
import { UpstreamStatus } from './upstream-status.js';

/** What the roles of a process tell each other, and whoever looks, about their health. */
@Module({
  providers: [
    { provide: UpstreamStatus, useFactory: () => new UpstreamStatus() },
    { provide: StatusBoard, useFactory: () => new StatusBoard() },
  ],
  exports: [UpstreamStatus, StatusBoard],
})
export class ObservabilityModule {}
