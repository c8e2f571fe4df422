import { Inject, Module, type OnApplicationBootstrap, type OnApplicationShutdown } from '@nestjs/common';

import { RelayConfig } from '#libs/config';

import { UpstreamLink } from './upstream-link.js';

/** How the process reaches its upstream. */
@Module({
  providers: [
    {
      provide: UpstreamLink,
      inject: [RelayConfig],
      useFactory: ({ upstreamLink }: RelayConfig) => new UpstreamLink(upstreamLink),
    },
  ],
  exports: [UpstreamLink],
})
export class UpstreamLinkModule implements OnApplicationBootstrap, OnApplicationShutdown {
  constructor(@Inject(UpstreamLink) private readonly link: UpstreamLink) {}

  onApplicationBootstrap(): void {
    this.link.watch();
  }

  /** The last calls are made until now. */
  onApplicationShutdown(): Promise<void> {
    return this.link.close();
  }
}
