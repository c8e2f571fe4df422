import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import type { Subscription } from 'rxjs';

import { flagIn, type Notice, noticeIn, type Position, segmentIn } from '#libs/domain';
import type { EventLog, LoggedMessage } from '#libs/event-log';

import type { EnvironmentViews } from './environment-views.js';
import { sdkEvent } from './sdk-payloads.js';

/** SDKs count 30 s of silence as a lost stream; some look only every 15. */
const HEARTBEAT_MS = 10_000;
/** A reader for whom more than this waits is let go; it comes back and starts from what is true then. */
const MOST_WAITING_BYTES = 1024 * 1024;
const MOST_STREAMS = 50_000;
const END_WITHIN_MS = 1000;
const RETRY_MS = 1000;

/** An empty comment: the only heartbeat that every SDK takes for one. */
const HEARTBEAT = chunk(':\n\n');

interface Stream {
  readonly environment: string;
  /** SHA-256, lower-case hex. */
  readonly apiKey: string;
  readonly response: ServerResponse;
}

/**
 * The open streams of SDKs, by environment, and what is written to them: each notice as one frame that is made once and
 * written to all, in a write of its own, when the views hold what it tells of.
 */
export class NoticeHub {
  private readonly logger = new Logger(NoticeHub.name);
  private readonly stopping = new AbortController();
  private readonly streams = new Map<string, Set<Stream>>();
  private count = 0;
  private work: Promise<void> | undefined;
  private heartbeat: NodeJS.Timeout | undefined;
  private revocations: Subscription | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly views: EnvironmentViews,
  ) {}

  /** Returns once no notice that comes later can be missed. */
  async start(): Promise<void> {
    const head = await this.log.head('FF_CHANGES');
    this.work = this.keepTelling(head);
    this.heartbeat = setInterval(() => this.beat(), HEARTBEAT_MS);
    this.revocations = this.views.revoked.subscribe(({ environment, apiKey }) => {
      for (const stream of this.streams.get(environment) ?? []) if (stream.apiKey === apiKey) end(stream);
    });
  }

  /** Ends every stream in a way that SDKs understand. */
  async stop(): Promise<void> {
    clearInterval(this.heartbeat);
    this.revocations?.unsubscribe();
    this.stopping.abort();
    for (const stream of this.all()) end(stream);
    // Whoever does not read would hold up the end.
    setTimeout(() => {
      for (const { response } of this.all()) response.socket?.destroy();
    }, END_WITHIN_MS).unref();
    await this.work;
  }

  get openStreams(): number {
    return this.count;
  }

  get takesMore(): boolean {
    return this.count < MOST_STREAMS && !this.stopping.signal.aborted;
  }

  /**
   * Takes over a response whose headers are written, with `Connection: close`, since some SDKs see only the connection
   * end. The first byte goes out at once: SDKs wait for it.
   */
  add(environment: string, apiKey: string, response: ServerResponse): void {
    const stream = { environment, apiKey, response };
    const streams = this.streams.get(environment) ?? new Set();
    this.streams.set(environment, streams.add(stream));
    this.count++;
    response.once('close', () => {
      this.count--;
      streams.delete(stream);
      if (streams.size === 0 && this.streams.get(environment) === streams) this.streams.delete(environment);
    });
    // Errors of a socket end in `close`.
    response.on('error', () => undefined);
    this.write(stream, HEARTBEAT);
  }

  private async keepTelling(after: Position): Promise<void> {
    const { signal } = this.stopping;
    let told = after;
    while (!signal.aborted) {
      try {
        for await (const messages of this.log.tail('FF_CHANGES', told, signal)) {
          for (const message of messages) {
            await this.tell(message);
            told = message.position;
          }
        }
      } catch (error) {
        if (signal.aborted) return;
        this.logger.error(`Notices cannot be read: ${String(error)}; trying again`);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  private async tell({ body, position, subject }: LoggedMessage): Promise<void> {
    try {
      const { notice, of } = noticeIn(body);
      // Also with no stream open: one that opens now is read together with views that must hold the change.
      await this.views.caughtUp(of);
      const event = this.isPast(notice) ? undefined : sdkEvent(notice);
      const streams = this.streams.get(notice.environment);
      if (!event || !streams) return;
      const frame = chunk(`event: *\ndata: ${event}\n\n`);
      for (const stream of streams) this.write(stream, frame);
    } catch (error) {
      this.logger.error(`Notice ${position.sequence} (${subject}) is passed over: ${String(error)}`);
    }
  }

  /** Whether what it says to fetch is gone again: its removal is told next, and Node would ask for it without end. */
  private isPast({ event, kind, environment, identifier }: Notice): boolean {
    if (event === 'delete') return false;
    const state = this.views.environment(environment);
    if (!state) return true;
    if (kind === 'flag') return !flagIn(state, identifier);
    return kind === 'segment' && !segmentIn(state, identifier);
  }

  private beat(): void {
    for (const stream of this.all()) this.write(stream, HEARTBEAT);
  }

  private write({ response, environment }: Stream, { framed, plain }: Chunk): void {
    const { socket } = response;
    // One that was ended stays here until its reader has seen the end.
    if (!socket || socket.destroyed || response.writableEnded) return;
    // The frame is complete, so it goes past the response, which would build it anew for each stream.
    socket.write(response.chunkedEncoding ? framed : plain);
    if (socket.writableLength > MOST_WAITING_BYTES) {
      this.logger.warn(`A stream of ${environment} is let go: it does not read, and over 1 MiB waits for it`);
      socket.destroy();
    }
  }

  private *all(): Iterable<Stream> {
    for (const streams of this.streams.values()) yield* streams;
  }
}

interface Chunk {
  /** With the frame of HTTP/1.1's chunked encoding. */
  readonly framed: Buffer;
  /** For HTTP/1.0, which has none. */
  readonly plain: Buffer;
}

function chunk(text: string): Chunk {
  const plain = Buffer.from(text);
  return {
    plain,
    framed: Buffer.concat([Buffer.from(`${plain.length.toString(16)}\r\n`), plain, Buffer.from('\r\n')]),
  };
}

function end({ response }: Stream): void {
  response.end();
}
