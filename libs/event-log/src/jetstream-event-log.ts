import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';

import {
  type ConsumerMessages,
  DeliverPolicy,
  DiscardPolicy,
  jetstream,
  JetStreamApiError,
  type JetStreamClient,
  type JetStreamManager,
  jetstreamManager,
  type JsMsg,
  type OrderedConsumerOptions,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
  type StreamInfo,
} from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { Logger } from '@nestjs/common';

import type { Position } from '#libs/domain';

import {
  type Delivery,
  EventLog,
  type LoggedMessage,
  MessageTooLarge,
  type NewMessage,
  type StreamName,
  STREAMS,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';

export interface JetStreamOptions {
  /** For example `nats://localhost:4222`; several, divided by commas. */
  readonly servers: string;
  /** Copies of each stream. */
  readonly replicas: number;
}

const SUBJECTS: Record<StreamName, string> = { FF_FACTS: 'ff.facts.v1.>', FF_CHANGES: 'ff.changes.v1.>' };
const FOLLOWERS = 'ff_followers';
const LEASES = 'ff_leases';
/** What a lease says of who holds it, for people who look. */
const HOLDER = `${hostname()} process ${process.pid}`;
const LEASE_MS = 6000;
const LEASE_RENEWAL_MS = 1500;
const PORTION_MESSAGES = 500;
const MS_IN_NS = 1_000_000;
/** What the id and the expectations of a message take, of the server's limit for both. */
const HEADERS_BYTES = 1024;
/** Error codes of the server. */
const WRONG_LAST_SEQUENCE = 10071;
const STREAM_NOT_FOUND = 10059;
/** How soon a stream that was deleted is noticed. */
const WATCH_INTERVAL_MS = 1000;

/**
 * The log in NATS JetStream. A stream's epoch is the time at which it was made, so one that was deleted and made anew
 * has another. Followers keep their place in a key-value bucket and read like everybody else, in strict order: a durable
 * consumer would deliver again what was not acknowledged only after newer messages.
 */
export class JetStreamEventLog extends EventLog {
  private readonly logger = new Logger(JetStreamEventLog.name);
  private readonly ending = new AbortController();
  private readonly epochs = new Map<StreamName, string>();
  /** Readers that wait for more, by stream, to be ended when the stream is gone. */
  private readonly readers = new Map<StreamName, Set<ConsumerMessages>>();
  /** Leases that are held, each until it is given back or lost. */
  private readonly held = new Set<Promise<void>>();
  private watch: NodeJS.Timeout | undefined;

  private constructor(
    private readonly connection: NatsConnection,
    private readonly client: JetStreamClient,
    private readonly manager: JetStreamManager,
    private readonly followers: KV,
    private readonly leases: KV,
    private readonly options: JetStreamOptions,
  ) {
    super();
  }

  /** Connects, and makes the streams that are missing. Settings that differ are reported and left as they are. */
  static async open(options: JetStreamOptions): Promise<JetStreamEventLog> {
    const connection = await connect({
      servers: options.servers.split(',').map((server) => server.trim()),
      name: 'ff-relay',
      maxReconnectAttempts: -1,
      reconnectTimeWait: 500,
      reconnectJitter: 500,
    });
    const client = jetstream(connection);
    const manager = await jetstreamManager(connection);
    const { replicas } = options;
    const buckets = new Kvm(client);
    const followers = await buckets.create(FOLLOWERS, { history: 1, replicas, storage: StorageType.File });
    const leases = await buckets.create(LEASES, {
      history: 1,
      replicas,
      storage: StorageType.Memory,
      ttl: LEASE_MS,
    });
    const log = new JetStreamEventLog(connection, client, manager, followers, leases, options);
    for (const stream of Object.keys(STREAMS) as StreamName[]) log.report(stream, await log.ensure(stream));
    log.watchStreams();
    return log;
  }

  async append(stream: StreamName, { subject, id, body, expectedSequence }: NewMessage): Promise<Position> {
    const bytes = Buffer.from(body);
    const limit = (this.connection.info?.max_payload ?? Number.POSITIVE_INFINITY) - HEADERS_BYTES;
    if (bytes.length > limit) throw new MessageTooLarge(subject, bytes.length, limit);
    try {
      const { seq } = await this.client.publish(subject, bytes, {
        msgID: id,
        expect: {
          streamName: stream,
          ...(expectedSequence !== undefined && { lastSubjectSequence: expectedSequence }),
        },
      });
      return this.position(stream, seq);
    } catch (error) {
      if (error instanceof JetStreamApiError && error.code === WRONG_LAST_SEQUENCE) {
        throw new UnexpectedSequence(
          subject,
          expectedSequence ?? 0,
          Number(/\d+$/.exec(error.message)?.[0] ?? 0),
        );
      }
      throw error;
    }
  }

  async head(stream: StreamName): Promise<Position> {
    const info = await this.ensure(stream);
    return { epoch: epochOf(info), sequence: info.state.last_seq };
  }

  async *follow(stream: StreamName, follower: string, signal: AbortSignal): AsyncIterable<Delivery> {
    const key = `${stream}.${follower}`;
    const stored = await this.followers.get(key);
    const place = stored?.operation === 'PUT' ? stored.json<Position>() : undefined;
    const after = place?.epoch === this.epochs.get(stream) ? place : undefined;
    for await (const messages of this.tail(stream, after, signal)) {
      yield {
        messages,
        acknowledge: async () =>
          void (await this.followers.put(key, JSON.stringify(messages.at(-1)?.position))),
      };
    }
  }

  async *tail(
    stream: StreamName,
    after: Position | undefined,
    signal: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]> {
    const epoch = this.epochs.get(stream) ?? '';
    if (after && after.epoch !== epoch)
      throw new UnknownEpoch(`${stream} has the epoch ${epoch}, not ${after.epoch}`);
    const end = AbortSignal.any([signal, this.ending.signal]);
    try {
      yield* this.readOn(stream, epoch, (after?.sequence ?? 0) + 1, end);
    } catch (error) {
      if (!end.aborted) throw error;
    }
    if (!end.aborted) throw new UnknownEpoch(`${stream} with the epoch ${epoch} is gone`);
  }

  async *latest(stream: StreamName, subjectPrefix = ''): AsyncIterable<readonly LoggedMessage[]> {
    yield* this.readToEnd(stream, {
      deliver_policy: DeliverPolicy.LastPerSubject,
      filter_subjects: subjectPrefix ? `${subjectPrefix}>` : SUBJECTS[stream],
    });
  }

  async *history(stream: StreamName, subject: string): AsyncIterable<readonly LoggedMessage[]> {
    yield* this.readToEnd(stream, { deliver_policy: DeliverPolicy.All, filter_subjects: subject });
  }

  async lead(work: string, signal: AbortSignal): Promise<AbortSignal> {
    const end = AbortSignal.any([signal, this.ending.signal]);
    let revision: number | undefined;
    while (!end.aborted && revision === undefined) {
      // Refused as long as the leader's entry is there; the bucket forgets it when it is not renewed.
      revision = await this.leases.create(work, HOLDER).catch(() => undefined);
      if (revision === undefined)
        await delay(LEASE_RENEWAL_MS, undefined, { signal: end }).catch(() => undefined);
    }
    const lost = new AbortController();
    if (revision === undefined) lost.abort();
    else {
      const held = this.holdLease(work, revision, end).finally(() => {
        lost.abort();
        this.held.delete(held);
      });
      this.held.add(held);
    }
    return lost.signal;
  }

  async close(): Promise<void> {
    clearInterval(this.watch);
    this.ending.abort();
    await Promise.allSettled(this.held);
    if (!this.connection.isClosed()) await this.connection.drain();
  }

  /** Renews a lease until that fails for too long, or `end`; then gives it back. */
  private async holdLease(work: string, revision: number, end: AbortSignal): Promise<void> {
    let held = revision;
    for (let renewedAt = performance.now(); performance.now() - renewedAt < LEASE_MS - LEASE_RENEWAL_MS;) {
      await delay(LEASE_RENEWAL_MS, undefined, { signal: end }).catch(() => undefined);
      if (end.aborted) {
        await this.leases.delete(work, { previousSeq: held }).catch(() => undefined);
        return;
      }
      try {
        held = await this.leases.update(work, HOLDER, held, LEASE_RENEWAL_MS);
        renewedAt = performance.now();
      } catch (error) {
        // Somebody else has it. Anything else may pass before the lease does.
        if (error instanceof JetStreamApiError && error.code === WRONG_LAST_SEQUENCE) return;
      }
    }
  }

  /** What is there when it is called, and then the end. */
  private async *readToEnd(
    stream: StreamName,
    options: Partial<OrderedConsumerOptions>,
  ): AsyncIterable<readonly LoggedMessage[]> {
    const epoch = this.epochs.get(stream) ?? '';
    const consumer = await this.client.consumers.get(stream, options);
    let { num_pending: left } = await consumer.info();
    if (left === 0) return;
    const messages = await consumer.consume({ max_messages: PORTION_MESSAGES });
    try {
      for await (const portion of portions(messages)) {
        yield portion.map((message) => logged(message, epoch));
        left = Math.min(left - portion.length, portion.at(-1)?.info.pending ?? 0);
        if (left <= 0) return;
      }
    } finally {
      messages.stop();
    }
  }

  /** Messages from a sequence on, until `end`, or until the stream is gone. */
  private async *readOn(
    stream: StreamName,
    epoch: string,
    sequence: number,
    end: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]> {
    if (end.aborted) return;
    const consumer = await this.client.consumers.get(stream, {
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: sequence,
    });
    const messages = await consumer.consume({ max_messages: PORTION_MESSAGES });
    const readers = this.readers.get(stream) ?? new Set();
    this.readers.set(stream, readers.add(messages));
    const stop = () => messages.stop();
    end.addEventListener('abort', stop);
    if (end.aborted) stop();
    try {
      for await (const portion of portions(messages)) yield portion.map((message) => logged(message, epoch));
    } finally {
      end.removeEventListener('abort', stop);
      readers.delete(messages);
      stop();
    }
  }

  /** The stream as it is; made if it is not there. */
  private async ensure(stream: StreamName): Promise<StreamInfo> {
    let info: StreamInfo;
    try {
      info = await this.manager.streams.info(stream);
    } catch (error) {
      if (!(error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND)) throw error;
      info = await this.manager.streams.add(this.settings(stream));
    }
    this.epochs.set(stream, epochOf(info));
    return info;
  }

  private settings(stream: StreamName): Partial<StreamConfig> & { name: string } {
    const keep: { keepPerSubject?: number; keepForMs?: number } = STREAMS[stream];
    return {
      name: stream,
      subjects: [SUBJECTS[stream]],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      max_msgs_per_subject: keep.keepPerSubject ?? -1,
      max_age: (keep.keepForMs ?? 0) * MS_IN_NS,
      num_replicas: this.options.replicas,
      allow_direct: true,
    };
  }

  /** Says which settings of a stream are not ours, and matter. */
  private report(stream: StreamName, { config }: StreamInfo): void {
    const wanted = this.settings(stream);
    const matters = [
      'subjects',
      'storage',
      'retention',
      'max_msgs_per_subject',
      'max_age',
      'num_replicas',
    ] as const;
    const differences = matters
      .filter((name) => String(config[name]) !== String(wanted[name]))
      .map((name) => `${name} is ${String(config[name])} and should be ${String(wanted[name])}`);
    if (differences.length > 0) {
      this.logger.warn(`The stream ${stream} has other settings, and keeps them: ${differences.join('; ')}`);
    }
  }

  /** Makes a stream that was deleted anew, and ends those who still read the old one. */
  private watchStreams(): void {
    let watching = false;
    this.watch = setInterval(() => {
      if (watching || this.connection.isClosed()) return;
      watching = true;
      const checks = (Object.keys(STREAMS) as StreamName[]).map((stream) => this.checkEpoch(stream));
      void Promise.all(checks)
        .catch(() => undefined)
        .finally(() => (watching = false));
    }, WATCH_INTERVAL_MS);
  }

  private async checkEpoch(stream: StreamName): Promise<void> {
    const before = this.epochs.get(stream);
    const epoch = epochOf(await this.ensure(stream));
    if (epoch === before) return;
    this.logger.warn(`The stream ${stream} was made anew: its epoch is ${epoch}, and was ${before}`);
    for (const messages of this.readers.get(stream) ?? []) messages.stop();
  }

  private position(stream: StreamName, sequence: number): Position {
    return { epoch: this.epochs.get(stream) ?? '', sequence };
  }
}

function epochOf(info: StreamInfo): string {
  return info.created;
}

function logged(message: JsMsg, epoch: string): LoggedMessage {
  return {
    subject: message.subject,
    body: message.string(),
    position: { epoch, sequence: message.seq },
    time: Number(message.timestampNanos / BigInt(MS_IN_NS)),
  };
}

/** The messages in portions of what is there, so that a long read is not taken apart message by message. */
async function* portions(messages: ConsumerMessages): AsyncIterable<JsMsg[]> {
  const iterator = messages[Symbol.asyncIterator]();
  for (let next = iterator.next(); ;) {
    const first = await next;
    if (first.done) return;
    const portion = [first.value];
    next = iterator.next();
    while (portion.length < PORTION_MESSAGES) {
      const more = await Promise.race([
        next,
        new Promise<undefined>((done) => setImmediate(() => done(undefined))),
      ]);
      if (!more || more.done) break;
      portion.push(more.value);
      next = iterator.next();
    }
    yield portion;
  }
}
