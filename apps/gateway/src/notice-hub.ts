import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import type { Subscription } from 'rxjs';

import {
  differences,
  flagIn,
  type Notice,
  noticeIn,
  type Position,
  segmentIn,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, type LoggedMessage, UnknownEpoch } from '#libs/event-log';

import type { EnvironmentViews, Jump } from './environment-views.js';
import { sdkEvent } from './sdk-payloads.js';

/** SDKs count 30 s of silence as a lost stream; some look only every 15. */
const HEARTBEAT_MS = 10_000;
/** A reader for whom more than this waits is let go; it comes back and starts from what is true then. */
const MOST_WAITING_BYTES = 1024 * 1024;
const MOST_STREAMS = 50_000;
const END_WITHIN_MS = 1000;
const RETRY_MS = 1000;
/** By how much the clocks of this machine and the log's may differ. */
const CLOCKS_DIFFER_MS = 300_000;

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
  private jumps: Subscription | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly views: EnvironmentViews,
  ) {}

  /** Returns once no notice that comes later can be missed, also if the log is away now. */
  async start(): Promise<void> {
    const head = await this.log.head('FF_CHANGES').catch(() => undefined);
    this.work = this.keepTelling(head);
    this.jumps = this.views.jumps.subscribe((jumps) => this.tellJumps(jumps));
    this.heartbeat = setInterval(() => this.beat(), HEARTBEAT_MS);
    this.revocations = this.views.revoked.subscribe(({ environment, apiKey }) => {
      for (const stream of this.streams.get(environment) ?? []) if (stream.apiKey === apiKey) end(stream);
    });
  }

  /** Ends every stream in a way that SDKs understand. */
  async stop(): Promise<void> {
    clearInterval(this.heartbeat);
    this.revocations?.unsubscribe();
    this.jumps?.unsubscribe();
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

  /** @param after undefined if the log was away at the start: then it is read from its beginning, and most passed over */
  private async keepTelling(after: Position | undefined): Promise<void> {
    const { signal } = this.stopping;
    const oldMs = after ? 0 : Date.now() - CLOCKS_DIFFER_MS;
    let told = after;
    for (let lastFailure = ''; !signal.aborted;) {
      try {
        for await (const messages of this.log.tail('FF_CHANGES', told, signal)) {
          for (const message of messages) {
            if (message.time >= oldMs) await this.tell(message);
            told = message.position;
            lastFailure = '';
          }
        }
      } catch (error) {
        if (signal.aborted) return;
        if (String(error) !== lastFailure && !(error instanceof UnknownEpoch)) {
          this.logger.warn(
            `Notices cannot be read: ${String(error)}; streams stay open, and will hear of them`,
          );
        }
        lastFailure = String(error);
        if (error instanceof UnknownEpoch) {
          this.logger.warn(
            'The notices were lost, and nobody knows which: all streams end, and SDKs read anew',
          );
          for (const stream of this.all()) end(stream);
          this.views.beginAgain();
          told = undefined;
        }
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  private async tell({ body, position, subject }: LoggedMessage): Promise<void> {
    try {
      const { notice, of } = noticeIn(body);
      // Known since the views were loaded, or told when they changed their log.
      if (this.views.beganWith(of)) return;
      // Also with no stream open: one that opens now is read together with views that must hold the change.
      if (await this.views.caughtUp(of)) this.send(notice);
      else if (!this.stopping.signal.aborted) {
        this.logger.warn(
          `Streams of ${notice.environment} end: what notice ${position.sequence} tells of cannot be read here`,
        );
        for (const stream of this.streams.get(notice.environment) ?? []) end(stream);
      }
    } catch (error) {
      this.logger.error(`Notice ${position.sequence} (${subject}) is passed over: ${String(error)}`);
    }
  }

  /** The notices of a log that took the place of another may come late, or from nobody: what differs is known here. */
  private tellJumps(jumps: readonly Jump[]): void {
    for (const { before, after } of jumps) {
      const nothing = unknownEnvironment((after ?? before)?.id ?? '');
      for (const notice of differences(before ?? nothing, after ?? nothing)) this.send(notice);
    }
  }

  private send(notice: Notice): void {
    const event = this.isPast(notice) ? undefined : sdkEvent(notice);
    const streams = this.streams.get(notice.environment);
    if (!event || !streams) return;
    const frame = chunk(`event: *\ndata: ${event}\n\n`);
    for (const stream of streams) this.write(stream, frame);
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
