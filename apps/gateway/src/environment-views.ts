import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';
import { type Observable, Subject } from 'rxjs';

import { apiKeysOf, type EnvironmentState, type Position } from '#libs/domain';
import { type EventLog, type LoggedMessage, UnknownEpoch } from '#libs/event-log';
import type { PartStatus } from '#libs/observability';
import { comparedSince, foldLog, LogFold, statesIn } from '#libs/projection';
import type { StateStore } from '#libs/state-store';

const RETRY_MS = 250;
/** How often the store is looked at while the log is away. */
const STORE_POLL_MS = 500;
/** For a projector that is only just starting, too, to say something in the store. */
const STORE_START_MS = 2000;
/** For a projector to bring the store level with a log that was made anew, before the log is read instead. */
const STORE_HEAL_MS = 5000;
/** For facts to come that the store holds already. */
const CATCH_UP_MS = 1000;
/** After the store kept a request waiting for nothing. */
const DISTRUST_MS = 5000;
/** For facts of an epoch that was never heard of. */
const UNKNOWN_EPOCH_MS = 10_000;

const NOT_FILLED = 'the log was lost, and the one that takes its place is not filled yet';

/** An SDK key that opens an environment no longer, or an environment that nothing opens, since it is gone. */
export interface Revocation {
  readonly environment: string;
  /** SHA-256, lower-case hex; undefined when the environment is gone. */
  readonly apiKey?: string;
}

/** The views changed without the facts that led from one state to the other. */
export interface Jump {
  /** The facts of that log that it stands for: later than `after`, and not later than `until`. */
  readonly over: { readonly epoch: string; readonly after: number; readonly until: number };
  readonly environments: readonly {
    readonly before: EnvironmentState | undefined;
    readonly after: EnvironmentState | undefined;
  }[];
}

/**
 * The environments as this gateway serves them, in memory: loaded from the state store, or from the log if that is away,
 * then kept up by following the facts. No request waits for anything else.
 *
 * A log that was lost and made anew is followed once the store, or the log itself, holds the account again. Until then
 * what is known is served.
 */
export class EnvironmentViews {
  private readonly logger = new Logger(EnvironmentViews.name);
  private readonly stopping = new AbortController();
  private readonly revocations = new Subject<Revocation>();
  private readonly jumping = new Subject<Jump>();
  private readonly loaded = Promise.withResolvers<void>();
  private readonly whole = Promise.withResolvers<void>();
  private isWhole = false;
  private readonly formerEpochs = new Set<string>();
  private environmentByKey = new Map<string, string>();
  private view: LogFold | undefined;
  /** Where the log ended when the views began. */
  private end: Position | undefined;
  private readonly waiting = new Set<{ readonly position: Position; readonly done: () => void }>();
  private looking: Promise<void> | undefined;
  private lookingNext: Promise<void> | undefined;
  private distrustedUntil = 0;
  private lastFailure = '';
  private work: Promise<void> | undefined;
  private substitute: NodeJS.Timeout | undefined;
  private following: Promise<void> | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly store: StateStore,
  ) {}

  start(): void {
    this.work = this.keepFollowing();
    this.substitute = setInterval(() => void this.followStore(), STORE_POLL_MS);
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    clearInterval(this.substitute);
    await this.work;
  }

  /** Resolves once the views hold the whole account: from then on, what they do not know does not exist. */
  get complete(): Promise<void> {
    return this.whole.promise;
  }

  /** Whether what the views do not know does not exist. */
  get areComplete(): boolean {
    return this.isWhole;
  }

  /** How much of the log the views hold; undefined before they hold any. */
  get position(): Position | undefined {
    return this.view?.position;
  }

  /** What is revoked, when no request is let in with it any more. */
  get revoked(): Observable<Revocation> {
    return this.revocations;
  }

  /** What changed when a log that was made anew took the place of the one before, or the store that of a log that is away. */
  get jumps(): Observable<Jump> {
    return this.jumping;
  }

  /** Ready once there is the whole account to serve, however long ago it was loaded. */
  status(): PartStatus {
    return {
      ready: this.isWhole,
      position: this.view?.position,
      environments: this.view?.states.size ?? 0,
      log: this.log.reachable ? 'reachable' : 'unreachable',
      store: this.store.reachable ? 'reachable' : 'unreachable',
    };
  }

  environment(id: string): EnvironmentState | undefined {
    const state = this.view?.states.get(id);
    return state?.exists ? state : undefined;
  }

  /** The environment that an SDK key opens. @param apiKey its SHA-256, lower-case hex */
  environmentOf(apiKey: string): string | undefined {
    return this.environmentByKey.get(apiKey);
  }

  /**
   * Waits until the views hold the facts up to there.
   *
   * @returns false if the gateway stops, or if the position is of a log that this gateway did not get to hear of in good time
   */
  async caughtUp(position: Position): Promise<boolean> {
    await this.loaded.promise;
    const sameLog = position.epoch === this.view?.position.epoch;
    return this.waitFor(position, sameLog ? undefined : AbortSignal.timeout(UNKNOWN_EPOCH_MS));
  }

  /**
   * Waits until the views hold what the store holds, since another gateway may have told of it: a moment at most, and
   * not at all if the store is away. Requests that come together share one look.
   */
  level(): Promise<void> {
    if (!this.store.reachable || Date.now() < this.distrustedUntil) return Promise.resolve();
    if (!this.looking) return (this.looking = this.look().finally(() => (this.looking = undefined)));
    // One that is under way may have looked before this request was made.
    return (this.lookingNext ??= this.looking.then(() => {
      this.lookingNext = undefined;
      return this.level();
    }));
  }

  private async look(): Promise<void> {
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), CATCH_UP_MS);
    const late = new Promise<true>((done) => patience.signal.addEventListener('abort', () => done(true)));
    const progress = await Promise.race([this.store.progress().catch(() => undefined), late]);
    if (progress !== true && !this.log.reachable) await Promise.race([this.followStore(), late]);
    const isLate =
      progress === true || (progress && !(await this.waitFor(progress.position, patience.signal)));
    clearTimeout(timer);
    if (isLate) this.distrustedUntil = Date.now() + DISTRUST_MS;
  }

  private async keepFollowing(): Promise<void> {
    const { signal } = this.stopping;
    for (let lostAt: number | undefined; !signal.aborted;) {
      try {
        if (!this.view) this.adopt(await this.firstView());
        else if (lostAt !== undefined) {
          this.adopt(await this.nextView(lostAt));
          this.logger.warn(`The log was lost and is filled again; serving what it says now`);
        }
        lostAt = undefined;
        for await (const messages of this.log.tail('FF_FACTS', this.view?.position, signal)) {
          this.takeIn(messages);
          this.lastFailure = '';
        }
      } catch (error) {
        if (signal.aborted) break;
        if (error instanceof UnknownEpoch) lostAt ??= Date.now();
        // Said once, however often it is tried.
        if (String(error) !== this.lastFailure) {
          this.logger.warn(`The views cannot follow the facts: ${String(error)}; serving what is known`);
        }
        this.lastFailure = String(error);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
    this.loaded.resolve();
    for (const { done } of this.waiting) done();
  }

  private async firstView(): Promise<LogFold> {
    this.end ??= await this.log.head('FF_FACTS').catch(() => undefined);
    return (await this.fromStore()) ?? (await foldLog(this.log));
  }

  /** The view of a log that was lost, in whole or of its end. Throws as long as there is none. */
  private async nextView(lostAt: number): Promise<LogFold> {
    const head = await this.log.head('FF_FACTS');
    if (head.epoch === this.view?.position.epoch) {
      if (!(await comparedSince(this.log, lostAt)))
        throw new Error('the log lost its newest facts, and was not compared with the upstream since');
    } else {
      // The store comes first, since other gateways answer from it. One that is not complete is only being filled.
      const progress = await this.store.progress().catch(() => undefined);
      const stored =
        progress?.position.epoch === head.epoch && progress.complete ? await this.fromStore() : undefined;
      if (stored) return stored;
      // But it may be away, or nobody keeps it.
      if (this.store.reachable && Date.now() - lostAt <= STORE_HEAL_MS) throw new Error(NOT_FILLED);
    }
    const folded = await foldLog(this.log);
    if (!folded.decided) throw new Error(NOT_FILLED);
    return folded;
  }

  /** What the store holds; undefined if it is away, or holds nothing for so long that nobody seems to keep it. */
  private async fromStore(): Promise<LogFold | undefined> {
    try {
      let progress = await this.store.progress();
      for (const since = Date.now(); !progress && Date.now() - since < STORE_START_MS;) {
        await delay(RETRY_MS / 5, undefined, { signal: this.stopping.signal });
        progress = await this.store.progress();
      }
      if (!progress) return undefined;
      const fold = new LogFold(progress.position);
      fold.complete = progress.complete;
      for (const [id, state] of await statesIn(this.store)) fold.states.set(id, state);
      return fold;
    } catch (error) {
      if (!this.stopping.signal.aborted) this.logger.warn(`The state store is away: ${String(error)}`);
      return undefined;
    }
  }

  private adopt(view: LogFold): void {
    const before = this.view;
    this.view = view;
    this.loaded.resolve();
    const ids = new Set([...(before?.states.keys() ?? []), ...view.states.keys()]);
    const changed = [...ids].filter((id) => before?.states.get(id) !== view.states.get(id));
    for (const id of changed) this.keysMayDiffer(id, before?.states.get(id));
    if (before) {
      const { epoch, sequence: until } = view.position;
      const goesOn = before.position.epoch === epoch && before.position.sequence <= until;
      if (before.position.epoch !== epoch) this.formerEpochs.add(before.position.epoch);
      this.jumping.next({
        over: { epoch, after: goesOn ? before.position.sequence : 0, until },
        environments: changed.map((id) => ({ before: before.states.get(id), after: view.states.get(id) })),
      });
    }
    this.reached();
  }

  /** While the log cannot be reached, what others do is seen in the store. What differs is told like a jump. */
  private followStore(): Promise<void> {
    // A store that fails is looked at again in a moment.
    return (this.following ??= this.takeFromStore()
      .catch(() => undefined)
      .finally(() => (this.following = undefined)));
  }

  private async takeFromStore(): Promise<void> {
    const { view } = this;
    if (!view || this.log.reachable || !this.store.reachable) return;
    const progress = await this.store.progress();
    if (progress?.position.epoch !== view.position.epoch || !progress.complete) return;
    if (progress.position.sequence <= view.position.sequence) return;
    const next = new LogFold(progress.position);
    next.complete = true;
    for (const [id, { epoch, sequence }] of await this.store.positions()) {
      const known = view.states.get(id);
      const isKnown = epoch === view.position.epoch && known?.sequence === sequence;
      const state = isKnown ? known : (await this.store.environment(id))?.state;
      if (state) next.states.set(id, state);
    }
    if (!this.log.reachable && this.view === view) this.adopt(next);
  }

  private takeIn(messages: readonly LoggedMessage[]): void {
    const before = this.view?.take(messages) ?? new Map<string, undefined>();
    for (const [id, state] of before) this.keysMayDiffer(id, state);
    this.reached();
  }

  /** Brings the index of keys up to date with an environment that was `before`. */
  private keysMayDiffer(id: string, before: EnvironmentState | undefined): void {
    const now = this.view?.states.get(id);
    if (before && now && before.apiKeys === now.apiKeys && before.exists === now.exists) return;
    const keys = new Set(now ? apiKeysOf(now) : []);
    for (const apiKey of keys) this.environmentByKey.set(apiKey, id);
    for (const apiKey of before ? apiKeysOf(before) : []) {
      if (keys.has(apiKey)) continue;
      this.reassign(apiKey, id);
      if (now?.exists) this.revocations.next({ environment: id, apiKey });
    }
    if (before?.exists && !now?.exists) this.revocations.next({ environment: id });
  }

  /** A key that an environment lets go of opens another that lists it too, or none. */
  private reassign(apiKey: string, former: string): void {
    if (this.environmentByKey.get(apiKey) !== former) return;
    const states = [...(this.view?.states.values() ?? [])];
    const other = states.find((state) => state.exists && state.apiKeys.get(apiKey)?.value);
    if (other) this.environmentByKey.set(apiKey, other.id);
    else this.environmentByKey.delete(apiKey);
  }

  /** Lets go on who waited for what the views hold now. */
  private reached(): void {
    for (const { position, done } of this.waiting) if (this.hasReached(position)) done();
    const { view, end } = this;
    if (!view?.complete) return;
    // What the log said long ago may be overtaken by what it says next.
    if (!end || end.epoch !== view.position.epoch || this.hasReached(end)) {
      this.isWhole = true;
      this.whole.resolve();
    }
  }

  /** A position of a log that was given up counts as reached: what it held is known, and what differs now was told. */
  private hasReached({ epoch, sequence }: Position): boolean {
    const now = this.view?.position;
    return now?.epoch === epoch ? now.sequence >= sequence : this.formerEpochs.has(epoch);
  }

  /** @returns whether the views hold it by the time that `patience` aborts or the gateway stops */
  private waitFor(position: Position, patience?: AbortSignal): Promise<boolean> {
    if (this.hasReached(position)) return Promise.resolve(true);
    if (this.stopping.signal.aborted) return Promise.resolve(false);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const end = () => {
      this.waiting.delete(waiter);
      patience?.removeEventListener('abort', end);
      resolve(this.hasReached(position));
    };
    const waiter = { position, done: end };
    this.waiting.add(waiter);
    if (patience?.aborted) end();
    else patience?.addEventListener('abort', end);
    return promise;
  }
}
