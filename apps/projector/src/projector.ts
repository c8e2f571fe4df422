import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import {
  differences,
  type EnvironmentFact,
  environmentFactsIn,
  type EnvironmentState,
  evolve,
  fold,
  type Notice,
  noticeBody,
  noticeIn,
  noticeOf,
  noticeSubject,
  noticeSubjectsOf,
  type Position,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, type LoggedMessage, type NewMessage, whileLeading } from '#libs/event-log';
import type { PartStatus } from '#libs/observability';
import {
  comparedSince,
  factsIn,
  foldLog,
  leadOn,
  type LoggedFact,
  type LogFold,
  rebuild,
  statesIn,
} from '#libs/projection';
import type { StateStore } from '#libs/state-store';

/** Under which its place in the facts is kept: every notice up to there is told. */
const PLACE = 'projector';
const RETRY_MS = 500;
/** How soon a store that was flushed or restored is noticed. */
const WATCH_INTERVAL_MS = 500;
/** Every so many looks, all environments are looked for, not only how far the store is. */
const THOROUGH_EVERY = 10;

/** The store is not what this projector made of it. */
class StoreChanged extends Error {
  override readonly name = 'StoreChanged';
  constructor() {
    super('the store was flushed, restored from a copy, or taken over by another projector');
  }
}

/** The last notice about an entity. */
interface Told {
  /** Of the fact that made it, 0 for one of a former log. */
  readonly sequence: number;
  readonly event: Notice['event'];
}

/**
 * Keeps the state store equal to the fold of the facts, and tells of each change. Of several projectors one leads.
 *
 * The order is the promise: the store holds a change before its notice is in the log, and the notice is in the log
 * before the place in the facts is kept. Whoever hears of a change can read it, and a process that dies in between does
 * it again: the store ignores what it holds, and no notice is told twice.
 */
export class Projector {
  private readonly logger = new Logger(Projector.name);
  private readonly stopping = new AbortController();
  /** Made by facts up to `place`, or further. */
  private folded: LogFold | undefined;
  /** Facts up to here may have been told by a projector before this one. */
  private uncertainUntil = 0;
  /** By environment and subject, of the environments where it had to be looked up. */
  private readonly toldBefore = new Map<string, Map<string, Told>>();
  private writer = '';
  private advancedTo = 0;
  private leading = false;
  private level = false;
  private lastFailure = '';
  private work: Promise<void> | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly store: StateStore,
  ) {}

  start(): void {
    const { signal } = this.stopping;
    this.work = whileLeading(this.log, 'projector', signal, (leading) => this.lead(leading));
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  status(): PartStatus {
    return {
      ready: this.level || !this.leading,
      leading: this.leading,
      position: this.folded?.position,
      complete: this.folded?.complete ?? false,
      environments: this.folded?.states.size ?? 0,
      log: this.log.reachable ? 'reachable' : 'unreachable',
      store: this.store.reachable ? 'reachable' : 'unreachable',
      ...(this.lastFailure && { failure: this.lastFailure }),
    };
  }

  private async lead(leading: AbortSignal): Promise<void> {
    this.logger.log('This projector leads');
    this.leading = true;
    while (!leading.aborted) {
      const round = new AbortController();
      const signal = AbortSignal.any([leading, round.signal]);
      try {
        const place = await this.bringLevel(signal);
        this.level = true;
        this.lastFailure = '';
        const watching = this.watchStore(round, signal);
        for await (const messages of this.log.tail('FF_FACTS', place, signal)) await this.project(messages);
        await watching;
        if (!leading.aborted) throw new StoreChanged();
      } catch (error) {
        round.abort();
        this.level = false;
        if (leading.aborted) break;
        // Said once, however often it is tried.
        if (String(error) !== this.lastFailure)
          this.logger.warn(`${String(error)}; starting from the log again`);
        this.lastFailure = String(error);
        await delay(RETRY_MS, undefined, { signal: leading }).catch(() => undefined);
      }
    }
    this.leading = false;
    this.level = false;
  }

  /** Makes the store hold what the log says. @returns the place in the facts up to which notices are told */
  private async bringLevel(signal: AbortSignal): Promise<Position> {
    // First, so that a store that is away does not cost a read of the whole log at each try.
    const stored = await this.store.progress();
    const read = await foldLog(this.log);
    const place = (await this.log.recall(PLACE)) as Position | undefined;
    const isCut = [stored?.position, place].some((known) => known && isBeyond(known, read.position));
    const folded = isCut ? await this.untilCompared(signal) : read;
    const goesOn = place?.epoch === folded.position.epoch && !isCut;
    // A log of the same epoch that says nothing of an account that the store holds whole was purged.
    const isPurged = stored?.complete === true && !folded.decided;
    const before = goesOn && !isPurged ? new Map<string, EnvironmentState>() : await this.known();
    // A log that was lost is filled from the upstream. Until it is, what is known is not given up for it.
    if (before.size > 0) await this.untilDecided(folded, signal);

    signal.throwIfAborted();
    this.writer = randomUUID();
    const nothing = { position: { ...folded.position, sequence: 0 }, complete: false };
    await this.store.begin({ ...(stored && !isCut ? stored : nothing), writer: this.writer });
    const { replaced, removed } = await rebuild(this.store, folded, (id, at) =>
      leadOn(this.log, folded, id, at),
    );
    if (replaced.length > 0 || removed > 0) {
      this.logger.log(
        `The store is level with the log: ${replaced.length} of ${folded.states.size} environments were replaced, ` +
          `${removed} entries removed that the log does not know`,
      );
    }
    await this.advance(folded);

    this.folded = folded;
    this.toldBefore.clear();
    this.uncertainUntil = folded.position.sequence;
    if (goesOn) return place;
    await this.tellDifferences(before, folded);
    await this.log.remember(PLACE, folded.position);
    return folded.position;
  }

  /** The environments as they were before the log was lost: in the store, or here if that was lost too. */
  private async known(): Promise<ReadonlyMap<string, EnvironmentState>> {
    const states = await statesIn(this.store);
    return states.size > 0 ? states : (this.folded?.states ?? states);
  }

  /** The log, once it holds again what it lost of its end, as a power failure may do. */
  private async untilCompared(signal: AbortSignal): Promise<LogFold> {
    this.logger.warn('The log lost its newest facts. The state is kept until the upstream was compared');
    const noticedAt = Date.now();
    while (!(await comparedSince(this.log, noticedAt))) await delay(RETRY_MS, undefined, { signal });
    return foldLog(this.log);
  }

  private async untilDecided(folded: LogFold, signal: AbortSignal): Promise<void> {
    if (folded.decided) return;
    this.logger.warn(
      'The log was lost. The state before it is kept until the upstream has filled the new one',
    );
    for await (const messages of this.log.tail('FF_FACTS', folded.position, signal)) {
      folded.take(messages);
      if (folded.decided) return;
    }
    throw new Error('stopped before the log held the whole account');
  }

  private async project(messages: readonly LoggedMessage[]): Promise<void> {
    const { folded } = this;
    const last = messages.at(-1)?.position;
    if (!folded || !last) return;
    const all = factsIn(messages);
    const facts = environmentFactsIn(all);
    const notices = await this.noticesOf(folded, facts, last.epoch);
    const changes = [...Map.groupBy(facts, ({ fact }) => fact.environment)].map(([id, of]) => {
      const before = stateIn(folded, id);
      return { before, facts: of.map(({ fact }) => fact), after: fold(before, of) };
    });
    // Of facts before the place where the store was made level, only the notices may be missing.
    const news = changes.filter(({ before, after }) => after !== before);
    const applied = await Promise.all(news.map((change) => this.store.apply(change, last.epoch)));
    if (applied.includes('unexpected')) throw new StoreChanged();
    folded.fold(all, last);
    await this.advance(folded);
    await this.tell(notices);
    await this.log.remember(PLACE, last);
  }

  /** What is still to be told of facts, in their order, each named after its fact so that a repeat is the same notice. */
  private async noticesOf(
    folded: LogFold,
    facts: readonly LoggedFact<EnvironmentFact>[],
    epoch: string,
  ): Promise<NewMessage[]> {
    const states = new Map<string, EnvironmentState>();
    const messages: NewMessage[] = [];
    for (const { fact, sequence, time } of facts) {
      const { environment } = fact;
      const state = states.get(environment) ?? stateIn(folded, environment);
      states.set(environment, evolve(state, fact, sequence));
      let notice = noticeOf(state, fact);
      const subject = noticeSubject(notice);
      if (sequence <= this.uncertainUntil) {
        const told = await this.toldIn(environment);
        const last = told.get(subject);
        if (last && last.sequence >= sequence) continue;
        // The state is further on than the notices: what was told last says whether the entity was there.
        if (fact.type === 'FlagPublished' || fact.type === 'SegmentPublished') {
          notice = { ...notice, event: last && last.event !== 'delete' ? 'patch' : 'create' };
        }
        told.set(subject, { sequence, event: notice.event });
      }
      const id = `${epoch}-${sequence}`;
      messages.push({ subject, id, body: noticeBody(notice, { epoch, sequence }, { id, time }) });
    }
    return messages;
  }

  /** What was told last about each entity of an environment, by subject. The log knows a repeat by its id not for long. */
  private async toldIn(environment: string): Promise<Map<string, Told>> {
    const known = this.toldBefore.get(environment);
    if (known) return known;
    const told = new Map<string, Told>();
    for await (const messages of this.log.latest('FF_CHANGES', noticeSubjectsOf(environment))) {
      for (const { subject, body } of messages) {
        const last = toldBy(body);
        const current = last?.of.epoch === this.folded?.position.epoch;
        if (last) told.set(subject, { sequence: current ? last.of.sequence : 0, event: last.notice.event });
      }
    }
    this.toldBefore.set(environment, told);
    return told;
  }

  /**
   * In the order of their facts, as many at a time as are about different entities: of one entity, the next is told only
   * when the one before is in the log, so that no failure turns a removal and a creation round.
   */
  private async tell(notices: readonly NewMessage[]): Promise<void> {
    let together = new Map<string, NewMessage>();
    const append = () =>
      Promise.all([...together.values()].map((notice) => this.log.append('FF_CHANGES', notice)));
    for (const notice of notices) {
      if (together.has(notice.subject)) {
        await append();
        together = new Map();
      }
      together.set(notice.subject, notice);
    }
    await append();
  }

  /** Tells of what a log that was made anew says otherwise than the one before. */
  private async tellDifferences(
    before: ReadonlyMap<string, EnvironmentState>,
    { states, position }: LogFold,
  ): Promise<void> {
    for (const id of new Set([...before.keys(), ...states.keys()])) {
      const nothing = unknownEnvironment(id);
      const changes = differences(before.get(id) ?? nothing, states.get(id) ?? nothing);
      const messages = changes.map((notice) => {
        const name = `${position.epoch}-${position.sequence}-${id}-${notice.kind}-${notice.identifier}`;
        const body = noticeBody(notice, position, { id: name, time: Date.now() });
        return { subject: noticeSubject(notice), id: name, body };
      });
      await Promise.all(messages.map((message) => this.log.append('FF_CHANGES', message)));
    }
  }

  private async advance({ position, complete }: LogFold): Promise<void> {
    if (!(await this.store.advance({ position, complete, writer: this.writer }))) throw new StoreChanged();
    this.advancedTo = position.sequence;
  }

  /** Ends a round when the store is no longer what it was made: nobody else would say so while no fact comes. */
  private async watchStore(round: AbortController, signal: AbortSignal): Promise<void> {
    for (let looks = 1; !signal.aborted; looks++) {
      await delay(WATCH_INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      const isKept = looks % THOROUGH_EVERY === 0 ? this.keepsAll() : this.keepsPlace();
      // One that is away cannot be looked at; whoever writes will find out.
      if (!(await isKept.catch(() => true))) round.abort();
    }
  }

  private async keepsPlace(): Promise<boolean> {
    const { writer, advancedTo } = this;
    const progress = await this.store.progress();
    return progress?.writer === writer && progress.position.sequence >= advancedTo;
  }

  /** A part of the store may be gone, as with one node of a cluster. */
  private async keepsAll(): Promise<boolean> {
    const { epoch } = this.folded?.position ?? {};
    const known = [...(this.folded?.states.values() ?? [])].map(({ id, sequence }) => ({ id, sequence }));
    const stored = await this.store.positions();
    return known.every(({ id, sequence }) => {
      const position = stored.get(id);
      return position?.epoch === epoch && position !== undefined && position.sequence >= sequence;
    });
  }
}

function isBeyond(position: Position, end: Position): boolean {
  return position.epoch === end.epoch && position.sequence > end.sequence;
}

function stateIn(folded: LogFold, environment: string): EnvironmentState {
  return folded.states.get(environment) ?? unknownEnvironment(environment);
}

function toldBy(body: string): ReturnType<typeof noticeIn> | undefined {
  try {
    return noticeIn(body);
  } catch {
    return undefined;
  }
}
