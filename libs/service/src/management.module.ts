import { Inject, Module, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';

import { RelayConfig } from '#libs/config';
import { ObservabilityModule, StatusBoard } from '#libs/observability';

import { ManagementServer } from './management-server.js';

/** The management port of this process, open from start to end. */
@Module({
  imports: [ObservabilityModule],
  providers: [
    {
      provide: ManagementServer,
      inject: [StatusBoard],
      useFactory: (board: StatusBoard) => new ManagementServer(board),
    },
  ],
})
export class ManagementModule implements OnApplicationBootstrap, OnApplicationShutdown {
  constructor(
    @Inject(ManagementServer) private readonly server: ManagementServer,
    @Inject(RelayConfig) private readonly config: RelayConfig,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    await this.server.listen(this.config.managementHost, this.config.managementPort);
  }

  onApplicationShutdown(): Promise<void> {
    return this.server.close();
  }
}
