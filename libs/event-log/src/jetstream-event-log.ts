import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { setImmediate as immediate, setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';

import {
  AckPolicy,
  type ConsumerConfig,
  type ConsumerInfo,
  type ConsumerMessages,
  DeliverPolicy,
  DiscardPolicy,
  jetstream,
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamClient,
  type JetStreamManager,
  jetstreamManager,
  type JsMsg,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
  type StreamInfo,
  type StreamState,
} from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import {
  AuthorizationError,
  connect,
  type ConnectionOptions,
  credsAuthenticator,
  errors,
  type NatsConnection,
  UserAuthenticationExpiredError,
} from '@nats-io/transport-node';
import { Logger } from '@nestjs/common';

import type { Position } from '#libs/domain';
import { StartupError } from '#libs/service';

import {
  type Backlog,
  type BoundedStream,
  type Bounds,
  EventLog,
  type LoggedMessage,
  MessageTooLarge,
  METRICS_BOUNDS,
  type NewMessage,
  type OrderedStream,
  type StreamName,
  STREAMS,
  type Taken,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';
import { Hand, type Offer, TAKEN_FOR_MS } from './hand.js';
import { KeptConnection, Refused, type Session } from './kept-connection.js';
import { durabilityWarning, isOlder } from './nats-durability.js';

export interface JetStreamOptions {
  /**
   * For example `nats://localhost:4222`; several, divided by commas. They may hold `user:password@` or `token@`, the same
   * for all, and demand TLS with `tls://`.
   */
  readonly servers: string;
  /** Copies of each stream. */
  readonly replicas: number;
  /** A `.creds` file, read again at each connection. */
  readonly credentialsFile?: string | undefined;
  /** Where the server tells about itself (`http://nats:8222`), to learn whether it flushes what it acknowledges. */
  readonly monitorUrl?: string | undefined;
  /** The bounds that the queue is to have; without them it keeps those that it has. */
  readonly metrics?: Bounds | undefined;
}

const QUEUE = 'FF_METRICS';
/** The consumer that all takers share. */
const TAKERS = 'metrics-forwarder';
const SUBJECTS: Record<StreamName, string> = {
  FF_FACTS: 'ff.facts.v1.>',
  FF_CHANGES: 'ff.changes.v1.>',
  FF_METRICS: 'ff.metrics.v1.>',
  FF_METRICS_PARKED: 'ff.parked.v1.>',
};
const BOUNDED: readonly BoundedStream[] = [QUEUE, 'FF_METRICS_PARKED'];
/**
 * How far the server's own limits are beyond the bounds. What it drops nobody counts, so it should come too late: room for
 * what is appended before somebody looks.
 */
const SERVER_LIMIT = { times: 1.25, moreBytes: 64 * 1024 * 1024 };
const NAMES = Object.keys(SUBJECTS) as StreamName[];
const NOTES = 'ff_notes';
const LEASES = 'ff_leases';
/** What a lease says of who holds it, for people who look. */
const HOLDER = `${hostname()} process ${process.pid}`;
const LEASE_MS = 6000;
const LEASE_RENEWAL_MS = 1500;
const PORTION_MESSAGES = 500;
const MS_IN_NS = 1_000_000;
/** The server's standard. */
const DUPLICATE_WINDOW_MS = 120_000;
/** What the id and the expectations of a message take, of the server's limit for both. */
const HEADERS_BYTES = 1024;
const OLDEST_SERVER = '2.9';
/** How long an answer may take. */
const ANSWER_MS = 2000;
/** A usual start has its connection by then. */
const OPENING_MS = 1000;
/** How soon a stream that was deleted is noticed, and a server that says nothing any more. */
const WATCH_INTERVAL_MS = 1000;
const RETRY_MS = 250;
/** A reader's consumer tells the client that often that it is there, and is gone that long after it was last asked. */
const CONSUMER_HEARTBEAT_MS = 2000;
const CONSUMER_KEPT_MS = 60_000;
/** One request for messages of the queue: how many, and how long the server has it. */
const PULL_MESSAGES = 100;
const PULL_MS = { one: 5000, most: 1000 };

/** How often a read up to the end of a stream looks whether it is there. */
const EXHAUSTED_LOOK_MS = 1000;
/** A server ends the connection of whoever sends a longer line of control: 4,096 bytes, with what else stands in it. */
const LONGEST_SUBJECT = 3500;

/** Errors of the client that tell of the connection and not of what was asked for. */
const AWAY = [
  errors.ClosedConnectionError,
  errors.DrainingConnectionError,
  errors.PermissionViolationError,
  errors.RequestError,
  errors.TimeoutError,
];
const UNAVAILABLE = 503;

/** One connection, and what it is used with. */
interface NatsSession extends Session {
  readonly connection: NatsConnection;
  readonly client: JetStreamClient;
  readonly manager: JetStreamManager;
  readonly notes: KV;
  readonly leases: KV;
}

/** A stream as it was made once; made anew, it is another. */
interface Incarnation {
  readonly epoch: string;
  readonly gone: AbortController;
}

/**
 * The log in NATS JetStream. A stream's epoch is the time at which it was made, so one that was deleted and made anew
 * has another. Notes and leases are entries of key-value buckets.
 *
 * Readers use consumers of the server that keep nothing. When anything is wrong with one, it is left, and another is
 * made that starts after the last message: the stream, not the consumer, remembers.
 */
export class JetStreamEventLog extends EventLog {
  private readonly logger = new Logger(JetStreamEventLog.name);
  private readonly ending = new AbortController();
  private readonly connection: KeptConnection<NatsSession>;
  private readonly incarnations = new Map<StreamName, Incarnation>();
  /** Questions for a stream's epoch that are about to be asked. */
  private readonly asking = new Map<StreamName, Promise<string>>();
  /** Appends without an answer yet, and leases that are held. */
  private readonly unfinished = new Set<Promise<unknown>>();
  /** Of those who take, or have something still. */
  private readonly hands = new Set<Hand>();
  private readonly said = new Set<string>();
  private answering = false;
  /** The epoch of the queue that was given the bounds of the settings. */
  private boundTo: string | undefined;

  private constructor(private readonly options: JetStreamOptions) {
    super();
    const { servers, ...login } = readServers(options.servers);
    this.connection = new KeptConnection(
      `NATS at ${servers.join(', ')}`,
      () => this.connect({ servers, ...login }),
      this.ending.signal,
    );
  }

  /**
   * Connects in the background, and makes the streams that are missing once it has. Settings that differ are reported
   * and left as they are. Throws StartupError if the servers' addresses cannot be read.
   */
  static async open(options: JetStreamOptions): Promise<JetStreamEventLog> {
    const log = new JetStreamEventLog(options);
    await log.connection.next(AbortSignal.timeout(OPENING_MS));
    return log;
  }

  append(stream: StreamName, { subject, id, body, expectedSequence }: NewMessage): Promise<Position> {
    return this.finish(async (session) => {
      const bytes = Buffer.from(body);
      const limit = (session.connection.info?.max_payload ?? Number.POSITIVE_INFINITY) - HEADERS_BYTES;
      if (subject.length > LONGEST_SUBJECT) {
        throw new MessageTooLarge(`the subject ${subject.slice(0, 200)}…`, subject.length, LONGEST_SUBJECT);
      }
      if (bytes.length > limit) throw new MessageTooLarge(`a message for ${subject}`, bytes.length, limit);
      for (;;) {
        const before = this.incarnations.get(stream)?.epoch;
        const sequence = await this.publish(session, stream, subject, id, bytes, expectedSequence);
        // The answer does not tell which stream of that name has the message. One that was there before, and is there
        // now, has it. If it is another, the message may have gone with the old one; a repeat finds or writes it.
        const epoch = await this.askEpoch(session, stream);
        if (epoch === before) return { epoch, sequence };
      }
    });
  }

  head(stream: StreamName): Promise<Position> {
    return this.finish(async (session) => {
      const info = await this.ensure(session, stream);
      return { epoch: epochOf(info), sequence: info.state.last_seq };
    });
  }

  beginning(stream: OrderedStream): Promise<Position> {
    return this.finish(async (session) => {
      const info = await this.ensure(session, stream);
      const { messages, first_seq: first, last_seq: last } = info.state;
      return { epoch: epochOf(info), sequence: messages > 0 ? first - 1 : last };
    });
  }

  tail(
    stream: OrderedStream,
    after: Position | undefined,
    signal: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]> {
    const from = (sequence: number) => ({
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: sequence + 1,
    });
    return this.read(stream, from, after, AbortSignal.any([signal, this.ending.signal]));
  }

  latest(stream: OrderedStream, subjectPrefix = ''): AsyncIterable<readonly LoggedMessage[]> {
    return this.read(stream, () => ({
      deliver_policy: DeliverPolicy.LastPerSubject,
      filter_subject: subjectPrefix ? `${subjectPrefix}>` : SUBJECTS[stream],
    }));
  }

  history(stream: OrderedStream, subject: string): AsyncIterable<readonly LoggedMessage[]> {
    return this.read(stream, (sequence) => ({
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: sequence + 1,
      filter_subject: subject,
    }));
  }

  async *take(signal: AbortSignal): AsyncIterable<Taken> {
    const end = AbortSignal.any([signal, this.ending.signal]);
    const hand = new Hand();
    this.hands.add(hand);
    try {
      const arrivals = this.overConnections(end, (session) => this.pull(session, hand, end));
      yield* hand.handOut(arrivals, end);
    } finally {
      hand.whenEmpty(() => this.hands.delete(hand));
    }
  }

  backlog(stream: BoundedStream = QUEUE): Promise<Backlog> {
    return this.finish(async (session) => {
      const { state } = await this.keepBounds(session, stream);
      const messages = stream === QUEUE ? await this.waiting(session, state) : state.messages;
      return {
        messages,
        bytes: messages > 0 ? state.bytes : 0,
        oldestMs: messages > 0 ? Math.max(0, Date.now() - Date.parse(state.first_ts)) : undefined,
        dropped: (await session.notes.get(droppedOf(stream)))?.json<number>() ?? 0,
      };
    });
  }

  remove(stream: 'FF_METRICS_PARKED', { epoch, sequence }: Position): Promise<void> {
    return this.finish(async (session) => {
      if ((await this.askEpoch(session, stream)) !== epoch) return;
      const { streams } = session.manager;
      await streams.deleteMessage(stream, sequence, false).catch(async (error: unknown) => {
        if (await streams.getMessage(stream, { seq: sequence })) throw error;
      });
    });
  }

  async lead(work: string, signal: AbortSignal): Promise<AbortSignal> {
    const end = AbortSignal.any([signal, this.ending.signal]);
    const lost = new AbortController();
    for (;;) {
      const session = await this.connection.next(end);
      if (!session || end.aborted) break;
      // Refused as long as the leader's entry is there; the bucket forgets it when it is not renewed.
      const revision = await session.leases.create(work, HOLDER).catch(() => undefined);
      if (revision !== undefined) {
        void this.keep(this.holdLease(work, revision, end).finally(() => lost.abort()));
        return lost.signal;
      }
      await delay(LEASE_RENEWAL_MS, undefined, { signal: end }).catch(() => undefined);
    }
    lost.abort();
    return lost.signal;
  }

  async remember(name: string, value: object): Promise<void> {
    await this.finish(({ notes }) => notes.put(name, JSON.stringify(value)));
  }

  recall(name: string): Promise<unknown> {
    return this.finish(async ({ notes }) => (await notes.get(name))?.json());
  }

  get reachable(): boolean {
    return this.connection.current !== undefined && this.answering;
  }

  async close(): Promise<void> {
    this.ending.abort();
    await Promise.allSettled([...this.hands].map((hand) => hand.giveBack()));
    await Promise.allSettled(this.unfinished);
    await this.connection.current?.connection.close();
  }

  /** Something that is done with one session; `close` waits for it. */
  private finish<T>(work: (session: NatsSession) => Promise<T>): Promise<T> {
    const finished = this.connection.ready().then(work);
    return this.keep(
      finished.catch((error: unknown) => {
        throw this.explained(error);
      }),
    );
  }

  private keep<T>(unfinished: Promise<T>): Promise<T> {
    this.unfinished.add(unfinished);
    void unfinished.catch(() => undefined).then(() => this.unfinished.delete(unfinished));
    return unfinished;
  }

  /** What the client throws when the server is away, in words of the port. */
  private explained(error: unknown): unknown {
    const away =
      error instanceof JetStreamApiError
        ? error.status === UNAVAILABLE
        : error instanceof Error && AWAY.some((type) => error instanceof type || error.cause instanceof type);
    return away ? this.connection.unreachable(error) : error;
  }

  private async publish(
    { client }: NatsSession,
    stream: StreamName,
    subject: string,
    id: string,
    body: Uint8Array,
    expectedSequence: number | undefined,
  ): Promise<number> {
    try {
      const { seq } = await client.publish(subject, body, {
        msgID: id,
        expect: {
          streamName: stream,
          ...(expectedSequence !== undefined && { lastSubjectSequence: expectedSequence }),
        },
      });
      return seq;
    } catch (error) {
      if (!isWrongSequence(error)) throw error;
      const actual = Number(/\d+$/.exec(error.message)?.[0] ?? 0);
      throw new UnexpectedSequence(subject, expectedSequence ?? 0, actual);
    }
  }

  /** The epoch of the stream after this call; answers that come together share a question. */
  private askEpoch(session: NatsSession, stream: StreamName): Promise<string> {
    const asking =
      this.asking.get(stream) ??
      immediate().then(async () => {
        this.asking.delete(stream);
        return epochOf(await this.ensure(session, stream));
      });
    this.asking.set(stream, asking);
    return asking;
  }

  /** Renews a lease until that fails for too long, or `end`; then gives it back. */
  private async holdLease(work: string, revision: number, end: AbortSignal): Promise<void> {
    let held = revision;
    for (let renewedAt = performance.now(); performance.now() - renewedAt < LEASE_MS - LEASE_RENEWAL_MS;) {
      await delay(LEASE_RENEWAL_MS, undefined, { signal: end }).catch(() => undefined);
      const leases = this.connection.current?.leases;
      if (end.aborted) {
        await leases?.delete(work, { previousSeq: held }).catch(() => undefined);
        return;
      }
      try {
        if (!leases) continue;
        held = await leases.update(work, HOLDER, held, LEASE_RENEWAL_MS);
        renewedAt = performance.now();
      } catch (error) {
        // Somebody else has it. Anything else may pass before the lease does.
        if (isWrongSequence(error)) return;
      }
    }
  }

  /**
   * Messages in the order of the stream, after a position; what was there when it was called, or with `end` those to
   * come too, until then.
   *
   * @param from a consumer that delivers what comes after a sequence; that it delivers more does no harm
   */
  private async *read(
    stream: StreamName,
    from: (sequence: number) => Partial<ConsumerConfig>,
    after?: Position,
    end?: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]> {
    const stop = end ?? this.ending.signal;
    let at = after;
    const portions = this.overConnections(stop, (session) =>
      this.consume(session, stream, from(at?.sequence ?? 0), at, stop, end === undefined),
    );
    for await (const { epoch, messages, left } of portions) {
      at ??= { epoch, sequence: 0 };
      const { sequence } = at;
      const fresh = messages.filter(({ seq }) => seq > sequence).map((message) => logged(message, epoch));
      at = fresh.at(-1)?.position ?? at;
      if (fresh.length > 0) yield fresh;
      if (!end && left <= 0) return;
    }
  }

  /**
   * What `open` delivers over one connection, and then over the next, until `end`. What fails before anything has come is
   * thrown, and UnknownEpoch.
   */
  private async *overConnections<T>(
    end: AbortSignal,
    open: (session: NatsSession) => AsyncIterable<T>,
  ): AsyncIterable<T> {
    let session: NatsSession | undefined;
    for (let begun = false; !end.aborted;) {
      try {
        session = begun ? await this.connection.next(end) : await this.connection.ready();
        if (!session) return;
        for await (const portion of open(session)) {
          begun = true;
          yield portion;
        }
      } catch (error) {
        if (end.aborted) return;
        if (!begun || error instanceof UnknownEpoch) throw this.explained(error);
        if (!session?.lost.aborted)
          this.once('warn', `Reading goes on anew after an error: ${String(error)}`);
      }
      await delay(RETRY_MS, undefined, { signal: end }).catch(() => undefined);
    }
  }

  /**
   * What one consumer delivers, until it breaks, or the stream is gone, or `end`; and how many messages it has left. The
   * first portion is empty. Throws UnknownEpoch if `after` is not a position of the stream.
   */
  private async *consume(
    session: NatsSession,
    stream: StreamName,
    config: Partial<ConsumerConfig>,
    after: Position | undefined,
    end: AbortSignal,
    isBounded: boolean,
  ): AsyncIterable<{ epoch: string; messages: readonly JsMsg[]; left: number }> {
    expectPosition(stream, await this.ensure(session, stream), after);
    const info = await session.manager.consumers.add(stream, {
      ...config,
      name: randomUUID(),
      ack_policy: AckPolicy.None,
      mem_storage: true,
      num_replicas: 1,
      inactive_threshold: CONSUMER_KEPT_MS * MS_IN_NS,
    });
    // A consumer goes with its stream: whatever this one delivers is of the stream that is there now.
    expectPosition(stream, await this.ensure(session, stream), after);
    const { epoch, gone } = this.incarnation(stream);
    const consumer = session.client.consumers.getConsumerFromInfo(info);
    const messages = await consumer.consume({
      max_messages: PORTION_MESSAGES,
      idle_heartbeat: CONSUMER_HEARTBEAT_MS,
      abort_on_missing_resource: true,
    });
    const stop = () => messages.stop();
    const stops = AbortSignal.any([end, session.lost, gone.signal]);
    stops.addEventListener('abort', stop);
    if (stops.aborted) stop();
    void stopWhenSilent(messages);
    let left = info.num_pending;
    let delivered = 0;
    let isExhausted = false;
    // The server announces too many when the last message of the stream was deleted. One that is asked for more, and
    // has sent no more than arrived, has no more.
    const look = async () => {
      const { num_waiting: asked, delivered: sent } = await consumer.info();
      isExhausted = asked > 0 && sent.consumer_seq === delivered;
      if (isExhausted) stop();
    };
    const looking = setInterval(() => {
      if (isBounded && left > 0) void look().catch(() => undefined);
    }, EXHAUSTED_LOOK_MS);
    try {
      yield { epoch, messages: [], left };
      for await (const portion of portions(messages)) {
        // The server sends each once; one that did not arrive leaves a gap.
        const whole = portion.filter((message, i) => message.info.deliverySequence === delivered + i + 1);
        delivered += whole.length;
        left = Math.min(left - whole.length, whole.at(-1)?.info.pending ?? left);
        yield { epoch, messages: whole, left };
        if (whole.length < portion.length) return;
      }
      if (isExhausted) yield { epoch, messages: [], left: 0 };
    } finally {
      clearInterval(looking);
      stops.removeEventListener('abort', stop);
      stop();
      void consumer.delete().catch(() => undefined);
    }
  }

  /** Messages of the queue as there is room in the hand. The first portion is empty. */
  private async *pull(session: NatsSession, hand: Hand, end: AbortSignal): AsyncIterable<readonly Offer[]> {
    const consumer = session.client.consumers.getConsumerFromInfo(await this.takers(session));
    const { epoch } = this.incarnation(QUEUE);
    const stops = AbortSignal.any([end, session.lost]);
    yield [];
    for (let waiting = 0; ;) {
      await hand.untilRoom(stops);
      if (stops.aborted) return;
      // Never for more than there is: what else comes may go to others, who ask while this taker is at work.
      const most = Math.min(hand.roomFor(session.connection.info?.max_payload ?? 1), PULL_MESSAGES, waiting);
      const askedMs = performance.now();
      const messages = await consumer.fetch(
        most > 1 ? { max_messages: most, expires: PULL_MS.most } : { max_messages: 1, expires: PULL_MS.one },
      );
      const stop = () => messages.stop();
      stops.addEventListener('abort', stop);
      if (stops.aborted) stop();
      const arrived = await Array.fromAsync(messages);
      stops.removeEventListener('abort', stop);
      waiting = arrived.at(-1)?.info.pending ?? 0;
      const offers = arrived.map((message) => this.offer(session, message, epoch));
      for (const offer of offers) hand.hold(offer, askedMs);
      yield offers;
    }
  }

  private offer({ lost }: NatsSession, message: JsMsg, epoch: string): Offer {
    // Its type hides where the server hears of a message, which is needed to tell it over another connection.
    const { reply } = message as JsMsg & { reply: string };
    const tell = async (what: string) => {
      const session = this.connection.current ?? (await this.connection.ready());
      // In a stream that was made anew it would be about another message.
      if ((await this.askEpoch(session, QUEUE)) !== epoch) return;
      await session.connection.request(reply, what, { timeout: ANSWER_MS });
    };
    const say = (what: string) =>
      tell(what).catch((error: unknown) => {
        throw this.explained(error);
      });
    return {
      subject: message.subject,
      body: message.string(),
      time: timeOf(message),
      done: () => say('+ACK'),
      // The server reads whole numbers alone, and gives a message with another out at once.
      back: (delayMs) =>
        say(delayMs > 0 ? `-NAK ${JSON.stringify({ delay: Math.ceil(delayMs * MS_IN_NS) })}` : '-NAK'),
      // A server that was started again may not know who has it, and takes everybody's word.
      keep: () => (lost.aborted ? Promise.reject(this.connection.unreachable(lost.reason)) : say('+WPI')),
      // The server knows.
      lapse: () => undefined,
    };
  }

  /**
   * How many messages of the queue nobody has done. A server that was killed may find messages again that were done, and
   * knows that they were: they are in the stream, and are given to nobody.
   */
  private async waiting({ manager }: NatsSession, { messages }: StreamState): Promise<number> {
    try {
      const { num_pending: pending, num_ack_pending: taken } = await manager.consumers.info(QUEUE, TAKERS);
      return Math.min(messages, pending + taken);
    } catch (error) {
      if (isError(error, JetStreamApiCodes.ConsumerNotFound)) return messages;
      throw error;
    }
  }

  /** The consumer that hands out the queue; made if it is not there. */
  private async takers(session: NatsSession): Promise<ConsumerInfo> {
    await this.ensure(session, QUEUE);
    const { consumers } = session.manager;
    return consumers.info(QUEUE, TAKERS).catch((error: unknown) => {
      if (!isError(error, JetStreamApiCodes.ConsumerNotFound)) throw error;
      return consumers.add(QUEUE, {
        durable_name: TAKERS,
        ack_policy: AckPolicy.Explicit,
        ack_wait: TAKEN_FOR_MS * MS_IN_NS,
        // Each taker takes no more than it may hold; and what waits to be offered again counts too, as long as it waits.
        max_ack_pending: -1,
      });
    });
  }

  private async connect(options: ConnectionOptions): Promise<NatsSession> {
    const connection = await connectOnce(options, this.options.credentialsFile);
    const lost = new AbortController();
    const lose = (reason: unknown) => {
      lost.abort(reason);
      void connection.close();
    };
    void connection
      .closed()
      .then((error) => lose(error ? refused(error) : new Error('the connection ended')));
    try {
      const client = jetstream(connection, { timeout: ANSWER_MS });
      const buckets = new Kvm(client);
      const session = {
        connection,
        client,
        manager: await jetstreamManager(connection, { timeout: ANSWER_MS, checkAPI: false }),
        // Read from the bucket's leader: a copy may not have yet what was just remembered.
        notes: await buckets.open(NOTES, { allow_direct: false }),
        leases: await buckets.open(LEASES),
        lost: lost.signal,
      };
      await this.prepare(session);
      if (this.ending.signal.aborted) throw new Error('the log is closed');
      void this.watch(session, lose);
      return session;
    } catch (error) {
      lose(error);
      throw error;
    }
  }

  /**
   * Makes the streams and buckets that are missing. One that cannot be had keeps nobody from using the others: it may be
   * that its leader is being elected. Throws if none can be had.
   */
  private async prepare(session: NatsSession): Promise<void> {
    const { replicas } = this.options;
    const buckets = new Kvm(session.client);
    const streams = NAMES.map((stream) =>
      isBounded(stream) ? this.keepBounds(session, stream) : this.ensure(session, stream),
    );
    const all = await Promise.allSettled([
      ...streams,
      buckets.create(NOTES, { replicas, storage: StorageType.File }),
      buckets.create(LEASES, { replicas, storage: StorageType.Memory, ttl: LEASE_MS }),
    ]);
    const failures = all.filter((one) => one.status === 'rejected');
    if (failures.length === all.length) throw failures[0]?.reason;
  }

  /** Sees to it that what is deleted is made anew, and that a server that says nothing any more counts as lost. */
  private async watch(session: NatsSession, lose: (reason: unknown) => void): Promise<void> {
    const end = AbortSignal.any([session.lost, this.ending.signal]);
    for (this.answering = true; ;) {
      await delay(WATCH_INTERVAL_MS, undefined, { signal: end }).catch(() => undefined);
      if (end.aborted) return;
      try {
        await this.prepare(session);
        this.answering = true;
      } catch (error) {
        if (end.aborted) return;
        // Twice, since all of them may be between two leaders for a moment.
        if (!this.answering) lose(error);
        this.answering = false;
      }
    }
  }

  /** The stream as it is; made if it is not there. */
  private async ensure({ manager, connection }: NatsSession, stream: StreamName): Promise<StreamInfo> {
    const info = await manager.streams.info(stream).catch((error: unknown) => {
      if (!isError(error, JetStreamApiCodes.StreamNotFound)) throw error;
      return manager.streams.add(settingsOf(stream, this.options)).catch((reason: unknown) => {
        this.once('error', `The stream ${stream} cannot be made: ${String(reason)}`);
        throw reason;
      });
    });
    const before = this.incarnations.get(stream);
    const epoch = epochOf(info);
    if (before?.epoch !== epoch) {
      this.incarnations.set(stream, { epoch, gone: new AbortController() });
      this.inspect(stream, info.config, connection.info?.version ?? '0');
      if (before) {
        this.logger.warn(
          `The stream ${stream} was made anew: its epoch is ${epoch}, and was ${before.epoch}`,
        );
        before.gone.abort();
      }
    }
    return info;
  }

  /**
   * Drops the oldest of what is beyond the bounds of a stream, and counts it: whoever is connected looks every second. The
   * server would drop it too, and tell it from nothing that was done. A process without a setting goes by what the stream
   * says of itself.
   */
  private async keepBounds(session: NatsSession, stream: BoundedStream): Promise<StreamInfo> {
    const info = await this.ensure(session, stream);
    const { metrics } = this.options;
    if (stream !== QUEUE) return this.dropBeyond(session, info, STREAMS[stream]);
    if (!metrics || this.boundTo === epochOf(info)) {
      const bounds = boundsIn(info.config);
      return bounds ? this.dropBeyond(session, info, bounds) : info;
    }
    // First what they cost is counted, and then the server is told of them.
    const kept = await this.dropBeyond(session, info, metrics);
    this.boundTo = epochOf(info);
    if (isDeepStrictEqual(boundsIn(kept.config), metrics)) return kept;
    const limits = serverLimits(metrics);
    // The server demands that ids are known no longer than messages are kept.
    const duplicate_window = Math.min(limits.max_age, DUPLICATE_WINDOW_MS * MS_IN_NS);
    return session.manager.streams.update(stream, { ...limits, duplicate_window }).catch((error: unknown) => {
      this.once('warn', `The stream ${stream} keeps the bounds that it has: ${String(error)}`);
      return kept;
    });
  }

  private async dropBeyond(session: NatsSession, before: StreamInfo, bounds: Bounds): Promise<StreamInfo> {
    const stream = before.config.name as BoundedStream;
    for (let info = before; ;) {
      const keep = await this.firstToKeep(session, info, bounds);
      if (keep <= info.state.first_seq) return info;
      const { purged } = await session.manager.streams.purge(stream, { seq: keep });
      await this.countDropped(session, stream, purged);
      info = await this.ensure(session, stream);
    }
  }

  /** The first sequence within the bounds, as far as can be told at once. */
  private async firstToKeep(
    { manager }: NatsSession,
    {
      config: { name },
      state: { messages, bytes, first_seq: first, last_seq: last, first_ts: oldest },
    }: StreamInfo,
    { keepForMs, keepBytes }: Bounds,
  ): Promise<number> {
    if (messages === 0) return first;
    if (bytes > keepBytes) return first + Math.ceil(((bytes - keepBytes) * messages) / bytes);
    const since = Date.now() - keepForMs;
    if (!(Date.parse(oldest) < since)) return first;
    let [low, high] = [first, last + 1];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const next = await manager.direct.getMessage(name, { seq: middle, next_by_subj: '>' });
      if (next && next.time.getTime() < since) low = next.seq + 1;
      else high = middle;
    }
    return low;
  }

  private async countDropped({ notes }: NatsSession, stream: BoundedStream, dropped: number): Promise<void> {
    const name = droppedOf(stream);
    for (let left = dropped; left > 0;) {
      const note = await notes.get(name);
      const value = JSON.stringify((note?.json<number>() ?? 0) + left);
      try {
        await (note ? notes.update(name, value, note.revision) : notes.create(name, value));
        left = 0;
      } catch (error) {
        // Another process drops, and counts, too.
        if (!isWrongSequence(error)) throw error;
      }
    }
  }

  private incarnation(stream: StreamName): Incarnation {
    const found = this.incarnations.get(stream);
    if (!found) throw new Error(`${stream} was not looked for yet`);
    return found;
  }

  /** Says which settings of a stream are not ours, and matter, and whether what it has is safe. */
  private inspect(stream: StreamName, config: StreamConfig, version: string): void {
    const difference = differenceIn(config, settingsOf(stream, this.options));
    if (difference) this.once('warn', difference);
    if (isOlder(version, OLDEST_SERVER)) {
      this.once('error', tooOld(version));
    }
    if (stream !== 'FF_FACTS') return;
    void durabilityWarning(version, config.num_replicas, this.options.monitorUrl).then(
      (warning) => warning && this.once('warn', warning),
    );
  }

  private once(level: 'warn' | 'error', text: string): void {
    if (this.said.has(text)) return;
    this.said.add(text);
    this.logger[level](text);
  }
}

/** What a server and the streams on it are like, before anything of ours runs there. */
export interface NatsReport {
  readonly version: string;
  /** The most bytes that a message may have. */
  readonly maxPayload: number;
  /** The streams that are not there yet. */
  readonly missing: readonly StreamName[];
  /** What is not as it should be, in sentences that say what to do. */
  readonly warnings: readonly string[];
}

/** Looks at the servers, and makes and changes nothing there. Throws an Error if they cannot be used. */
export async function lookAtNats(options: JetStreamOptions): Promise<NatsReport> {
  const connection = await connectOnce(readServers(options.servers), options.credentialsFile);
  try {
    const { version = '0', max_payload: maxPayload = 0 } = connection.info ?? {};
    if (isOlder(version, OLDEST_SERVER)) throw new Error(tooOld(version));
    const manager = await jetstreamManager(connection, { timeout: ANSWER_MS });
    const found = await Promise.all(
      NAMES.map((stream) =>
        manager.streams.info(stream).catch((error: unknown) => {
          if (!isError(error, JetStreamApiCodes.StreamNotFound)) throw error;
          return undefined;
        }),
      ),
    );
    const differences = found.flatMap((info, i) => {
      const stream = NAMES[i];
      return (info && stream && differenceIn(info.config, settingsOf(stream, options))) || [];
    });
    const facts = found[NAMES.indexOf('FF_FACTS')];
    const durability = await durabilityWarning(
      version,
      facts?.config.num_replicas ?? options.replicas,
      options.monitorUrl,
    );
    return {
      version,
      maxPayload,
      missing: NAMES.filter((_, i) => !found[i]),
      warnings: [...differences, ...(durability ? [durability] : [])],
    };
  } finally {
    await connection.close();
  }
}

async function connectOnce(
  options: ConnectionOptions,
  credentialsFile: string | undefined,
): Promise<NatsConnection> {
  const credentials = credentialsFile === undefined ? undefined : await readFile(credentialsFile);
  try {
    return await connect({
      ...options,
      ...(credentials && { authenticator: credsAuthenticator(credentials) }),
      name: 'ff-relay',
      reconnect: false,
      timeout: ANSWER_MS,
    });
  } catch (error) {
    throw refused(error);
  }
}

function settingsOf(
  stream: StreamName,
  { metrics = METRICS_BOUNDS, replicas }: JetStreamOptions,
): Partial<StreamConfig> & { name: string } {
  const keep: { keepPerSubject?: number; keepForMs?: number; keepBytes?: number } = {
    ...STREAMS,
    [QUEUE]: metrics,
  }[stream];
  const { keepForMs = 0, keepBytes } = keep;
  const limits =
    keepBytes === undefined
      ? { max_age: keepForMs * MS_IN_NS, max_bytes: -1 }
      : serverLimits({ keepForMs, keepBytes });
  return {
    name: stream,
    subjects: [SUBJECTS[stream]],
    storage: StorageType.File,
    retention: stream === QUEUE ? RetentionPolicy.Workqueue : RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    max_msgs_per_subject: keep.keepPerSubject ?? -1,
    ...limits,
    num_replicas: replicas,
    allow_direct: true,
  };
}

/** Which settings of a stream are not ours, and matter; undefined if none is. */
function differenceIn(config: StreamConfig, wanted: Partial<StreamConfig>): string | undefined {
  const matters = [
    'subjects',
    'storage',
    'retention',
    'max_msgs_per_subject',
    'max_age',
    'max_bytes',
    'num_replicas',
  ] as const;
  // What the queue keeps is set, or left to whom it concerns.
  const judged = matters.filter((name) => config.name !== QUEUE || !['max_age', 'max_bytes'].includes(name));
  const differences = judged
    .filter((name) => String(config[name]) !== String(wanted[name]))
    .map((name) => `${name} is ${String(config[name])} and should be ${String(wanted[name])}`);
  if (differences.length === 0) return undefined;
  return `The stream ${config.name} has other settings, and keeps them: ${differences.join('; ')}`;
}

function tooOld(version: string): string {
  return `NATS is ${version}, and the relay needs ${OLDEST_SERVER} or newer`;
}

/** Throws StartupError, and tells nothing of what it read: there may be a password in it. */
function readServers(text: string): ConnectionOptions & { servers: string[] } {
  const urls = text.split(',').map((address) => {
    const url = URL.parse(address.includes('://') ? address.trim() : `nats://${address.trim()}`);
    if (url?.host && ['nats:', 'tls:'].includes(url.protocol)) return url;
    throw new StartupError(
      'NATS_URL cannot be read: it should look like nats://host:4222, or tls://host:4222',
    );
  });
  const { username: user, password: pass } = urls.find(({ username }) => username) ?? {
    username: '',
    password: '',
  };
  return {
    servers: urls.map(({ host }) => host),
    ...(urls.some(({ protocol }) => protocol === 'tls:') && { tls: {} }),
    ...(pass
      ? { user: decodeURIComponent(user), pass: decodeURIComponent(pass) }
      : user && { token: decodeURIComponent(user) }),
  };
}

function refused(error: unknown): unknown {
  if (!(error instanceof AuthorizationError || error instanceof UserAuthenticationExpiredError)) return error;
  const advice = 'Check NATS_URL and its credentials, or the file that NATS_CREDS names';
  return new Refused(`it refuses the credentials. ${advice}`, { cause: error });
}

function isError(error: unknown, ...codes: number[]): error is JetStreamApiError {
  return error instanceof JetStreamApiError && codes.includes(error.code);
}

function isWrongSequence(error: unknown): error is JetStreamApiError {
  const { StreamWrongLastSequence, StreamWrongLastSequenceUnknown } = JetStreamApiCodes;
  return isError(error, StreamWrongLastSequence, StreamWrongLastSequenceUnknown);
}

function expectPosition(stream: StreamName, info: StreamInfo, position: Position | undefined): void {
  if (!position) return;
  const epoch = epochOf(info);
  if (position.epoch !== epoch)
    throw new UnknownEpoch(`${stream} has the epoch ${epoch}, not ${position.epoch}`);
  if (position.sequence > info.state.last_seq) {
    throw new UnknownEpoch(
      `${stream} ends at ${info.state.last_seq}, before ${position.sequence}: it lost its end`,
    );
  }
}

function isBounded(stream: StreamName): stream is BoundedStream {
  return BOUNDED.some((bounded) => bounded === stream);
}

/** The server's own limits; and the bounds in words, for people who look and for processes without a setting for them. */
function serverLimits({ keepForMs, keepBytes }: Bounds) {
  return {
    max_age: Math.ceil(keepForMs * SERVER_LIMIT.times) * MS_IN_NS,
    max_bytes: Math.ceil(keepBytes * SERVER_LIMIT.times) + SERVER_LIMIT.moreBytes,
    description: `The relay drops the oldest beyond ${keepBytes} bytes or ${keepForMs} ms`,
  };
}

/** Undefined for a stream that was not made by us, or long ago. */
function boundsIn({ description = '' }: StreamConfig): Bounds | undefined {
  const [, keepBytes, keepForMs] = /beyond (\d+) bytes or (\d+) ms$/.exec(description) ?? [];
  return keepBytes === undefined ? undefined : { keepForMs: Number(keepForMs), keepBytes: Number(keepBytes) };
}

/** The note of how many messages of a stream its bounds have cost. */
function droppedOf(stream: BoundedStream): string {
  return `dropped-${stream}`;
}

function epochOf(info: StreamInfo): string {
  return info.created;
}

function logged(message: JsMsg, epoch: string): LoggedMessage {
  return {
    subject: message.subject,
    body: message.string(),
    position: { epoch, sequence: message.seq },
    time: timeOf(message),
  };
}

function timeOf(message: JsMsg): number {
  return Number(message.timestampNanos / BigInt(MS_IN_NS));
}

/** A consumer may be gone without a word, with the member of a cluster that had it. */
async function stopWhenSilent(messages: ConsumerMessages): Promise<void> {
  for await (const { type } of messages.status()) if (type === 'heartbeats_missed') messages.stop();
}

/** The messages in portions of what is there, so that a long read is not taken apart message by message. */
async function* portions(messages: ConsumerMessages): AsyncIterable<JsMsg[]> {
  const iterator = messages[Symbol.asyncIterator]();
  const ask = () => {
    const next = iterator.next();
    // It may fail while nobody waits for it yet, or no longer.
    next.catch(() => undefined);
    return next;
  };
  for (let next = ask(); ;) {
    const first = await next;
    if (first.done) return;
    const portion = [first.value];
    next = ask();
    while (portion.length < PORTION_MESSAGES) {
      const more = await Promise.race([
        next,
        new Promise<undefined>((done) => setImmediate(() => done(undefined))),
      ]);
      if (!more || more.done) break;
      portion.push(more.value);
      next = ask();
    }
    yield portion;
  }
}
