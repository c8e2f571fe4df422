import { Logger, type LoggerService } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

import { ConfigModule, type RelayConfig } from '#libs/config';
import { EmbeddedEventLog, EventLog, EventLogModule } from '#libs/event-log';
import { StartupError } from '#libs/service';
import { RedisStateStore, type StateStore } from '#libs/state-store';

import { CommandFailed, reasonOf, UsageError } from './outcome.js';

/** Warnings and errors, on stderr: stdout is for results. */
class CommandLogger implements LoggerService {
  quiet = false;
  /** Where they go instead. */
  heard: string[] | undefined;

  log(): void {}

  warn(message: unknown): void {
    if (this.heard) this.heard.push(String(message));
    else if (!this.quiet) console.error(String(message));
  }

  error(message: unknown): void {
    this.warn(message);
  }
}

const logger = new CommandLogger();
Logger.overrideLogger(logger);

class Services {}

/** Opens the log that the settings name, for the time of some work. */
export async function withLog<T>(config: RelayConfig, work: (log: EventLog) => Promise<T>): Promise<T> {
  const connected = await quietly(async () => {
    const app = await NestFactory.createApplicationContext(
      { module: Services, imports: [ConfigModule.of(config), EventLogModule] },
      { logger, abortOnError: false },
    );
    try {
      await app.get(EventLog).head('FF_FACTS');
    } catch (error) {
      await app.close();
      throw error;
    }
    return app;
  }).catch((error: unknown) => {
    if (error instanceof StartupError) throw error;
    const advice = 'Check that NATS runs, with JetStream, where NATS_URL says';
    throw new CommandFailed(`The log cannot be read: ${reasonOf(error)}. ${advice}.`, { cause: error });
  });
  try {
    return await work(connected.get(EventLog));
  } finally {
    await connected.close();
  }
}

/** The same for work that only reads, which the relay that writes an embedded log does not stand in the way of. */
export async function readingLog<T>(config: RelayConfig, work: (log: EventLog) => Promise<T>): Promise<T> {
  if (config.natsUrl !== undefined) return withLog(config, work);
  const log = await EmbeddedEventLog.reader(config.dataDir);
  try {
    return await work(log);
  } finally {
    await log.close();
  }
}

/** Connects to the Redis that the settings name. @param prefix of every key */
export async function openStore({ redis }: RelayConfig, prefix = ''): Promise<StateStore> {
  if (!redis)
    throw new UsageError('REDIS_ADDRESS is not set: set it to where Redis is, for example localhost:6379.');
  return quietly(async () => {
    const store = await RedisStateStore.open({ ...redis, prefix });
    try {
      await store.positions();
      return store;
    } catch (error) {
      await store.close();
      const advice = 'Check that it runs there (REDIS_ADDRESS), and REDIS_USERNAME and REDIS_PASSWORD';
      throw new CommandFailed(`${reasonOf(error)}. ${advice}.`, { cause: error });
    }
  });
}

/** Does some work, and gathers what the adapters warn of meanwhile. */
export async function heardWhile<T>(
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly heard: readonly string[] }> {
  const heard: string[] = [];
  logger.heard = heard;
  try {
    return { result: await work(), heard };
  } finally {
    logger.heard = undefined;
  }
}

/** What the adapters say while they connect is said by the error that follows, or of no matter. */
async function quietly<T>(connect: () => Promise<T>): Promise<T> {
  logger.quiet = true;
  try {
    return await connect();
  } finally {
    logger.quiet = false;
  }
}
