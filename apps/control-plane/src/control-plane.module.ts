import { createSecretKey } from 'node:crypto';

import { type DynamicModule, Module, type OnApplicationShutdown } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { JwtModule } from '@nestjs/jwt';

import { AccountStream } from './account-stream.js';
import { AdminApiController } from './admin-api.controller.js';
import { ClientApiController } from './client-api.controller.js';
import { ControlPlaneConfig } from './control-plane-config.js';
import { EvaluationCounts } from './evaluation-counts.js';
import { FlagRegistry } from './flag-registry.js';
import { PageController } from './page.controller.js';
import { ErrorAnswer } from './requests.js';

/** The control plane's parts, around a registry that is open already. Closing the application closes it. */
@Module({
  controllers: [ClientApiController, AdminApiController, PageController],
  providers: [{ provide: APP_FILTER, useClass: ErrorAnswer }],
})
export class ControlPlaneModule implements OnApplicationShutdown {
  static of(config: ControlPlaneConfig, registry: FlagRegistry, stream: AccountStream): DynamicModule {
    // A key object: given bytes, the library tries to read them as a public key first, for each token.
    const secret = createSecretKey(registry.tokenSecret);
    return {
      module: ControlPlaneModule,
      imports: [
        JwtModule.register({
          secret,
          signOptions: { algorithm: 'HS256', noTimestamp: true },
          verifyOptions: { algorithms: ['HS256'] },
        }),
      ],
      providers: [
        { provide: ControlPlaneConfig, useValue: config },
        { provide: FlagRegistry, useValue: registry },
        { provide: EvaluationCounts, useValue: registry.counts },
        { provide: AccountStream, useValue: stream },
      ],
    };
  }

  constructor(private readonly registry: FlagRegistry) {}

  /** The last hook: no request is under way any more. */
  onApplicationShutdown(): void {
    this.registry.close();
  }
}
