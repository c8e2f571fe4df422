import { type DynamicModule, Logger, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

import { ConfigModule, ownConfig, type RelayConfig, type Role } from '#libs/config';
import { ServiceLogger } from '#libs/observability';

import { ManagementModule } from './management.module.js';
import { runService } from './run-service.js';

class Service {}

/** The modules of some roles, as one process with its settings and its management port. */
export function processOf(config: RelayConfig, roles: readonly Type[]): DynamicModule {
  return workerOf(config, [ManagementModule, ...roles]);
}

/** The same without the port: as a worker of a process that has it. */
export function workerOf(config: RelayConfig, roles: readonly Type[]): DynamicModule {
  return { module: Service, imports: [ConfigModule.of(config), ...roles] };
}

/** Runs a role that nobody connects to as this process. */
export async function runRole(role: Role, module: Type): Promise<void> {
  await runService(async () => {
    const config = ownConfig(() => [role]);
    const app = await NestFactory.createApplicationContext(processOf(config, [module]), {
      logger: new ServiceLogger(role, config.logLevel, config.logFormat),
      abortOnError: false,
    });
    tellRemarks(config);
    return { app, shutdownGraceMs: config.shutdownGraceMs };
  });
}

/** Logs what is good to know of the settings. */
export function tellRemarks({ remarks }: RelayConfig): void {
  const logger = new Logger('Settings');
  for (const remark of remarks) logger.warn(remark);
}
