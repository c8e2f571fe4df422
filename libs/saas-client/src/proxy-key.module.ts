import { Inject, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';

import { RelayConfig } from '#libs/config';

import { ProxyKey } from './proxy-key.js';

/** The proxy key of the process; without one nobody upstream is called (OFFLINE). */
@Module({
  providers: [
    {
      provide: ProxyKey,
      inject: [RelayConfig],
      useFactory: (config: RelayConfig) =>
        new ProxyKey(config.offline ? '' : config.proxyKey, config.proxyKeyFile),
    },
  ],
  exports: [ProxyKey],
})
export class ProxyKeyModule implements OnApplicationBootstrap, OnModuleDestroy {
  constructor(@Inject(ProxyKey) private readonly key: ProxyKey) {}

  onApplicationBootstrap(): void {
    this.key.watch();
  }

  onModuleDestroy(): void {
    this.key.close();
  }
}
