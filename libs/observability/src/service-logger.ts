import { isatty } from 'node:tty';

import { ConsoleLogger } from '@nestjs/common';

const LEVELS = {
  DEBUG: ['debug', 'log', 'warn', 'error', 'fatal'],
  INFO: ['log', 'warn', 'error', 'fatal'],
  WARN: ['warn', 'error', 'fatal'],
  ERROR: ['error', 'fatal'],
} as const;

/** What Nest says about its own wiring at every start, and of an error that is thrown to the caller as well. */
const WIRING = new Set<unknown>([
  'NestFactory',
  'InstanceLoader',
  'RoutesResolver',
  'RouterExplorer',
  'NestApplication',
  'ExceptionHandler',
]);

/** Nest's console logger, on a level, as text or as JSON lines, without the lines on Nest's own wiring. */
export class ServiceLogger extends ConsoleLogger {
  constructor(service: string, level: keyof typeof LEVELS, format: 'text' | 'json') {
    super({
      prefix: service,
      logLevels: [...LEVELS[level]],
      json: format === 'json',
      colors: format === 'text' && isatty(process.stdout.fd),
    });
  }

  protected override getTimestamp(): string {
    return new Date().toISOString();
  }

  override log(message: unknown, ...context: unknown[]): void {
    if (!WIRING.has(context.at(-1))) super.log(message, ...context);
  }

  override error(message: unknown, ...context: unknown[]): void {
    if (!WIRING.has(context.at(-1))) super.error(message, ...context);
  }
}
