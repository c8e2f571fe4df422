import { Module } from '@nestjs/common';

import { StatusBoard } from './status-board.js';
import { Telemetry } from './telemetry.js';
import { UpstreamStatus } from './upstream-status.js';
import { showUpstream } from './upstream-telemetry.js';

/** What the roles of a process tell each other, and whoever looks, about their health. */
@Module({
  providers: [
    { provide: UpstreamStatus, useFactory: () => new UpstreamStatus() },
    { provide: StatusBoard, useFactory: () => new StatusBoard() },
    {
      provide: Telemetry,
      inject: [UpstreamStatus, StatusBoard],
      useFactory: (upstream: UpstreamStatus, board: StatusBoard) => {
        const telemetry = Telemetry.ofProcess();
        showUpstream(telemetry, upstream);
        board.showReady(telemetry);
        return telemetry;
      },
    },
  ],
  exports: [UpstreamStatus, StatusBoard, Telemetry],
})
export class ObservabilityModule {}
