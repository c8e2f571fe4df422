import { type DynamicModule, Global, Module } from '@nestjs/common';

import { RelayConfig } from './relay-config.js';

/** The settings of this process, for all of its roles. */
@Global()
@Module({})
export class ConfigModule {
  static of(config: RelayConfig): DynamicModule {
    return {
      module: ConfigModule,
      providers: [{ provide: RelayConfig, useValue: config }],
      exports: [RelayConfig],
    };
  }
}
