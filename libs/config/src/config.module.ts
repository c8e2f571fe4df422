import { Module } from '@nestjs/common';

import { RelayConfig } from './relay-config.js';

/** The settings, read once from the environment of the process. */
@Module({
  providers: [{ provide: RelayConfig, useFactory: () => new RelayConfig(process.env) }],
  exports: [RelayConfig],
})
export class ConfigModule {}
