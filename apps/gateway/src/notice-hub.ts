import type { ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import type { Subscription } from 'rxjs';

import {
  differences,
  type EnvironmentState,
  flagIn,
  flagsOf,
  type Notice,
  noticeIn,
  type Position,
  segmentIn,
  segmentsOf,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, type LoggedMessage, UnknownEpoch } from '#libs/event-log';

import type { EnvironmentViews, Jump } from './environment-views.js';
import type { GatewayTelemetry } from './gateway-telemetry.js';
import { type Change, type EnvironmentChanges, LastChanges } from './last-changes.js';
import { OpenStreams, type Stream, type StreamLimits, type StreamOpening } from './open-streams.js';
import { sdkEvent } from './sdk-payloads.js';
import { EventBatch, type EventId, eventIdIn, logName, type StreamEvent } from './stream-events.js';

const RETRY_MS = 1000;
/** Events that come so soon after another share writes. */
const GATHER_MS = 5;
/** By how much the clocks of this machine and the log's may differ. */
const CLOCKS_DIFFER_MS = 300_000;

export interface StreamSettings extends StreamLimits {
  /** How far back a stream is told that does not say what it heard. */
  readonly replayMs: number;
}

/** What is sent to a stream that was away, made for all that ask for the same. */
interface Replays {
  readonly state: EnvironmentState;
  readonly told: Position;
  readonly batches: Map<string, EventBatch>;
}

/**
 * Tells the streams of SDKs: each notice once to each stream, in the order of the log, when the views hold what it tells
 * of; and to a stream that comes, what it missed.
 *
 * What was missed is not told as it was, but as it is: `patch` for what is there now and `delete` for what is not. So
 * it is never older than what a stream heard meanwhile, and one event for each entity is enough.
 */
export class NoticeHub {
  private readonly logger = new Logger(NoticeHub.name);
  private readonly stopping = new AbortController();
  private readonly streams: OpenStreams;
  private readonly changes: LastChanges;
  /** Up to where streams are told; undefined as long as the log was never reached, or since it was lost. */
  private told: Position | undefined;
  /** Where that began. */
  private toldFrom = 0;
  private telling = Promise.withResolvers<void>();
  private lostAt = Number.NEGATIVE_INFINITY;
  /** What jumps stood for whose notices have not come yet, in the order of the log. */
  private jumpedOver: Jump['over'][] = [];
  /** By environment: what came so soon after something was written that it waits for more. */
  private readonly gathering = new Map<string, { readonly notice: Notice; readonly event: StreamEvent }[]>();
  private readonly replays = new WeakMap<EnvironmentChanges, Replays>();
  private looking: Promise<Position> | undefined;
  private work: Promise<void> | undefined;
  private revocations: Subscription | undefined;
  private jumps: Subscription | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly views: EnvironmentViews,
    private readonly telemetry: GatewayTelemetry,
    private readonly settings: StreamSettings,
  ) {
    this.streams = new OpenStreams(settings, telemetry);
    this.changes = new LastChanges(log);
  }

  /** Called before the views are loaded. Returns once no notice that comes later can be missed, also if the log is away now. */
  async start(): Promise<void> {
    const head = await this.log.head('FF_CHANGES').catch(() => undefined);
    if (head) this.tellFrom(head);
    this.work = this.keepTelling();
    this.jumps = this.views.jumps.subscribe((jump) => this.tellJump(jump));
    this.streams.start();
    this.revocations = this.views.revoked.subscribe(({ environment, apiKey }) =>
      this.streams.endOf(environment, 'revoked', apiKey),
    );
  }

  /** Takes no more streams, and ends those that are open: spread over a time, in which they still hear what changes. */
  drain(): Promise<void> {
    return this.streams.drain();
  }

  async stop(): Promise<void> {
    await this.drain();
    this.stopping.abort();
    this.revocations?.unsubscribe();
    this.jumps?.unsubscribe();
    await this.work;
  }

  get openStreams(): number {
    return this.streams.size;
  }

  /** How many streams are open of each environment that has any. */
  openStreamsByEnvironment(): Iterable<readonly [environment: string, streams: number]> {
    return this.streams.sizes();
  }

  /** Whether one more stream may be opened. */
  takes(environment: string, apiKey: string): boolean {
    return this.streams.takes(environment, apiKey);
  }

  /** Ends every stream; they may come back. */
  endAll(): void {
    this.streams.endAll('upstream-lost');
  }

  /**
   * Takes over a response whose headers are written, with `Connection: close`, since some SDKs see only the connection
   * end, and tells it what its reader missed.
   */
  add(opening: StreamOpening, response: ServerResponse, lastEventId?: string): void {
    this.flush(opening.environment);
    const joined = { told: this.told?.sequence, held: this.views.position };
    const stream = this.streams.open(opening, response, joined);
    const heard = eventIdIn(lastEventId);
    const changes = this.told && this.changes.of(opening.environment);
    if (this.missesNothing(heard)) stream.isLevel = true;
    else if (changes && !this.isAhead(heard)) this.replay(stream, heard, changes, Date.now());
    else void this.catchUp(stream, heard, Date.now());
  }

  /** The same, for one about which the log must be asked first. It hears of what changes meanwhile, without ids. */
  private async catchUp(stream: Stream, heard: EventId | undefined, openedAt: number): Promise<void> {
    while (stream.isOpen && !this.stopping.signal.aborted) {
      try {
        await this.telling.promise;
        const changes = await this.changes.load(stream.environment);
        if (heard && this.isAhead(heard)) {
          const head = await this.head();
          if (logName(head.epoch) === heard.log && head.sequence >= heard.sequence) {
            stream.heardUntil = heard.sequence;
            stream.isLevel = true;
            return;
          }
        }
        if (this.told) return this.replay(stream, heard, changes, openedAt);
      } catch {
        // The log is away, which is said where it is followed.
        await delay(RETRY_MS, undefined, { signal: this.stopping.signal }).catch(() => undefined);
      }
    }
  }

  private missesNothing(heard: EventId | undefined): boolean {
    const { told } = this;
    if (!told) return false;
    return heard
      ? heard.sequence === told.sequence && heard.log === logName(told.epoch)
      : this.settings.replayMs === 0;
  }

  /** Whether a stream says that it heard of more than is told here. */
  private isAhead(heard: EventId | undefined): boolean {
    const { told } = this;
    return Boolean(told && heard?.log === logName(told.epoch) && heard.sequence > told.sequence);
  }

  /** Where the notices end; those who ask together share the answer. */
  private head(): Promise<Position> {
    return (this.looking ??= this.log.head('FF_CHANGES').finally(() => (this.looking = undefined)));
  }

  /** Brings a stream level: from now on it hears what all hear. */
  private replay(
    stream: Stream,
    heard: EventId | undefined,
    changes: EnvironmentChanges,
    openedAt: number,
  ): void {
    const { told } = this;
    const state = this.views.environment(stream.environment);
    if (!told || !state) return;
    this.flush(stream.environment);
    const until = stream.joined.told ?? this.toldFrom;
    const after = heard ? this.afterId(heard, changes) : this.afterTime(stream, changes, openedAt);
    const batch = this.replayOf(state, changes, told, after, until);
    this.streams.replay(stream, batch);
  }

  /** Up to where somebody heard who names an event; undefined if that cannot be told any more. */
  private afterId({ log, sequence }: EventId, { keptAfter }: EnvironmentChanges): number | undefined {
    const { told } = this;
    const isKnown = told && logName(told.epoch) === log && sequence <= told.sequence;
    return isKnown && sequence >= keptAfter ? sequence : undefined;
  }

  private afterTime(stream: Stream, changes: EnvironmentChanges, openedAt: number): number | undefined {
    const { replayMs } = this.settings;
    if (openedAt - this.lostAt < replayMs) return undefined;
    // One that was open before anything was told heard of nothing that came until then.
    const backMs = stream.joined.told === undefined ? Math.max(replayMs, CLOCKS_DIFFER_MS) : replayMs;
    return changes.before(openedAt - backMs);
  }

  private replayOf(
    state: EnvironmentState,
    changes: EnvironmentChanges,
    told: Position,
    after: number | undefined,
    until: number,
  ): EventBatch {
    let made = this.replays.get(changes);
    if (made?.state !== state || made.told !== told) {
      this.replays.set(changes, (made = { state, told, batches: new Map() }));
    }
    const name = `${after} ${until}`;
    let batch = made.batches.get(name);
    if (!batch) {
      const missed = after === undefined ? 'unknown' : changes.between(after, until);
      batch = new EventBatch(missed === 'unknown' ? all(state, changes, told) : news(state, missed, told));
      made.batches.set(name, batch);
    }
    return batch;
  }

  private async keepTelling(): Promise<void> {
    const { signal } = this.stopping;
    for (let lastFailure = ''; !signal.aborted;) {
      try {
        if (!this.told) this.tellFrom(await this.readableHead());
        for await (const messages of this.log.tail('FF_CHANGES', this.told, signal)) {
          for (const message of messages) await this.tell(message);
          lastFailure = '';
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof UnknownEpoch) this.beginAgain();
        else if (String(error) !== lastFailure) {
          this.logger.warn(
            `Notices cannot be read: ${String(error)}; streams stay open, and will hear of them`,
          );
        }
        lastFailure = String(error);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  private tellFrom(head: Position): void {
    this.told = head;
    this.toldFrom = head.sequence;
    this.telling.resolve();
  }

  /** Where the notices end, when the views hold what they tell of: the streams that are open are told of those from here. */
  private async readableHead(): Promise<Position> {
    const head = await this.log.head('FF_CHANGES');
    if (await this.views.caughtUp(await this.log.head('FF_FACTS'))) return head;
    throw new Error('the views do not hold yet what they tell of');
  }

  private beginAgain(): void {
    this.logger.warn(
      'The notices were lost, and nobody knows which: all streams end, and hear of everything',
    );
    this.streams.endAll('notices-lost');
    this.changes.forget();
    this.lostAt = Date.now();
    this.told = undefined;
    this.telling = Promise.withResolvers();
  }

  private async tell({ body, position, subject, time }: LoggedMessage): Promise<void> {
    try {
      const { notice, of, time: factTime } = noticeIn(body);
      if (this.wasTold(of) || (await this.views.caughtUp(of))) {
        this.changes.take({ ...notice, sequence: position.sequence, time });
        if (this.wasTold(of)) this.sendToLate(notice, position, of);
        else this.send(notice, position, factTime);
      } else if (this.stopping.signal.aborted) return;
      else {
        this.logger.warn(
          `Streams of ${notice.environment} end: what notice ${position.sequence} tells of cannot be read here`,
        );
        this.changes.take({ ...notice, sequence: position.sequence, time });
        this.telemetry.noticeFailed(notice.environment);
        this.streams.endOf(notice.environment, 'unreadable');
      }
    } catch (error) {
      this.logger.error(`Notice ${position.sequence} (${subject}) is passed over: ${String(error)}`);
    }
    this.told = position;
  }

  /** The notices of a log that took the place of another may come late, or from nobody: what differs is known here. */
  private tellJump({ over, environments }: Jump): void {
    const last = this.jumpedOver.at(-1);
    if (last?.epoch !== over.epoch) this.jumpedOver = [over];
    else if (last.until === over.after) this.jumpedOver.splice(-1, 1, { ...over, after: last.after });
    else this.jumpedOver.push(over);
    for (const { before, after } of environments) {
      const nothing = unknownEnvironment((after ?? before)?.id ?? '');
      for (const notice of differences(before ?? nothing, after ?? nothing)) this.send(notice, undefined);
    }
  }

  /** Whether a jump told of a fact. Asked in the order of the log: what lies behind is forgotten. */
  private wasTold({ epoch, sequence }: Position): boolean {
    if (this.jumpedOver[0]?.epoch !== epoch) return false;
    while (this.jumpedOver[0] && this.jumpedOver[0].until < sequence) this.jumpedOver.shift();
    const [next] = this.jumpedOver;
    return next !== undefined && sequence > next.after;
  }

  /** The first of several goes out at once, the others when no more came for a moment, or a moment has passed. */
  private send(notice: Notice, position: Position | undefined, factTime?: number): void {
    const { environment } = notice;
    const data = this.isPast(notice) ? undefined : sdkEvent(notice);
    if (data === undefined || !this.streams.has(environment)) return;
    const gathered = this.gathering.get(environment);
    if (gathered) {
      gathered.push({ notice, event: { data, position, factTime } });
      return;
    }
    this.write(environment, [{ data, position, factTime }]);
    this.gather(environment);
  }

  /** What a jump told of already is news only for streams that were opened after it. */
  private sendToLate(notice: Notice, position: Position, of: Position): void {
    const { environment } = notice;
    const data = this.isPast(notice) ? undefined : sdkEvent(notice);
    if (data === undefined) return;
    this.flush(environment);
    const batch = new EventBatch([{ data, position }]);
    for (const stream of this.streams.of(environment)) {
      const { held } = stream.joined;
      const isLate = held?.epoch === of.epoch && held.sequence >= of.sequence;
      if (isLate && stream.heardUntil < position.sequence) this.streams.write(stream, batch);
    }
  }

  private gather(environment: string): void {
    this.gathering.set(environment, []);
    setTimeout(() => {
      const more = (this.gathering.get(environment)?.length ?? 0) > 0;
      this.flush(environment);
      if (more) this.gather(environment);
      else this.gathering.delete(environment);
    }, GATHER_MS).unref();
  }

  private flush(environment: string): void {
    // What is gone again since it came is not told: its removal is among them.
    const events = (this.gathering.get(environment)?.splice(0) ?? []).flatMap(({ notice, event }) =>
      this.isPast(notice) ? [] : [event],
    );
    if (events.length > 0) this.write(environment, events);
  }

  private write(environment: string, events: readonly StreamEvent[]): void {
    const batch = new EventBatch(events);
    const first = events.find(({ position }) => position)?.position?.sequence ?? Number.POSITIVE_INFINITY;
    for (const stream of this.streams.of(environment)) {
      if (stream.heardUntil < first) this.streams.write(stream, batch);
      else {
        const news = events.filter(({ position }) => !position || position.sequence > stream.heardUntil);
        this.streams.write(stream, new EventBatch(news));
      }
    }
    for (const { factTime } of events) this.telemetry.noticeTold(environment, factTime);
  }

  /** Whether what it says to fetch is gone again: its removal is told next, and Node would ask for it without end. */
  private isPast({ event, kind, environment, identifier }: Notice): boolean {
    if (event === 'delete') return false;
    const state = this.views.environment(environment);
    if (!state) return true;
    if (kind === 'flag') return !flagIn(state, identifier);
    return kind === 'segment' && !segmentIn(state, identifier);
  }
}

/** What is true now of something that changed. */
function asItIs(state: EnvironmentState, { kind, environment, identifier, version }: Notice): Notice {
  const now = kind === 'flag' ? flagIn(state, identifier) : segmentIn(state, identifier);
  return now
    ? { event: 'patch', kind, environment, identifier, version: now.version ?? 0 }
    : { event: 'delete', kind, environment, identifier, version };
}

/** What of that is to be told, in the order of the log: whoever heard one of them has heard all that came before it. */
function news(state: EnvironmentState, missed: readonly Change[], told: Position): readonly StreamEvent[] {
  return missed.flatMap((last, i) => {
    const data = sdkEvent(asItIs(state, last));
    const position = i === missed.length - 1 ? told : { epoch: told.epoch, sequence: last.sequence };
    return data === undefined ? [] : [{ data, position }];
  });
}

/** Whoever has the last of all has them all. */
function all(state: EnvironmentState, changes: EnvironmentChanges, told: Position): readonly StreamEvent[] {
  const data = everything(state, changes).flatMap((notice) => sdkEvent(notice) ?? []);
  return data.map((one, i) => ({ data: one, position: i === data.length - 1 ? told : undefined }));
}

/** All that is there, and the removal of what is known to have been. */
function everything(state: EnvironmentState, changes: EnvironmentChanges): readonly Notice[] {
  const there = { event: 'patch', environment: state.id } as const;
  return [
    ...flagsOf(state).map(({ feature: identifier, version }): Notice => ({
      ...there,
      kind: 'flag',
      identifier,
      version: version ?? 0,
    })),
    ...segmentsOf(state).map(({ identifier, version }): Notice => ({
      ...there,
      kind: 'segment',
      identifier,
      version: version ?? 0,
    })),
    ...changes.entities.map((last: Change) => asItIs(state, last)).filter(({ event }) => event === 'delete'),
  ];
}
