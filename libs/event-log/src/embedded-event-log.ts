import { existsSync, readFileSync, statSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { Logger } from '@nestjs/common';

import type { Position } from '#libs/domain';
import { StartupError } from '#libs/service';

import { EmbeddedQueue } from './embedded-queue.js';
import type {
  Opened,
  Request,
  Response,
  StoredBacklog,
  StoredMessage,
  WorkerSettings,
} from './embedded-worker.js';
import {
  type Backlog,
  type BoundedStream,
  type Bounds,
  EventLog,
  type LoggedMessage,
  METRICS_BOUNDS,
  type NewMessage,
  type OrderedStream,
  type StreamName,
  STREAMS,
  type Taken,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';
import { Hand } from './hand.js';

const QUEUE = 'FF_METRICS';
/** How often a reader looks for what another process appended. */
const LOOK_EVERY_MS = 200;

/**
 * The log in one SQLite file of `DATA_DIR`, for one process. SQLite is synchronous and a flush to disk takes
 * milliseconds, so it lives on a thread of its own; concurrent appends share a flush.
 */
export class EmbeddedEventLog extends EventLog {
  private readonly calls = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: Error) => void }
  >();
  private readonly ending = new AbortController();
  /** The newest append of each stream, and who waits for the next. Nobody else appends to the file. */
  private readonly newest = new Map<StreamName, number>();
  private readonly waiting = new Map<StreamName, Set<() => void>>();
  private readonly queue = new EmbeddedQueue({
    after: (sequence) => this.ask({ op: 'after', stream: QUEUE, sequence }) as Promise<StoredMessage[]>,
    messages: (sequences) =>
      this.ask({ op: 'messages', stream: QUEUE, sequences }) as Promise<StoredMessage[]>,
    remove: async (sequence) => void (await this.ask({ op: 'done', stream: QUEUE, sequence })),
  });
  private lastCall = 0;
  /** Of the file that a reader reads. */
  private readonly inode: number | undefined;
  private closed: Promise<void> | undefined;

  private constructor(
    private readonly worker: Worker,
    private readonly epochs: Record<string, string>,
    /** Of a reader: the file that it reads. */
    private readonly readFile: string | undefined,
  ) {
    super();
    this.inode = readFile === undefined ? undefined : statSync(readFile, { throwIfNoEntry: false })?.ino;
    worker.on('message', ({ call, response }: { call: number; response: Response }) =>
      this.settle(call, response),
    );
    worker.on('exit', () => this.refuseAll(new Error('the log is closed')));
  }

  /** Throws StartupError when the folder cannot be used or another process uses it. */
  static async open(
    dataDir: string,
    { metrics = METRICS_BOUNDS }: { metrics?: Bounds } = {},
  ): Promise<EmbeddedEventLog> {
    return EmbeddedEventLog.run(dataDir, false, metrics);
  }

  /**
   * Reads the log beside the process that writes it, or without one: nothing in the folder changes, and every method that
   * writes fails. What is appended meanwhile shows within a fifth of a second. Throws StartupError when there is no log in
   * the folder, or none that can be read.
   */
  static async reader(dataDir: string): Promise<EmbeddedEventLog> {
    return EmbeddedEventLog.run(dataDir, true, METRICS_BOUNDS);
  }

  /** Who has the folder now, in words; undefined if nobody has. Throws an Error if the folder cannot be looked at. */
  static holder(dataDir: string): string | undefined {
    const [lock, holder] = [join(dataDir, 'relay.lock'), join(dataDir, 'relay.pid')];
    if (!existsSync(lock)) return undefined;
    const guard = new DatabaseSync(lock, { readOnly: true });
    try {
      guard.prepare('SELECT count(*) FROM sqlite_master').get();
      return undefined;
    } catch (error) {
      if (!String(error).includes('locked')) throw error;
      return existsSync(holder) ? readFileSync(holder, 'utf8').trim() : 'another process';
    } finally {
      guard.close();
    }
  }

  private static async run(dataDir: string, readsOnly: boolean, metrics: Bounds): Promise<EmbeddedEventLog> {
    const extension = extname(import.meta.filename);
    const worker = new Worker(new URL(`./embedded-worker${extension}`, import.meta.url), {
      workerData: {
        dataDir,
        streams: Object.entries({ ...STREAMS, [QUEUE]: metrics }).map(([name, keep]) => ({
          name,
          isQueue: name === QUEUE,
          ...keep,
        })),
        readsOnly,
      } satisfies WorkerSettings,
    });
    const opened = await new Promise<Opened>((done, fail) => {
      worker.once('message', done);
      worker.once('error', fail);
    });
    const folder = resolve(dataDir);
    if (opened.ok) {
      worker.removeAllListeners('error');
      // Without its log the process is of no use: let it end, and be started again.
      worker.on('error', (error) => {
        new Logger(EmbeddedEventLog.name).fatal(`The thread of the log died: ${String(error)}`);
        throw error;
      });
      return new EmbeddedEventLog(worker, opened.epochs, readsOnly ? join(folder, 'log.sqlite') : undefined);
    }
    await worker.terminate();
    throw new StartupError(reasonFor(opened, folder));
  }

  async append(stream: StreamName, { subject, id, body, expectedSequence }: NewMessage): Promise<Position> {
    const answer = await this.call({ op: 'append', stream, subject, id, body, expectedSequence });
    if (!answer.ok && answer.error === 'unexpected sequence') {
      throw new UnexpectedSequence(subject, expectedSequence ?? 0, answer.actual);
    }
    const sequence = valueOf(answer) as number;
    this.newest.set(stream, Math.max(sequence, this.newest.get(stream) ?? 0));
    for (const wake of this.waiting.get(stream) ?? []) wake();
    if (stream === QUEUE) this.queue.wake();
    return this.position(stream, sequence);
  }

  async head(stream: StreamName): Promise<Position> {
    return this.position(stream, (await this.ask({ op: 'head', stream })) as number);
  }

  async beginning(stream: OrderedStream): Promise<Position> {
    return this.position(stream, (await this.ask({ op: 'beginning', stream })) as number);
  }

  async *tail(
    stream: OrderedStream,
    after: Position | undefined,
    signal: AbortSignal,
  ): AsyncIterable<readonly LoggedMessage[]> {
    if (after && after.epoch !== this.epochs[stream]) {
      throw new UnknownEpoch(`${stream} has the epoch ${this.epochs[stream]}, not ${after.epoch}`);
    }
    const { sequence: last } = await this.head(stream);
    if (after && after.sequence > last) {
      throw new UnknownEpoch(`${stream} ends at ${last}, before ${after.sequence}: it lost its end`);
    }
    const end = AbortSignal.any([signal, this.ending.signal]);
    let sequence = after?.sequence ?? 0;
    while (!end.aborted) {
      const stored = (await this.ask({ op: 'after', stream, sequence })) as StoredMessage[];
      if (stored.length > 0) {
        sequence = stored.at(-1)?.sequence ?? sequence;
        yield this.logged(stream, stored);
      } else if (sequence >= (this.newest.get(stream) ?? 0)) {
        await this.nextAppend(stream, end);
      }
    }
  }

  async *latest(stream: OrderedStream, subjectPrefix = ''): AsyncIterable<readonly LoggedMessage[]> {
    const sequences = await this.ask({ op: 'lastOfSubjects', stream, prefix: subjectPrefix });
    yield* this.read(stream, sequences as number[]);
  }

  async *history(stream: OrderedStream, subject: string): AsyncIterable<readonly LoggedMessage[]> {
    const sequences = await this.ask({ op: 'ofSubject', stream, subject });
    yield* this.read(stream, sequences as number[]);
  }

  take(signal: AbortSignal): AsyncIterable<Taken> {
    const hand = new Hand();
    const end = AbortSignal.any([signal, this.ending.signal]);
    return hand.handOut(this.queue.offers(hand, end), end);
  }

  async backlog(stream: BoundedStream = QUEUE): Promise<Backlog> {
    const { oldest, ...backlog } = (await this.ask({ op: 'backlog', stream })) as StoredBacklog;
    return {
      ...backlog,
      oldestMs: oldest === undefined ? undefined : Math.max(0, Date.now() - Number(oldest)),
    };
  }

  async remove(stream: 'FF_METRICS_PARKED', { epoch, sequence }: Position): Promise<void> {
    if (epoch === this.epochs[stream]) await this.ask({ op: 'done', stream, sequence });
  }

  /** The folder has one process, and so every work one leader. */
  async lead(_work: string, signal: AbortSignal): Promise<AbortSignal> {
    return AbortSignal.any([signal, this.ending.signal]);
  }

  async remember(name: string, value: object): Promise<void> {
    await this.ask({ op: 'remember', name, value: JSON.stringify(value) });
  }

  async recall(name: string): Promise<unknown> {
    const value = (await this.ask({ op: 'recall', name })) as string | undefined;
    return value === undefined ? undefined : JSON.parse(value);
  }

  get reachable(): boolean {
    return true;
  }

  close(): Promise<void> {
    this.ending.abort();
    this.closed ??= this.ask({ op: 'close' }).then(() => void this.worker.terminate());
    return this.closed;
  }

  /** Those of the sequences that are still kept. */
  private async *read(
    stream: StreamName,
    sequences: readonly number[],
  ): AsyncIterable<readonly LoggedMessage[]> {
    for (let rest = sequences; rest.length > 0;) {
      const stored = (await this.ask({
        op: 'messages',
        stream,
        sequences: rest.slice(0, 500),
      })) as StoredMessage[];
      const last = stored.at(-1)?.sequence;
      rest = last === undefined ? rest.slice(500) : rest.filter((sequence) => sequence > last);
      if (stored.length > 0) yield this.logged(stream, stored);
    }
  }

  private async nextAppend(stream: StreamName, end: AbortSignal): Promise<void> {
    if (this.readFile !== undefined) return this.nextLook(this.readFile, end);
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = () => resolve();
    const waiting = this.waiting.get(stream) ?? new Set();
    this.waiting.set(stream, waiting.add(wake));
    end.addEventListener('abort', wake);
    if (!end.aborted) await promise;
    waiting.delete(wake);
    end.removeEventListener('abort', wake);
  }

  /** A file that was removed, and perhaps made anew, has nothing more to tell. */
  private async nextLook(file: string, end: AbortSignal): Promise<void> {
    await delay(LOOK_EVERY_MS, undefined, { signal: end }).catch(() => undefined);
    const { ino } = statSync(file, { throwIfNoEntry: false }) ?? {};
    if (ino !== this.inode) throw new UnknownEpoch(`${file} was removed`);
  }

  private logged(stream: StreamName, stored: readonly StoredMessage[]): readonly LoggedMessage[] {
    return stored.map(({ sequence, ...message }) => ({
      ...message,
      position: this.position(stream, sequence),
    }));
  }

  private position(stream: StreamName, sequence: number): Position {
    return { epoch: this.epochs[stream] ?? '', sequence };
  }

  private async ask(request: Request): Promise<unknown> {
    return valueOf(await this.call(request));
  }

  private call(request: Request): Promise<Response> {
    if (this.closed) return Promise.reject(new Error('the log is closed'));
    const { promise, resolve: settle, reject } = Promise.withResolvers<unknown>();
    const call = ++this.lastCall;
    this.calls.set(call, { resolve: settle, reject });
    this.worker.postMessage({ call, request });
    return promise as Promise<Response>;
  }

  private settle(call: number, response: Response): void {
    this.calls.get(call)?.resolve(response);
    this.calls.delete(call);
  }

  private refuseAll(error: Error): void {
    for (const { reject } of this.calls.values()) reject(error);
    this.calls.clear();
  }
}

function reasonFor(opened: Exclude<Opened, { ok: true }>, folder: string): string {
  switch (opened.problem) {
    case 'locked':
      return `DATA_DIR ${folder} is in use by ${opened.holder}. Stop it, or set DATA_DIR to another folder.`;
    case 'absent':
      return `DATA_DIR ${folder} holds no log. Set DATA_DIR to the folder of a relay that has run, or NATS_URL to where its log is.`;
    case 'unusable':
      return `DATA_DIR ${folder} cannot be used: ${opened.reason}. ${adviceFor(opened.reason)}, or set DATA_DIR to another.`;
  }
}

function adviceFor(reason: string): string {
  return /not a database|malformed/.test(reason)
    ? 'Its log is damaged: move log.sqlite away, and it is made anew from the upstream'
    : 'Make it a folder that this user may write to';
}

function valueOf(response: Response): unknown {
  if (response.ok) return response.value;
  throw new Error(`the log failed: ${response.error === 'failed' ? response.reason : response.error}`);
}
