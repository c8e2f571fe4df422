import cluster from 'node:cluster';
import { once } from 'node:events';
import { createServer } from 'node:net';

import { Logger } from '@nestjs/common';
import { z } from 'zod';

import { SettingsError } from '#libs/config';

/** Something outside the process keeps it from starting. The message says what, and what to do. */
export class StartupError extends Error {
  override readonly name = 'StartupError';
}

/**
 * Runs one service as this process: starts it, tells the parent (if there is one) that it is ready, and stops it on
 * SIGTERM, SIGINT, or when the parent is gone. Exit code 0 after a stop, 1 when it could not start.
 *
 * @param shutdownGraceMs how long a stop may take before the process ends anyway
 */
export async function runService(
  start: () => Promise<{ readonly app: { close(): Promise<void> }; readonly shutdownGraceMs: number }>,
): Promise<void> {
  let stop: (reason: string) => void = () => process.exit(0);
  // The same listeners from start to end: a signal that comes while they change places is lost.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop(signal));
  // A parent that dies closes its channel.
  process.once('disconnect', () => stop('the process that started it is gone'));
  try {
    const { app, shutdownGraceMs } = await start();
    stop = (reason) => {
      stop = () => undefined;
      new Logger('Service').log(`Stopping (${reason})`);
      setTimeout(() => process.exit(0), shutdownGraceMs).unref();
      app.close().then(
        () => process.exit(0),
        (error: unknown) => {
          console.error(`Could not stop cleanly: ${String(error)}`);
          process.exit(1);
        },
      );
    };
    // A parent that died meanwhile is noticed by the end of its channel.
    process.send?.('ready', () => undefined);
  } catch (error) {
    await tellWhy(messageFor(error));
    process.exit(1);
  }
}

const failedStart = z.object({ couldNotStart: z.string() });

/** Why a worker could not start, if that is what it says. */
export function couldNotStart(message: unknown): string | undefined {
  return failedStart.safeParse(message).data?.couldNotStart;
}

/** What keeps one worker from starting may keep all from it, and is said once by the process that started them. */
async function tellWhy(message: string): Promise<void> {
  if (!cluster.isWorker) console.error(message);
  else
    await new Promise((sent) =>
      process.send?.({ couldNotStart: message } satisfies z.infer<typeof failedStart>, sent),
    );
}

function messageFor(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const expected = error instanceof StartupError || error instanceof SettingsError;
  return expected ? error.message : (error.stack ?? error.message);
}

/** Throws StartupError if nobody could listen there now: better said at once than after the first state has come. */
export async function expectFreePort(host: string, port: number, setting: string): Promise<void> {
  const probe = createServer();
  try {
    probe.listen({ host, port, exclusive: true });
    await once(probe, 'listening');
  } catch (error) {
    throw listenFailure(error, host, port, setting);
  } finally {
    probe.close();
  }
}

/** Turns what `listen` throws into a message that says what to do. */
export function listenFailure(error: unknown, host: string, port: number, setting: string): Error {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'EADDRINUSE') {
    return new StartupError(
      `Port ${port} is in use. Stop the process that listens there, or set ${setting} to another port.`,
      { cause: error },
    );
  }
  if (code === 'EACCES') {
    return new StartupError(
      `Port ${port} needs rights that this process does not have. Set ${setting} to 1024 or above.`,
      {
        cause: error,
      },
    );
  }
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return new StartupError(
      `${host} is no address of this machine. Set the address to listen on to one of them, or to 0.0.0.0 for all.`,
      {
        cause: error,
      },
    );
  }
  return error instanceof Error ? error : new Error(String(error));
}
