import type { Position } from '#libs/domain';

const DAY_MS = 24 * 3600 * 1000;

/** What may be in a stream. Beyond that the oldest messages are dropped, and counted. */
export interface Bounds {
  readonly keepForMs: number;
  readonly keepBytes: number;
}

/**
 * The streams that are read in order, and what each keeps: the newest messages of a subject, all of a time, or what is
 * within bounds. FF_METRICS_PARKED is what the upstream refuses of the metrics, until somebody takes it out.
 */
export const STREAMS = {
  FF_FACTS: { keepPerSubject: 64 },
  FF_CHANGES: { keepForMs: 7 * DAY_MS },
  FF_METRICS_PARKED: { keepForMs: 30 * DAY_MS, keepBytes: 256 * 1024 ** 2 },
} as const satisfies Record<
  string,
  { readonly keepPerSubject: number } | { readonly keepForMs: number } | Bounds
>;

export type OrderedStream = keyof typeof STREAMS;

/** The streams of the log; their names are a public contract. The metrics are a queue: who has done a message takes it out. */
export type StreamName = OrderedStream | 'FF_METRICS';

/** The streams with bounds. */
export type BoundedStream = 'FF_METRICS' | 'FF_METRICS_PARKED';

/** Of the metrics, if no settings say otherwise. */
export const METRICS_BOUNDS: Bounds = { keepForMs: DAY_MS, keepBytes: 1024 ** 3 };

export interface NewMessage {
  readonly subject: string;
  /** A message whose id the stream has seen in the last two minutes at least is not appended again. */
  readonly id: string;
  readonly body: string;
  /** The sequence of the subject's last message, 0 for none. When it is another, nothing is appended. */
  readonly expectedSequence?: number;
}

export interface LoggedMessage {
  readonly subject: string;
  readonly body: string;
  readonly position: Position;
  /** When it was appended, in ms since the epoch. */
  readonly time: number;
}

/** A message of the queue in the hands of one taker. */
export interface Taken {
  readonly subject: string;
  readonly body: string;
  /** When it was appended, in ms since the epoch. */
  readonly time: number;
  /** It is dealt with, and gone for good once this resolves. If this fails, it may or may not come again. */
  done(): Promise<void>;
  /** Gives it to anybody, after a delay. */
  back(delayMs?: number): Promise<void>;
  /**
   * Still at it: the taker has it for another 30 s. Fails if it may be another taker's by now, or if the log does not
   * answer; then it may become another's, or come again.
   */
  keep(): Promise<void>;
}

/** What waits in a stream; in the queue, those in somebody's hands included. */
export interface Backlog {
  readonly messages: number;
  readonly bytes: number;
  /** How long the oldest has been waiting. */
  readonly oldestMs?: number | undefined;
  /** How many were ever dropped for the bounds. */
  readonly dropped: number;
}

/** Somebody else has written to the subject: the append was refused, and what it was decided on is out of date. */
export class UnexpectedSequence extends Error {
  override readonly name = 'UnexpectedSequence';
  constructor(subject: string, expected: number, actual: number) {
    super(`the last message of ${subject} is ${actual}, not ${expected}`);
  }
}

/** The log takes no message, or no subject, of that size. No repeat will change that. */
export class MessageTooLarge extends Error {
  override readonly name = 'MessageTooLarge';
  constructor(what: string, size: number, limit: number) {
    super(`${what} has ${size} bytes, and the log takes ${limit} at most`);
  }
}

/** The position is of another log, or of one that is gone or lost its end: the reader must start over. */
export class UnknownEpoch extends Error {
  override readonly name = 'UnknownEpoch';
}

/** The log does not answer, or cannot be connected to. It may be there again in a moment. */
export class LogUnreachable extends Error {
  override readonly name = 'LogUnreachable';
}

/**
 * Append-only streams of messages, each with a subject.
 *
 * Sequences rise by one order for a whole stream and are never used twice. Every stream has an epoch, made with it; a
 * stream that was lost and made anew has another. An append is on disk when its promise resolves. Appends that are
 * called one after the other, without waiting, get rising sequences. A failed append may have been written: repeat it
 * with the same id.
 *
 * Reading methods deliver in the order of the stream, in portions of what is there, and read on only when the consumer
 * asks, so a slow consumer holds nothing in memory. They end when the consumer stops iterating, when `signal` aborts,
 * and when the log is closed.
 *
 * A method that cannot reach the log throws LogUnreachable within a few seconds, but for `lead`, which waits. A reading
 * method that has begun waits for a connection that was lost, and goes on with the next message, or ends with
 * UnknownEpoch when that stream is gone.
 */
export abstract class EventLog {
  /** @returns where the message stands; of a repeat, where its first stands. Throws UnexpectedSequence, MessageTooLarge. */
  abstract append(stream: StreamName, message: NewMessage): Promise<Position>;

  /** Where the stream ends now; sequence 0 when it never had a message. */
  abstract head(stream: StreamName): Promise<Position>;

  /** Before the first message that is kept: a reader that stands earlier has missed what was dropped since. */
  abstract beginning(stream: OrderedStream): Promise<Position>;

  /**
   * All messages after a position, then those to come. `after` undefined starts with the first that is kept.
   * Throws UnknownEpoch if the position is not of this stream.
   */
  abstract tail(
    stream: OrderedStream,
    after: Position | undefined,
    signal: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]>;

  /**
   * The last message of every subject that starts with the prefix, in the order of the stream. Messages that are
   * appended meanwhile may show or not: take `head` first, and tail from there, to miss none.
   */
  abstract latest(stream: OrderedStream, subjectPrefix?: string): AsyncIterable<readonly LoggedMessage[]>;

  /** All messages of a subject that are kept, oldest first. */
  abstract history(stream: OrderedStream, subject: string): AsyncIterable<readonly LoggedMessage[]>;

  /**
   * Messages of the queue, about in the order in which they were appended. Each is in the hands of one taker at a time.
   * One about which its taker says nothing for 30 s, or whose taker has gone, is given to another, or to the same again.
   * When the log is closed, what is still in a taker's hands is given back.
   *
   * No more than 2,000 messages and about 64 MiB are in the hands of one taker: more come when some are done or back.
   */
  abstract take(signal: AbortSignal): AsyncIterable<Taken>;

  abstract backlog(stream?: BoundedStream): Promise<Backlog>;

  /** Takes a message out, for good; does nothing if it is not there any more. */
  abstract remove(stream: 'FF_METRICS_PARKED', position: Position): Promise<void>;

  /**
   * Waits until nobody else does the work of that name, and takes it over. Whoever leads and dies is followed by
   * another within 10 s. A leader that was stalled may not know yet that it lost the lead: what it appends then is
   * refused by the sequences that it expects.
   *
   * @returns a signal that aborts when the lead is lost, or given up since `signal` aborted or the log was closed
   */
  abstract lead(work: string, signal: AbortSignal): Promise<AbortSignal>;

  /**
   * Keeps a small value under a name (`A-Za-z0-9_-`) beside the streams, as durable as they are: how far a follower has
   * come, how the upstream link stands. The last one wins.
   */
  abstract remember(name: string, value: object): Promise<void>;

  /** What was last remembered under the name; undefined if nothing was. */
  abstract recall(name: string): Promise<unknown>;

  /** Whether the log answers, as far as is known now. */
  abstract get reachable(): boolean;

  /** Ends all reading; what was appended before is on disk when it resolves. */
  abstract close(): Promise<void>;
}
