import type { ServerResponse } from 'node:http';

import { Logger, type OnModuleDestroy, ServiceUnavailableException } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

/**
 * A message of the account stream (protocol §3): what changed, not its new state. The domain `metrics` is ours: counts
 * came in for an environment.
 */
export interface AccountMessage {
  readonly event: string;
  readonly domain: string;
  readonly identifier: string;
  readonly version: number;
  /** UUID; empty where a message is about several environments or none. */
  readonly environment: string;
  readonly environments?: readonly string[];
  /** Lower-case hex SHA-256 of an SDK key; empty unless the message is about one. */
  readonly apiKey: string;
}

const LIMITS = {
  /** go-sdk gives up on a stream after 30 s without an event or an empty comment. */
  heartbeatMs: 10_000,
  streams: 1_000,
  /** A reader for whom more than this waits is closed: it will come back and read anew. */
  waitingBytes: 1 << 20,
};

const HEARTBEAT = ':\n\n';

/** Tells every open stream what changed, in the order of the calls to `publish`, as server-sent events. */
export class AccountStream implements OnModuleDestroy {
  private readonly logger = new Logger(AccountStream.name);
  private readonly readers = new Map<ServerResponse, (message: AccountMessage) => boolean>();
  private readonly heartbeat: NodeJS.Timeout;
  private stopped = false;

  constructor(private readonly limits = LIMITS) {
    this.heartbeat = setInterval(() => this.beat(), limits.heartbeatMs).unref();
  }

  /**
   * Turns a request into a stream that stays open. It hears the messages that `concerns` accepts.
   * Throws 503 when there are too many, or the process is stopping.
   */
  open(reply: FastifyReply, concerns: (message: AccountMessage) => boolean): void {
    if (this.stopped) throw new ServiceUnavailableException('The control plane is stopping');
    if (this.readers.size >= this.limits.streams) {
      throw new ServiceUnavailableException(
        `${this.limits.streams} streams are open, which is the most; close some`,
      );
    }
    reply.hijack();
    const response = reply.raw;
    response.writeHead(200, {
      'Content-Type': 'text/event-stream',
      'Cache-Control': 'no-cache',
      'X-Accel-Buffering': 'no',
    });
    this.readers.set(response, concerns);
    response.on('close', () => this.readers.delete(response));
    this.send(response, HEARTBEAT);
  }

  get openStreams(): number {
    return this.readers.size;
  }

  publish(message: AccountMessage): void {
    const event = `event: *\ndata: ${JSON.stringify(message)}\n\n`;
    for (const [response, concerns] of this.readers) {
      if (concerns(message)) this.send(response, event);
    }
  }

  /** Streams end here: once the HTTP server closes it waits for them, and later hooks run only after that. */
  onModuleDestroy(): void {
    this.stopped = true;
    clearInterval(this.heartbeat);
    for (const response of this.readers.keys()) response.end();
    this.readers.clear();
  }

  private beat(): void {
    for (const response of this.readers.keys()) this.send(response, HEARTBEAT);
  }

  private send(response: ServerResponse, text: string): void {
    response.write(text);
    if (response.writableLength <= this.limits.waitingBytes) return;
    this.logger.warn(`A stream is closed: its reader is ${response.writableLength} bytes behind`);
    this.readers.delete(response);
    response.destroy();
  }
}
