import type { ServerResponse } from 'node:http';

import { Logger } from '@nestjs/common';

import type { Position } from '#libs/domain';

import type { GatewayTelemetry, LetGo } from './gateway-telemetry.js';
import { type EventBatch, HEARTBEAT, type Reader } from './stream-events.js';

export interface StreamLimits {
  /** How many may be open, and how many of one SDK key; 0 is no limit. */
  readonly most: number;
  readonly mostOfKey: number;
  /** After which a stream is ended, up to a quarter earlier; 0 is never. */
  readonly maxAgeMs: number;
  /** How long the end of all may be spread over. */
  readonly drainMs: number;
}

/** SDKs count 30 s of silence as a lost stream; some look only every 15. */
const HEARTBEAT_MS = 10_000;
/** Every so often a part of the streams has its turn, so that none waits for a beat of all. */
const TURN_MS = 1000;
const TURNS = HEARTBEAT_MS / TURN_MS;
/** A reader for whom more than this waits, beside what it missed, is let go; it comes back and hears what it missed. */
const MOST_WAITING_BYTES = 1024 * 1024;
/** For a reader to see the end. */
const END_WITHIN_MS = 500;
/** So many ends at once are no burden for whoever they come back to. */
const ENDS_PER_SECOND = 500;

/** Who opens a stream, and of what. */
export interface StreamOpening {
  readonly environment: string;
  /** SHA-256, lower-case hex. */
  readonly apiKey: string;
  readonly reader: Reader;
}

/** What a stream found when it was opened. */
export interface Joined {
  /** Up to which notice streams had been told; undefined if nothing was told yet. */
  readonly told: number | undefined;
  /** Up to which fact the views held everything. */
  readonly held: Position | undefined;
}

/** An open stream, and what its reader knows. */
export class Stream {
  readonly environment: string;
  readonly apiKey: string;
  readonly reader: Reader;
  /** Whether its reader heard everything up to what is told now. Until then it is sent no ids. */
  isLevel = false;
  /** Up to where its reader heard already, from another gateway that is further. */
  heardUntil = 0;
  /** How much of what it missed may still wait for it. */
  replayBytes = 0;

  constructor(
    opening: StreamOpening,
    readonly response: ServerResponse,
    readonly joined: Joined,
    readonly turn: number,
    readonly endsAt: number,
  ) {
    this.environment = opening.environment;
    this.apiKey = opening.apiKey;
    this.reader = opening.reader;
  }

  /** One that was ended is still there until its reader has seen the end. */
  get isOpen(): boolean {
    const { socket, writableEnded } = this.response;
    return socket !== null && !socket.destroyed && !writableEnded;
  }
}

/** The sockets of the open streams: written to, kept alive, ended. */
export class OpenStreams {
  private readonly logger = new Logger('Streams');
  /** By environment and SDK key. */
  private readonly streams = new Map<string, Map<string, Set<Stream>>>();
  private readonly turns = Array.from({ length: TURNS }, () => new Set<Stream>());
  private opened = 0;
  private count = 0;
  private turn = 0;
  private timer: NodeJS.Timeout | undefined;
  private drained: PromiseWithResolvers<void> | undefined;

  constructor(
    private readonly limits: StreamLimits,
    private readonly telemetry: GatewayTelemetry,
  ) {}

  start(): void {
    this.timer = setInterval(() => this.nextTurn(), TURN_MS);
  }

  /** How many are open of each environment that has any. */
  *sizes(): Iterable<readonly [environment: string, streams: number]> {
    for (const [environment, byKey] of this.streams) {
      yield [environment, [...byKey.values()].reduce((sum, { size }) => sum + size, 0)];
    }
  }

  get size(): number {
    return this.count;
  }

  /** Whether one more may be opened. */
  takes(environment: string, apiKey: string): boolean {
    const { most, mostOfKey } = this.limits;
    if (this.drained || (most > 0 && this.count >= most)) return false;
    return mostOfKey === 0 || (this.streams.get(environment)?.get(apiKey)?.size ?? 0) < mostOfKey;
  }

  /** Takes over a response whose headers are written. The first byte goes out at once: SDKs wait for it. */
  open(opening: StreamOpening, response: ServerResponse, joined: Joined): Stream {
    const { environment, apiKey, reader } = opening;
    const { maxAgeMs } = this.limits;
    const endsAt = maxAgeMs > 0 ? Date.now() + maxAgeMs * (1 - Math.random() / 4) : Number.POSITIVE_INFINITY;
    const stream = new Stream(opening, response, joined, this.opened++ % TURNS, endsAt);
    const byKey = this.streams.get(environment) ?? new Map<string, Set<Stream>>();
    this.streams.set(environment, byKey);
    const ofKey = byKey.get(apiKey) ?? new Set();
    byKey.set(apiKey, ofKey.add(stream));
    this.turns[stream.turn]?.add(stream);
    this.count++;
    this.telemetry.streamOpened(environment, reader);
    response.once('close', () => this.forget(stream));
    // Errors of a socket end in `close`.
    response.on('error', () => undefined);
    this.beat(stream);
    return stream;
  }

  *of(environment: string): Iterable<Stream> {
    for (const streams of this.streams.get(environment)?.values() ?? []) yield* streams;
  }

  has(environment: string): boolean {
    return this.streams.has(environment);
  }

  /** Tells a stream what it missed, however much that is: all that missed the same share its bytes. */
  replay(stream: Stream, batch: EventBatch): void {
    stream.isLevel = true;
    this.send(stream, batch);
    stream.replayBytes = stream.response.socket?.writableLength ?? 0;
  }

  write(stream: Stream, batch: EventBatch): void {
    const { socket } = stream.response;
    if (socket?.writableLength === 0) stream.replayBytes = 0;
    this.send(stream, batch);
    if (!stream.isOpen || (socket?.writableLength ?? 0) <= MOST_WAITING_BYTES + stream.replayBytes) return;
    this.logger.warn(
      `A stream of ${stream.environment} is let go: it does not read, and over 1 MiB waits for it`,
    );
    socket?.destroy();
    this.telemetry.streamLetGo('slow');
  }

  private send(stream: Stream, batch: EventBatch): void {
    if (!stream.isOpen) return;
    const { socket, chunkedEncoding } = stream.response;
    const writes = stream.isLevel ? batch.withIds(stream.reader) : batch.withoutIds(stream.reader);
    // The frames are complete, so they go past the response, which would build them anew for each stream.
    for (const bytes of chunkedEncoding ? writes.framed : writes.plain) socket?.write(bytes);
  }

  /** Ends streams in a way that SDKs understand; those whose reader does not read are cut. */
  end(streams: Iterable<Stream>, reason: LetGo): void {
    const ending = [...streams].filter(({ isOpen }) => isOpen);
    for (const { response } of ending) {
      response.end();
      this.telemetry.streamLetGo(reason);
    }
    setTimeout(() => {
      for (const { response } of ending) response.socket?.destroy();
    }, END_WITHIN_MS).unref();
  }

  endOf(environment: string, reason: LetGo, apiKey?: string): void {
    if (apiKey === undefined) this.end(this.of(environment), reason);
    else this.end(this.streams.get(environment)?.get(apiKey) ?? [], reason);
  }

  endAll(reason: LetGo): void {
    this.end(this.all(), reason);
  }

  /** Takes no more, and ends those that are open one by one: all at once would come back at once. */
  drain(): Promise<void> {
    if (this.drained) return this.drained.promise;
    this.drained = Promise.withResolvers<void>();
    const spreadMs = Math.min(this.limits.drainMs, (this.count / ENDS_PER_SECOND) * 1000);
    for (const stream of this.all())
      setTimeout(() => this.end([stream], 'stopping'), Math.random() * spreadMs);
    if (this.count === 0) this.stopped();
    return this.drained.promise;
  }

  private stopped(): void {
    clearInterval(this.timer);
    this.drained?.resolve();
  }

  private forget(stream: Stream): void {
    const { environment, apiKey, turn } = stream;
    this.count--;
    this.turns[turn]?.delete(stream);
    const byKey = this.streams.get(environment);
    const ofKey = byKey?.get(apiKey);
    ofKey?.delete(stream);
    if (ofKey?.size === 0) byKey?.delete(apiKey);
    if (byKey?.size === 0) this.streams.delete(environment);
    if (this.drained && this.count === 0) this.stopped();
  }

  private nextTurn(): void {
    const now = Date.now();
    const streams = [...(this.turns[this.turn++ % TURNS] ?? [])];
    for (const stream of streams) this.beat(stream);
    const old = streams.filter(({ endsAt }) => endsAt <= now);
    if (old.length > 0) this.end(old, 'old');
  }

  private beat(stream: Stream): void {
    if (!stream.isOpen) return;
    const { socket, chunkedEncoding } = stream.response;
    for (const bytes of chunkedEncoding ? HEARTBEAT.framed : HEARTBEAT.plain) socket?.write(bytes);
  }

  private *all(): Iterable<Stream> {
    for (const streams of this.turns) yield* streams;
  }
}
