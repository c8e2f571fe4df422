import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';

import {
  entityOf,
  environmentFactsIn,
  type EnvironmentFact,
  type EnvironmentState,
  type Fact,
  factBody,
  factIn,
  factSubject,
  foldInto,
  isEnvironmentFact,
  type Kind,
  type Position,
  type SequencedFact,
  unknownEnvironment,
} from '#libs/domain';
import {
  type EventLog,
  type LoggedMessage,
  MessageTooLarge,
  UnexpectedSequence,
  UnknownEpoch,
} from '#libs/event-log';

import { type Before, RecentPast, REMEMBERED_MS } from './recent-past.js';

/** A fact that the log does not take. */
export interface SetAside {
  readonly environment: string | undefined;
  readonly kind: Kind;
  readonly identifier: string;
  readonly reason: string;
  /** In ms since the epoch. */
  readonly since: number;
}

/** A fact that is in the log now. */
interface Appended extends SequencedFact {
  readonly epoch: string;
}

const RETRY_MS = 1000;
/** Beyond that they are counted on, and not shown. */
const MOST_SET_ASIDE = 1000;

/**
 * What the log holds, as the ingestor knows it, and the only way by which facts get in. Every append names the last
 * message of its subject that we know of, so that a second writer is refused and not merged.
 */
export class Ledger {
  private readonly logger = new Logger(Ledger.name);
  private held = new Holding();
  private position: Position | undefined;
  private loadedUntil = 0;
  private readonly oneLoadAtATime = pLimit(1);
  /** What was appended since the load that is under way began. */
  private meanwhile: Appended[] | undefined;
  private lost: () => void = () => undefined;
  /** What the log was told of late. */
  readonly recentPast = new RecentPast(() => performance.now());
  /** By subject. */
  private readonly aside = new Map<string, SetAside>();

  constructor(
    private readonly log: EventLog,
    private readonly now: () => number,
    private readonly appendedOne: (fact: Fact) => void = () => undefined,
  ) {}

  /** Reads everything from the log. Messages that cannot be read are left out: their entities are published anew. */
  load(): Promise<void> {
    return this.oneLoadAtATime(() => this.read().finally(() => (this.meanwhile = undefined)));
  }

  private async read(): Promise<void> {
    const meanwhile: Appended[] = (this.meanwhile = []);
    const head = await this.log.head('FF_FACTS');
    // Nothing of what was known before: a log may have lost its newest facts, and use their sequences again.
    const held = new Holding();
    for await (const messages of this.log.latest('FF_FACTS')) {
      held.takeIn(messages);
      for (const { body, time } of messages) this.rememberFormer(body, time);
    }
    held.keep(meanwhile.filter(({ epoch }) => epoch === head.epoch));
    if (head.epoch !== this.position?.epoch) this.aside.clear();
    const isLess = this.position !== undefined && this.held.isMoreThan(held);
    this.held = held;
    this.position = head;
    this.loadedUntil = head.sequence;
    if (isLess) this.lost();
  }

  /**
   * Learns of what others append, and of a log that was lost, until the signal aborts.
   *
   * @param lost is called when the log turns out to hold less than it did: it was lost, in whole or in part
   */
  async follow(signal: AbortSignal, lost: () => void): Promise<void> {
    this.lost = lost;
    while (!signal.aborted) {
      try {
        for await (const messages of this.log.tail('FF_FACTS', this.position, signal)) {
          // Of ours, what is known of the time before the append counts, and is told after this.
          this.held.takeIn(messages, (fact) => this.recentPast.got(fact, this.before(fact)));
          this.position = messages.at(-1)?.position ?? this.position;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof UnknownEpoch) await this.load().catch(() => undefined);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  environment(id: string): EnvironmentState {
    return this.held.states.get(id) ?? unknownEnvironment(id);
  }

  /** The UUIDs of all environments that exist. */
  environments(): string[] {
    return [...this.held.states.values()].filter((state) => state.exists).map((state) => state.id);
  }

  /** Whether the log has once held the whole account, since its proxy key was last deleted. */
  get snapshotCompleted(): boolean {
    const completed = this.held.accountFacts.get('SnapshotCompleted') ?? 0;
    return completed > (this.held.accountFacts.get('ProxyKeyDeleted') ?? 0);
  }

  /** Environments that are still there although the proxy key was deleted after they were added. */
  leftBehind(): string[] {
    const deleted = this.held.accountFacts.get('ProxyKeyDeleted') ?? 0;
    return this.environments().filter((id) => this.environment(id).lifeSequence < deleted);
  }

  /**
   * Appends facts in their order; on disk when it resolves. If another writer was there first it reads the log again
   * and throws UnexpectedSequence: the facts were decided on what is no longer so.
   *
   * @param asOf of the read that showed them; left out for what the upstream said outright
   */
  async append(facts: readonly Fact[], asOf?: number): Promise<void> {
    const appends = await Promise.allSettled(facts.map((fact) => this.appendOne(fact, asOf)));
    const appended = appends.flatMap((append) => (append.status === 'fulfilled' ? (append.value ?? []) : []));
    this.held.keep(appended);
    for (const { fact } of appended) this.appendedOne(fact);
    const failures = appends.flatMap((append) =>
      append.status === 'rejected' ? [append.reason as unknown] : [],
    );
    if (failures.length === 0) return;
    await this.load();
    throw failures.find((failure) => failure instanceof UnexpectedSequence) ?? failures[0];
  }

  /** The facts that the log does not take, so that readers have what was before them. */
  get setAside(): readonly SetAside[] {
    return [...this.aside.values()];
  }

  isSetAside(environment: string, kind: Kind, identifier: string): boolean {
    return [...this.aside.values()].some(
      (one) => one.environment === environment && one.kind === kind && one.identifier === identifier,
    );
  }

  /** Forgets what was set aside of entities that are no more. @param listed all that there are now */
  noLongerThere(environment: string, kind: Kind, listed: ReadonlySet<string>): void {
    for (const [subject, one] of this.aside) {
      if (one.environment === environment && one.kind === kind && !listed.has(one.identifier)) {
        this.aside.delete(subject);
      }
    }
  }

  /** @returns undefined if it is set aside, so that others go on */
  private async appendOne(fact: Fact, asOf: number | undefined): Promise<Appended | undefined> {
    const subject = factSubject(fact);
    const expectedSequence = this.held.lastSequences.get(subject) ?? 0;
    // The same fact after the same predecessor is the same append, however often it is tried; but not once the log was
    // read again: it may have lost what it still knows the id of.
    const id = createHash('sha256')
      .update(JSON.stringify([subject, expectedSequence, fact, this.loadedUntil]))
      .digest('hex');
    const body = factBody(fact, { id, time: this.now() });
    const before = isEnvironmentFact(fact) ? this.before(fact) : undefined;
    try {
      const { epoch, sequence } = await this.log.append('FF_FACTS', { subject, id, body, expectedSequence });
      if (epoch !== this.position?.epoch) throw new UnknownEpoch(`${subject} went into a log made anew`);
      this.aside.delete(subject);
      if (before && isEnvironmentFact(fact)) this.recentPast.got(fact, before, asOf);
      const appended = { fact, sequence, epoch };
      // At once: the tail may bring it before all others are acknowledged, and would tell of it again.
      this.meanwhile?.push(appended);
      this.held.advance(subject, sequence);
      return appended;
    } catch (error) {
      if (!(error instanceof MessageTooLarge)) throw error;
      this.putAside(subject, fact, error.message);
      return undefined;
    }
  }

  private before(fact: EnvironmentFact): Before {
    return this.recentPast.before(fact, this.environment(fact.environment));
  }

  /** What a former process was told lately is as recent. @param time in ms since the epoch, by a clock that may be ahead */
  private rememberFormer(body: string, time: number): void {
    const agoMs = Math.max(0, this.now() - time);
    if (agoMs > REMEMBERED_MS) return;
    const fact = readable(body);
    if (fact && isEnvironmentFact(fact)) this.recentPast.toldByFormer(fact, performance.now() - agoMs);
  }

  private putAside(subject: string, fact: Fact, reason: string): void {
    if (this.aside.get(subject)?.reason === reason || this.aside.size >= MOST_SET_ASIDE) return;
    this.logger.error(
      `${reason}. It is set aside, and its last good state served; make it smaller upstream, or raise max_payload of NATS`,
    );
    this.aside.set(subject, { ...entityOf(fact), reason, since: this.now() });
  }
}

/** What a log says. */
class Holding {
  readonly states = new Map<string, EnvironmentState>();
  /** The last message of each subject. */
  readonly lastSequences = new Map<string, number>();
  /** The newest fact of its kind about the account. */
  readonly accountFacts = new Map<Fact['type'], number>();

  /** @param news is told of what was not known, before it is taken in */
  takeIn(messages: readonly LoggedMessage[], news: (fact: EnvironmentFact) => void = () => undefined): void {
    const facts: SequencedFact[] = [];
    for (const { subject, body, position } of messages) {
      if (!this.advance(subject, position.sequence)) continue;
      const fact = readable(body);
      if (!fact) continue;
      if (isEnvironmentFact(fact)) news(fact);
      facts.push({ fact, sequence: position.sequence });
    }
    this.fold(facts);
  }

  keep(appended: readonly SequencedFact[]): void {
    for (const { fact, sequence } of appended) this.advance(factSubject(fact), sequence);
    this.fold(appended);
  }

  /** Whether another lacks something of this. */
  isMoreThan({ lastSequences }: Holding): boolean {
    return [...this.lastSequences].some(
      ([subject, sequence]) => (lastSequences.get(subject) ?? 0) < sequence,
    );
  }

  /** @returns false if that was known */
  advance(subject: string, sequence: number): boolean {
    if (sequence <= (this.lastSequences.get(subject) ?? 0)) return false;
    this.lastSequences.set(subject, sequence);
    return true;
  }

  private fold(facts: readonly SequencedFact[]): void {
    foldInto(this.states, environmentFactsIn(facts));
    for (const { fact, sequence } of facts) {
      if (!isEnvironmentFact(fact))
        this.accountFacts.set(fact.type, Math.max(sequence, this.accountFacts.get(fact.type) ?? 0));
    }
  }
}

function readable(body: string): Fact | undefined {
  try {
    return factIn(body);
  } catch {
    return undefined;
  }
}
