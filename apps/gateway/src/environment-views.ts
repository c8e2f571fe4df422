import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import { type Observable, Subject } from 'rxjs';

import {
  apiKeysOf,
  type EnvironmentFact,
  type EnvironmentState,
  type Fact,
  factIn,
  foldInto,
  isComplete,
  isEnvironmentFact,
  type Position,
  type SequencedFact,
} from '#libs/domain';
import type { EventLog, LoggedMessage } from '#libs/event-log';
import type { StateStore } from '#libs/state-store';

const RETRY_MS = 1000;

/** An SDK key that opens an environment no longer. */
export interface Revocation {
  readonly environment: string;
  /** SHA-256, lower-case hex. */
  readonly apiKey: string;
}

/**
 * The environments as this gateway serves them, in memory: loaded from the state store, then kept up by following the
 * facts. No request waits for anything else.
 */
export class EnvironmentViews {
  private readonly logger = new Logger(EnvironmentViews.name);
  private readonly stopping = new AbortController();
  private readonly revocations = new Subject<Revocation>();
  private readonly whole = Promise.withResolvers<void>();
  private states = new Map<string, EnvironmentState>();
  private environmentByKey = new Map<string, string>();
  private isWhole = false;
  private reached: Position | undefined;
  /** Where the log ended when the views began. */
  private end: Position | undefined;
  private waiting: { readonly position: Position; readonly done: () => void }[] = [];
  private work: Promise<void> | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly store: StateStore,
  ) {}

  start(): void {
    this.work = this.keepFollowing();
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  /** Resolves once the views hold the whole account: from then on, what they do not know does not exist. */
  get complete(): Promise<void> {
    return this.whole.promise;
  }

  /** The SDK keys that are revoked, each when no request is let in with it any more. */
  get revoked(): Observable<Revocation> {
    return this.revocations;
  }

  environment(id: string): EnvironmentState | undefined {
    const state = this.states.get(id);
    return state?.exists ? state : undefined;
  }

  /** The environment that an SDK key opens. @param apiKey its SHA-256, lower-case hex */
  environmentOf(apiKey: string): string | undefined {
    return this.environmentByKey.get(apiKey);
  }

  /** Resolves once the views hold the facts up to there, or the gateway stops. */
  async caughtUp(position: Position): Promise<void> {
    if (this.hasReached(position)) return;
    await new Promise<void>((done) => this.waiting.push({ position, done }));
  }

  private async keepFollowing(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        const position = await this.load();
        for await (const messages of this.log.tail('FF_FACTS', position, signal)) this.takeIn(messages);
      } catch (error) {
        if (signal.aborted) break;
        this.logger.error(`The views cannot follow the facts: ${String(error)}; loading them again`);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
    for (const { done } of this.waiting) done();
  }

  /** Takes everything from the store, unless what is here is as new. @returns from where to follow */
  private async load(): Promise<Position | undefined> {
    this.end ??= await this.log.head('FF_FACTS');
    const progress = await this.store.progress();
    if (this.reached && (!progress || this.hasReached(progress.position))) return this.reached;
    const states = new Map<string, EnvironmentState>();
    for (const id of await this.store.environments()) {
      const stored = await this.store.environment(id);
      if (stored) states.set(id, stored.state);
    }
    const before = this.states;
    this.states = states;
    for (const id of new Set([...before.keys(), ...states.keys()])) this.keysMayDiffer(id, before.get(id));
    this.isWhole = progress?.complete ?? false;
    this.reach(progress?.position);
    return progress?.position;
  }

  private takeIn(messages: readonly LoggedMessage[]): void {
    const facts: SequencedFact<EnvironmentFact>[] = [];
    for (const message of messages) {
      const fact = this.readable(message);
      if (fact && isEnvironmentFact(fact)) facts.push({ fact, sequence: message.position.sequence });
      if (fact) this.isWhole = isComplete(this.isWhole, fact);
    }
    const before = new Map(facts.map(({ fact }) => [fact.environment, this.states.get(fact.environment)]));
    for (const id of foldInto(this.states, facts)) this.keysMayDiffer(id, before.get(id));
    this.reach(messages.at(-1)?.position);
  }

  /** Brings the index of keys up to date with an environment that was `before`. */
  private keysMayDiffer(id: string, before: EnvironmentState | undefined): void {
    const now = this.states.get(id);
    if (before && now && before.apiKeys === now.apiKeys && before.exists === now.exists) return;
    const keys = new Set(now ? apiKeysOf(now) : []);
    for (const apiKey of keys) this.environmentByKey.set(apiKey, id);
    for (const apiKey of before ? apiKeysOf(before) : []) {
      if (keys.has(apiKey)) continue;
      this.reassign(apiKey, id);
      this.revocations.next({ environment: id, apiKey });
    }
  }

  /** A key that an environment lets go of opens another that lists it too, or none. */
  private reassign(apiKey: string, former: string): void {
    if (this.environmentByKey.get(apiKey) !== former) return;
    const other = [...this.states.values()].find((state) => state.exists && state.apiKeys.get(apiKey)?.value);
    if (other) this.environmentByKey.set(apiKey, other.id);
    else this.environmentByKey.delete(apiKey);
  }

  private reach(position: Position | undefined): void {
    this.reached = position;
    const ready = this.waiting.filter((waiter) => this.hasReached(waiter.position));
    this.waiting = this.waiting.filter((waiter) => !ready.includes(waiter));
    for (const { done } of ready) done();
    // What the log said long ago may be overtaken by what it says next.
    if (this.isWhole && this.end && this.hasReached(this.end)) this.whole.resolve();
  }

  private hasReached({ epoch, sequence }: Position): boolean {
    return this.reached?.epoch === epoch && this.reached.sequence >= sequence;
  }

  private readable({ subject, body, position }: LoggedMessage): Fact | undefined {
    try {
      return factIn(body);
    } catch (error) {
      this.logger.error(
        `Fact ${position.sequence} (${subject}) cannot be read and is passed over: ${String(error)}`,
      );
      return undefined;
    }
  }
}
