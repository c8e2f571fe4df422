import { createHash } from 'node:crypto';

import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';
import type { Counter } from 'prom-client';

import {
  environmentOfReport,
  evaluationsIn,
  merge,
  type MetricsReport,
  parkedBody,
  parkedIn,
  type ParkedReport,
  parkedSubject,
  reportBody,
  reportIn,
  reportSubject,
  Sum,
} from '#libs/domain';
import type { Backlog, EventLog, Taken } from '#libs/event-log';
import { type PartStatus, type Telemetry, UNSENT_EVALUATIONS } from '#libs/observability';
import {
  type Backoff,
  backoffMs,
  KeptSession,
  pause,
  type SaasClient,
  UpstreamRefusal,
} from '#libs/saas-client';

import { Division, type Part, type Piece } from './division.js';

/** Reasons to park something, beyond which they are counted and not said one by one. */
const MOST_REASONS = 1000;
/** Of a reason, and of a message that nobody can read, so much is kept. */
const MOST_CHARACTERS = { reason: 500, text: 100_000 };
/** A window that came to this, added up, is posted at once. */
const WINDOW_CHARACTERS = 1024 * 1024;
/** What may wait in all windows together: half of what the log lets one taker have. The other half is on its way. */
const MOST_WAITING = { messages: 1000, bytes: 32 * 1024 * 1024 };
const POSTS_AT_A_TIME = 8;
/** How many messages of environments that are left alone are on their way back to the log at once. */
const RETURNS_AT_A_TIME = 100;
/** What looking at a message of the backlog may take; a few times what it does. */
const LOOK_MS = 2;
/** The log gives a message to another taker when it was not heard of for 30 s. */
const KEEP_INTERVAL_MS = 10_000;
/** What was given back, or left to itself, is handed out again so long after its time at the latest. */
const COME_AGAIN_MS = 60_000;
/** What cannot be parked comes again after so long. */
const PARK_RETRY_MS = 60_000;
const BOUNDS = {
  FF_METRICS: 'METRICS_MAX_AGE, METRICS_MAX_BYTES',
  FF_METRICS_PARKED: '30 days, 256 MiB',
};
const LOG_RETRY_MS = 1000;
/** How often the log is told again that a message is done: for about as long as the message is out. */
const LATE_TRIES = 30;
const BACKLOG_INTERVAL_MS = 5000;
/** How much of what is parked is read to say why, at most how often, and how many of the reasons are shown. */
const PARKED = { messages: 1000, characters: 16 * 1024 * 1024, everyMs: 30_000, reasons: 20 };
const REMEMBERED_MESSAGES = 20_000;
/** Refusals by what a post says, of which a part of it may be free. */
const ABOUT_CONTENT = new Set([400, 413, 422]);
/** Refusals that time heals. */
const PASSING = new Set([401, 408, 425, 429]);

export interface MetricsForwarderOptions {
  /** How long counts are gathered; 0 to take them from the log and drop them. */
  readonly windowMs: number;
  /** How long `stop` may wait for the upstream. */
  readonly shutdownGraceMs: number;
}

/** A message that this forwarder answers for. */
interface Held {
  readonly id: string;
  readonly report: MetricsReport;
  /** How to answer for it; another when the log has given it out again. */
  taken: Taken;
}

/** What is gathered of one environment. */
interface Window {
  readonly held: Held[];
  /** As it is in the log. */
  bytes: number;
  /** What is to be posted. */
  readonly sum: Sum;
  readonly timer: NodeJS.Timeout;
}

/** How much is parked of an environment for one reason. */
interface ParkedFor {
  readonly environment: string;
  readonly reason: string;
  messages: number;
  evaluations: number;
}

/** Why the upstream did not take a post. */
interface Failure {
  readonly reason: string;
  /** Time heals it. */
  readonly isPassing: boolean;
  /** A part of what was posted may be free of it. */
  readonly isAboutContent: boolean;
  /** How long the upstream asks to wait before the next try. */
  readonly retryAfterMs: number | undefined;
}

/** A part of a message that the upstream does not have, with the reason if it refuses it for good. */
type Untaken = Part<Held> & { readonly reason?: string };

/** No post was made, since the upstream gave no token. */
class NoToken extends Error {
  override readonly name = 'NoToken';
}

/**
 * Carries evaluation counts upstream (protocol U6). Messages of the log are gathered by environment, posted merged, and
 * acknowledged when the upstream has taken them: what is not acknowledged comes again, here or at another forwarder.
 *
 * What a post fails with decides what becomes of its messages. Time heals it: they go back to the log for as long as the
 * environment is to be left alone. It is about what they say: they are posted in halves, down to the one message, and then to
 * the one entry in it that is refused. That one, and whatever else the upstream will not take, is parked in the log with the
 * reason: it holds up nobody, and is sent again when somebody asks for it.
 */
export class MetricsForwarder {
  private readonly logger = new Logger(MetricsForwarder.name);
  private readonly session: KeptSession;
  private readonly forwarded: Counter<'envID' | 'error'>;
  private readonly parkedMessages: Counter;
  private readonly unsent: Counter;
  /** No more is taken. */
  private readonly stopping = new AbortController();
  /** No more is posted. */
  private readonly ended = new AbortController();
  private readonly limit = pLimit(POSTS_AT_A_TIME);

  private readonly held = new Map<string, Held>();
  private readonly windows = new Map<string, Window>();
  /** The posts of each environment, one after the other. */
  private readonly posts = new Map<string, Promise<void>>();
  /** Environments whose last post failed, and until when they are left alone. */
  private readonly failing = new Map<string, { readonly failures: number; readonly untilMs: number }>();
  /** What the log has yet to hear. */
  private readonly late = new Set<Promise<unknown>>();
  private readonly returns = pLimit(RETURNS_AT_A_TIME);
  /** Messages that the upstream has, but the log may not know it. */
  private readonly delivered = new Remembered();
  private readonly reasons = new Set<string>();

  private taking: Promise<void> | undefined;
  private readonly timers: NodeJS.Timeout[] = [];
  private backlog: Backlog | undefined;
  private parked: Backlog | undefined;
  private lastPost: object | undefined;
  private lastParked: object | undefined;
  private parkedFor: readonly ParkedFor[] = [];
  /** What was parked when `parkedFor` was read, and when that was. */
  private parkedThen: { readonly seen: string; readonly atMs: number } | undefined;
  /** Evaluations, since the settings say so. */
  private unsentEvaluations = 0;

  constructor(
    private readonly log: EventLog,
    private readonly saas: SaasClient,
    telemetry: Telemetry,
    private readonly options: MetricsForwarderOptions,
    private readonly backoff: Backoff = backoffMs,
  ) {
    this.session = new KeptSession(saas);
    this.forwarded = telemetry.counter(
      'ff_proxy_metrics_forwarded',
      'Posts of evaluation counts to the upstream; error is true when it did not take one',
      ['envID', 'error'],
    );
    this.parkedMessages = telemetry.counter(
      'ff_relay_metrics_parked_total',
      'Messages with evaluation counts that the upstream refused for good',
    );
    this.unsent = telemetry.counter(...UNSENT_EVALUATIONS);
    this.show(telemetry);
  }

  start(): void {
    if (this.options.windowMs === 0)
      this.logger.warn(
        'METRIC_POST_DURATION is 0, or OFFLINE is on: evaluation counts are taken from the log and dropped',
      );
    this.timers.push(
      setInterval(() => this.keepAll(), KEEP_INTERVAL_MS),
      setInterval(() => void this.lookAtBacklog(), BACKLOG_INTERVAL_MS),
    );
    void this.lookAtBacklog();
    this.taking = this.takeAll();
  }

  /** Posts what was gathered, as far as the upstream takes it in time. The rest goes back. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.taking;
    for (const environment of this.windows.keys()) this.close(environment);
    const late = setTimeout(() => this.ended.abort(), this.options.shutdownGraceMs);
    await Promise.all(this.posts.values());
    await Promise.all(this.late);
    clearTimeout(late);
    for (const timer of this.timers) clearInterval(timer);
  }

  status(): PartStatus {
    const waiting = [...this.failing].map(([environment, { failures, untilMs }]) => ({
      environment,
      failures,
      until: new Date(untilMs).toISOString(),
    }));
    return {
      ready: this.taking !== undefined && !this.stopping.signal.aborted,
      backlog: this.backlog,
      held: this.held.size,
      lastPost: this.lastPost,
      waiting,
      parked: { ...this.parked, last: this.lastParked, reasons: this.parkedFor },
      isSending: this.options.windowMs > 0,
      unsentEvaluations: this.unsentEvaluations,
    };
  }

  private async takeAll(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        for await (const taken of this.log.take(signal)) await this.receive(taken);
      } catch (error) {
        this.logger.warn(`Evaluation counts cannot be read from the log: ${String(error)}`);
      }
      await pause(LOG_RETRY_MS, signal);
    }
  }

  private async receive(taken: Taken): Promise<void> {
    let read: { id: string; report: MetricsReport };
    try {
      read = reportIn(taken.body);
    } catch (error) {
      const { subject, body } = taken;
      const id = createHash('sha256').update(body).digest('hex');
      const text = body.slice(0, MOST_CHARACTERS.text);
      const environment = environmentOfReport(subject);
      return this.park({ id, taken }, { id, environment, text, reason: String(error) });
    }
    const { id, report } = read;
    const { environment } = report;
    const known = this.held.get(id);
    if (known) known.taken = taken;
    else if (this.delivered.has(id)) await this.acknowledge([{ id, taken }]);
    else if (this.options.windowMs === 0) {
      this.unsentEvaluations += evaluationsIn(report);
      this.unsent.inc(evaluationsIn(report));
      await this.acknowledge([{ id, taken }]);
    } else if (this.waitMs(environment) > 0) {
      const untried = this.returns(() => this.giveBack([{ id, taken }], this.asideMs(environment)));
      this.isYetToHear(untried);
    } else {
      const held = { id, report, taken };
      this.held.set(id, held);
      this.gather(environment, held);
    }
  }

  private gather(environment: string, held: Held): void {
    let window = this.windows.get(environment);
    if (!window) {
      const timer = setTimeout(() => this.close(environment), this.options.windowMs);
      this.windows.set(environment, (window = { held: [], bytes: 0, sum: new Sum(environment), timer }));
    }
    window.held.push(held);
    window.bytes += Buffer.byteLength(held.taken.body);
    window.sum.add(held.report);
    if (window.sum.characters >= WINDOW_CHARACTERS) this.close(environment);

    const open = [...this.windows];
    const messages = open.reduce((sum, [, each]) => sum + each.held.length, 0);
    const bytes = open.reduce((sum, [, each]) => sum + each.bytes, 0);
    if (messages < MOST_WAITING.messages && bytes < MOST_WAITING.bytes) return;
    const [largest] = open.toSorted(([, a], [, b]) => b.held.length - a.held.length);
    if (largest) this.close(largest[0]);
  }

  private close(environment: string): void {
    const window = this.windows.get(environment);
    if (!window) return;
    clearTimeout(window.timer);
    this.windows.delete(environment);
    this.post(environment, window.held);
  }

  private post(environment: string, batch: readonly Held[]): void {
    const before = this.posts.get(environment) ?? Promise.resolve();
    const post = before
      .then(() => this.limit(() => this.deliver(environment, batch)))
      .catch((error: unknown) => this.logger.error(`A post of ${environment} failed: ${String(error)}`))
      .finally(() => {
        if (this.posts.get(environment) === post) this.posts.delete(environment);
      });
    this.posts.set(environment, post);
  }

  /** Sees to it that each message of a batch is taken by the upstream, parked, or goes back. */
  private async deliver(environment: string, batch: readonly Held[]): Promise<void> {
    if (this.ended.signal.aborted) return this.giveBack(batch, 0);
    if (this.waitMs(environment) > 0) return this.giveBack(batch, this.asideMs(environment));
    const division = new Division(batch.map((held) => ({ message: held, id: held.id, report: held.report })));
    const untaken: Untaken[] = [];
    const takenInPart = new Set<Held>();
    const lost = new Set<Held>();
    let waitMs = 0;
    for (let next = division.next(); next; next = division.next()) {
      await this.keep(next, lost);
      const piece = next.filter(({ message }) => !lost.has(message));
      if (piece.length === 0) continue;
      const reports = piece.map((part) => part.report);
      const failure = await this.failureOf(merge(environment, reports));
      if (!failure) {
        division.wasTaken();
        const messages = piece.map((part) => part.message);
        if (piece.every(isWhole)) await this.acknowledge(messages);
        else for (const message of messages) takenInPart.add(message);
      } else if (failure.isPassing) {
        waitMs = this.leaveAlone(environment, failure);
        untaken.push(...piece, ...division.rest());
      } else {
        this.failing.delete(environment);
        const { reason, isAboutContent } = failure;
        untaken.push(...division.wasRefused(piece, isAboutContent).map((part) => ({ ...part, reason })));
      }
    }
    const ofMessage = Map.groupBy(untaken, (part) => part.message);
    const open = new Set([...takenInPart, ...ofMessage.keys()]).difference(lost);
    const settled = [...open].map((held) => {
      const parts = ofMessage.get(held) ?? [];
      return takenInPart.has(held) ? this.finish(held, parts) : this.putAway(held, parts, waitMs);
    });
    await Promise.all(settled);
  }

  /**
   * Makes sure that the messages are still this forwarder's, for the time of a post. The log may have given others to
   * another forwarder, or will: they are let go of.
   */
  private async keep(piece: Piece<Held>, lost: Set<Held>): Promise<void> {
    await Promise.all(
      piece.map(async ({ message }) => {
        if (lost.has(message)) return;
        await message.taken.keep().catch(() => {
          lost.add(message);
          this.held.delete(message.id);
        });
      }),
    );
  }

  /** Posts a report. Undefined if the upstream has it. */
  private async failureOf(report: MetricsReport): Promise<Failure | undefined> {
    const { environment } = report;
    try {
      await this.send(report);
    } catch (error) {
      this.forwarded.inc({ envID: environment, error: 'true' });
      return failureIn(error);
    }
    this.forwarded.inc({ envID: environment, error: 'false' });
    if (this.failing.delete(environment))
      this.logger.log(`The upstream takes evaluation counts of ${environment} again`);
    this.lastPost = { at: new Date().toISOString(), environment, evaluations: evaluationsIn(report) };
    return undefined;
  }

  private async send(report: MetricsReport): Promise<void> {
    const { signal } = this.ended;
    for (let tries = 1; ; tries++) {
      const session = this.session.current(signal);
      try {
        const signedIn = await session.catch((cause: unknown) => {
          throw new NoToken(String(cause), { cause });
        });
        return await this.saas.postMetrics(signedIn, report, signal);
      } catch (error) {
        if (!this.session.forgetIfRefused(error, session) || tries > 1) throw error;
      }
    }
  }

  /** @returns for how long */
  private leaveAlone(environment: string, { reason, retryAfterMs }: Failure): number {
    if (this.stopping.signal.aborted) return 0;
    const failures = (this.failing.get(environment)?.failures ?? 0) + 1;
    const waitMs = this.backoff(failures, Math.random(), retryAfterMs);
    if (failures === 1) {
      this.logger.warn(
        `Evaluation counts of ${environment} stay in the log until the upstream takes them: ${reason}`,
      );
    }
    this.failing.set(environment, { failures, untilMs: Date.now() + waitMs });
    return waitMs;
  }

  /** A message of which the upstream has nothing: it is parked or goes back as it is. */
  private putAway(held: Held, parts: readonly Untaken[], waitMs: number): Promise<void> {
    const { id, report } = held;
    const [reason] = parts.map((part) => part.reason);
    if (reason === undefined || parts.some((part) => part.reason === undefined))
      return this.giveBack([held], waitMs);
    return this.park(held, { id, environment: report.environment, reason, report });
  }

  /**
   * A message of which the upstream has a part, which must not go back with the rest of it. What is refused is parked, and
   * what is left becomes another message. Doing it again after a crash adds nothing.
   */
  private async finish(held: Held, parts: readonly Untaken[]): Promise<void> {
    const { environment } = held.report;
    const rest: MetricsReport[] = [];
    await Promise.all(
      parts.map(async ({ id, report, reason }) => {
        const isParked = reason !== undefined && (await this.isParked({ id, environment, reason, report }));
        if (!isParked) rest.push(report);
      }),
    );
    const id = `${held.id}.rest`;
    const report = merge(environment, rest);
    const message = {
      subject: reportSubject(report),
      id,
      body: reportBody(report, { id, time: held.taken.time }),
    };
    const isKept = rest.length === 0 || (await this.isHeard(() => this.log.append('FF_METRICS', message)));
    return isKept ? this.acknowledge([held]) : this.giveBack([held], 0);
  }

  /** The message is acknowledged once the log has what is parked. */
  private async park(message: Pick<Held, 'id' | 'taken'>, parked: ParkedReport): Promise<void> {
    if (await this.isParked(parked)) await this.acknowledge([message]);
    else await this.giveBack([message], PARK_RETRY_MS);
  }

  /** Whether the log has what is to be parked. Doing it again after a crash adds nothing. */
  private async isParked(parked: ParkedReport): Promise<boolean> {
    const { environment } = parked;
    const reason = parked.reason.slice(0, MOST_CHARACTERS.reason);
    try {
      const now = Date.now();
      await this.log.append('FF_METRICS_PARKED', {
        subject: parkedSubject(parked),
        id: parked.id,
        body: parkedBody({ ...parked, reason }, now),
      });
      this.lastParked = { at: new Date(now).toISOString(), environment, reason };
    } catch (error) {
      this.tell(
        `Evaluation counts of ${environment} that were refused (${reason}) cannot be parked: ${String(error)}`,
      );
      return false;
    }
    this.parkedMessages.inc();
    this.tell(
      `Parked, since the upstream will not take them: evaluation counts of ${environment}: ${reason}. ` +
        'See ff-relay metrics parked',
    );
    return true;
  }

  /** Says it once. */
  private tell(problem: string): void {
    if (this.reasons.has(problem) || this.reasons.size >= MOST_REASONS) return;
    this.reasons.add(problem);
    this.logger.error(problem);
  }

  private async acknowledge(batch: readonly Pick<Held, 'id' | 'taken'>[]): Promise<void> {
    await Promise.all(
      batch.map(async ({ id, taken }) => {
        this.held.delete(id);
        // Should the log not hear of it in time, the message comes again: here it is acknowledged then.
        this.delivered.add(id);
        await taken.done().catch(() => this.isYetToHear(this.isHeard(() => taken.done())));
      }),
    );
  }

  private isYetToHear(telling: Promise<unknown>): void {
    const late = telling.finally(() => this.late.delete(late));
    this.late.add(late);
  }

  /** Tells the log something until it hears it, as long as it may not have given the message to another forwarder. */
  private async isHeard(tell: () => Promise<unknown>): Promise<boolean> {
    const { signal } = this.ended;
    for (let tries = 0; tries < LATE_TRIES; tries++) {
      if (tries > 0) await pause(LOG_RETRY_MS, signal);
      const isHeard = await tell().then(
        () => true,
        () => false,
      );
      if (isHeard || signal.aborted) return isHeard;
    }
    return false;
  }

  private async giveBack(batch: readonly Pick<Held, 'id' | 'taken'>[], waitMs: number): Promise<void> {
    await Promise.all(
      batch.map(async ({ id, taken }) => {
        this.held.delete(id);
        // A message that the log does not hear of comes again by itself.
        await taken.back(waitMs).catch(() => undefined);
      }),
    );
  }

  private waitMs(environment: string): number {
    return Math.max(0, (this.failing.get(environment)?.untilMs ?? 0) - Date.now());
  }

  /**
   * For how long to give back what was not tried. The log hands out what was given back before what nobody has taken yet:
   * it must not be there again before all else that waits was looked at.
   */
  private asideMs(environment: string): number {
    return this.waitMs(environment) + (this.backlog?.messages ?? 0) * LOOK_MS;
  }

  private show(telemetry: Telemetry): void {
    telemetry.gauge(
      'ff_relay_metrics_waiting_messages',
      'Messages with evaluation counts that the log holds for the upstream',
      [],
      (set) => {
        if (this.backlog) set(this.backlog.messages);
      },
    );
    telemetry.gauge(
      'ff_relay_metrics_waiting_seconds',
      'For how long the oldest of them has been waiting',
      [],
      (set) => {
        if (this.backlog) set((this.backlog.oldestMs ?? 0) / 1000);
      },
    );
    telemetry.gauge(
      'ff_relay_metrics_parked_messages',
      'Messages with evaluation counts that the upstream refused for good, and that nobody has sent again',
      [],
      (set) => {
        if (this.parked) set(this.parked.messages);
      },
    );
    telemetry.total(
      'ff_relay_metrics_dropped_messages_total',
      'Messages with evaluation counts that the bounds of the log ever cost, by where they waited',
      ['stream'],
      (set) => {
        if (this.backlog) set(this.backlog.dropped, { stream: 'FF_METRICS' });
        if (this.parked) set(this.parked.dropped, { stream: 'FF_METRICS_PARKED' });
      },
    );
  }

  private keepAll(): void {
    for (const { taken } of this.held.values()) void taken.keep().catch(() => undefined);
  }

  private async lookAtBacklog(): Promise<void> {
    const look = async (stream: 'FF_METRICS' | 'FF_METRICS_PARKED', before: Backlog | undefined) => {
      const backlog = await this.log.backlog(stream).catch(() => undefined);
      const more = before && backlog ? backlog.dropped - before.dropped : 0;
      if (more > 0)
        this.logger.error(
          `${more} messages with evaluation counts were dropped from ${stream}, too old or too many (${BOUNDS[stream]})`,
        );
      return backlog;
    };
    [this.backlog, this.parked] = await Promise.all([
      look('FF_METRICS', this.backlog),
      look('FF_METRICS_PARKED', this.parked),
    ]);
    this.forgetFailing();
    await this.lookAtParked(this.parked).catch(() => (this.parkedThen = undefined));
  }

  /** An environment of which nothing has come for longer than it may be out is with another forwarder, or has nothing left. */
  private forgetFailing(): void {
    if (!this.backlog) return;
    const { messages } = this.backlog;
    const sinceMs = Date.now() - messages * LOOK_MS - COME_AGAIN_MS;
    for (const [environment, { untilMs }] of this.failing) {
      const isHere = this.windows.has(environment) || this.posts.has(environment);
      if (messages === 0 || (untilMs < sinceMs && !isHere)) this.failing.delete(environment);
    }
  }

  /** Why what is parked is parked. It may be much, so it is read when it has changed, and not at once again. */
  private async lookAtParked(parked: Backlog | undefined): Promise<void> {
    if (!parked) return;
    const seen = `${parked.messages} ${parked.bytes} ${parked.dropped}`;
    const [now, then] = [Date.now(), this.parkedThen];
    if (parked.messages > 0 && then && (then.seen === seen || now - then.atMs < PARKED.everyMs)) return;
    this.parkedThen = parked.messages > 0 ? { seen, atMs: now } : undefined;
    this.parkedFor = parked.messages > 0 ? await this.readParked() : [];
  }

  private async readParked(): Promise<readonly ParkedFor[]> {
    const read = new Map<string, ParkedFor>();
    let [messages, characters] = [0, 0];
    for await (const some of this.log.latest('FF_METRICS_PARKED')) {
      for (const { body } of some) {
        const { environment, reason, report } = parkedIn(body);
        const key = JSON.stringify([environment, reason]);
        const known = read.get(key) ?? { environment, reason, messages: 0, evaluations: 0 };
        known.messages++;
        known.evaluations += report ? evaluationsIn(report) : 0;
        read.set(key, known);
        messages++;
        characters += body.length;
      }
      if (messages >= PARKED.messages || characters >= PARKED.characters) break;
    }
    return [...read.values()].toSorted((a, b) => b.messages - a.messages).slice(0, PARKED.reasons);
  }
}

function failureIn(error: unknown): Failure {
  const { status, retryAfterMs } =
    error instanceof UpstreamRefusal ? error : { status: 0, retryAfterMs: undefined };
  return {
    reason: String(error),
    isPassing: status === 0 || status >= 500 || PASSING.has(status),
    isAboutContent: ABOUT_CONTENT.has(status),
    retryAfterMs,
  };
}

const isWhole = ({ id, message }: Part<Held>) => id === message.id;

/** The last ids that were added. */
class Remembered {
  private readonly ids = new Set<string>();

  add(id: string): void {
    this.ids.add(id);
    for (const oldest of this.ids) {
      if (this.ids.size <= REMEMBERED_MESSAGES) return;
      this.ids.delete(oldest);
    }
  }

  has(id: string): boolean {
    return this.ids.has(id);
  }
}
