import { once } from 'node:events';

import { Logger } from '@nestjs/common';

import type { EnvironmentFact } from '#libs/domain';
import type { EventLog } from '#libs/event-log';
import type { UpstreamStatus } from '#libs/observability';
import {
  type Backoff,
  backoffMs,
  pause,
  type SaasClient,
  type StreamEvent,
  type StreamMessage,
  UnusableAnswer,
} from '#libs/saas-client';

import { AddedEnvironments } from './added-environments.js';
import { LAGGING_READS } from './announcements.js';
import { Coalesced } from './coalesced.js';
import { EnvironmentSync, type Taken } from './environment-sync.js';
import type { Leader } from './ingestor-lead.js';
import { IngestorRecord } from './ingestor-record.js';
import { Ledger, type SetAside } from './ledger.js';
import { askedMs, Patience, seconds } from './patience.js';
import { Routine } from './routine.js';
import { UpstreamReader } from './upstream-reader.js';

/** A connection that lasted so long was a good one: what ends it is a new failure, not one more. */
const STABLE_MS = 30_000;
const FIRST_COMPARISON_MS = 3000;
const LOG_RETRY_MS = 1000;
/** A replica upstream that lags behind its stream by more than this may be believed. */
const RECENT_MS = 10_000;
/** Comparisons in a row that found nothing, after which they do not move further apart: 8 s. */
const MOST_IDLE_COMPARISONS = 4;

/** What a complete and consistent read of the account came to. */
interface AccountRead {
  /** The environments that it lists. */
  readonly listed: Set<string>;
  /** The types of the facts that it led to. */
  readonly found: string[];
  /** Why environments could not be taken over, one for each. */
  readonly failures: unknown[];
}

export interface IngestorOptions {
  readonly reconcileIntervalMs: number;
  readonly keepServingOnKeyDeletion: boolean;
  /** Whether the account stream is opened; else changes are found by comparing only. Yes, if left out. */
  readonly listening?: boolean;
  /** A read that contradicts what the log was told so shortly before is not believed yet; 10 s, if left out. */
  readonly recentMs?: number;
}

/**
 * Turns what the upstream says into facts.
 *
 * The stream is opened first and the account is read after that, so that no change falls between the two. A start, a
 * reconnect, an interval, a message that cannot be read: all lead to the same comparison of the whole account, repeated
 * until it succeeds. Messages of the stream are dealt with by environment, in order, each environment on its own.
 */
export class Ingestor implements Leader {
  private readonly logger = new Logger(Ingestor.name);
  private readonly stopping = new AbortController();
  private readonly ledger: Ledger;
  private readonly upstream: UpstreamReader;
  private readonly environments = new Map<string, EnvironmentSync>();
  /** The identifier of a proxy key whose deletion the log does not know of yet. */
  private deletedKey: string | undefined;
  private readonly added = new AddedEnvironments();
  /** Comparisons that failed, one after the other, since the stream was opened. */
  private failedComparisons = 0;
  /** Messages that could not be read since the last comparison began. */
  private unreadable = 0;
  /** By the next comparison. */
  private newTokenWanted = false;
  private comparisonWanted = Promise.withResolvers<void>();
  /** A comparison that no longer lags behind what was told before it was wanted. */
  private readonly laterComparison = new Coalesced(async () => {
    await pause(this.recentMs, this.stopping.signal);
    this.compareWithNewToken();
  });
  private readonly patience: Patience;
  /** The account stream, open or about to be; aborted to open it anew at once. */
  private connection = new AbortController();
  private work: Promise<unknown> | undefined;

  constructor(
    log: EventLog,
    saas: SaasClient,
    private readonly status: UpstreamStatus,
    private readonly options: IngestorOptions,
    backoff: Backoff = backoffMs,
    private readonly record = new IngestorRecord(),
  ) {
    this.patience = new Patience(backoff, this.stopping.signal);
    this.ledger = new Ledger(log, Date.now, (fact) => record.appended(fact));
    this.upstream = new UpstreamReader(saas);
  }

  /** Returns once it is known what the log holds; the rest goes on until `stop`. */
  async start(): Promise<void> {
    await this.ledger.load();
    const { signal } = this.stopping;
    this.work = Promise.all([
      this.keepListening(),
      this.keepComparing(),
      this.ledger.follow(signal, () => {
        this.logger.warn('The log was lost, in whole or in part; it is filled again from the upstream');
        this.compareNow();
      }),
    ]);
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    this.comparisonWanted.resolve();
    await this.work;
    this.record.stopped();
  }

  /** Works until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    for (let failure = ''; !signal.aborted && !this.work;) {
      try {
        await this.start();
      } catch (error) {
        if (String(error) !== failure) this.logger.warn(`${String(error)}; trying again`);
        failure = String(error);
        await pause(LOG_RETRY_MS, signal);
      }
    }
    if (!signal.aborted) await once(signal, 'abort');
    await this.stop();
  }

  /** Whether the log has held the whole account. */
  get isComplete(): boolean {
    return this.ledger.snapshotCompleted;
  }

  /** The UUIDs of the environments that exist. */
  get knownEnvironments(): readonly string[] {
    return this.ledger.environments();
  }

  private get recentMs(): number {
    return this.options.recentMs ?? RECENT_MS;
  }

  /** There is a new proxy key: it is used at once. */
  proxyKeyChanged(): void {
    this.upstream.forgetSession();
    this.connection.abort();
    this.compareNow();
  }

  /** What the log does not take, and so nobody is served. */
  get setAside(): readonly SetAside[] {
    return this.ledger.setAside;
  }

  /** Keeps the account stream open. */
  private async keepListening(): Promise<void> {
    const { signal } = this.stopping;
    if (this.options.listening === false) {
      this.status.stream('DISCONNECTED');
      return;
    }
    for (let failures = 0; !signal.aborted;) {
      const connection = (this.connection = new AbortController());
      let openedAt: number | undefined;
      const failuresSoFar = () =>
        openedAt !== undefined && Date.now() - openedAt >= STABLE_MS ? 1 : failures + 1;
      try {
        const events = await this.upstream.stream(AbortSignal.any([signal, connection.signal]));
        openedAt = Date.now();
        this.logger.log('The upstream stream is open');
        this.status.stream('CONNECTED');
        this.record.succeeds('stream');
        void this.takeAdded();
        this.compareNow();
        for await (const event of events) {
          if (this.dealWith(event) === 'reconnect') connection.abort();
        }
        // Once is what an added environment needs; an upstream that asks for it again and again has to wait.
        failures = failuresSoFar();
        if (failures > 1) {
          this.noStream();
          await this.patience.wait(this.patience.after(failures));
        }
      } catch (error) {
        if (signal.aborted) break;
        if (connection.signal.aborted) continue;
        this.noStream();
        failures = failuresSoFar();
        const delay = this.patience.after(failures, error);
        this.logger.warn(`${String(error)}; connecting again in ${seconds(delay)}, serving what is known`);
        this.record.fails('stream', error, failures, delay.ms);
        await pause(delay.ms, AbortSignal.any([signal, connection.signal]));
      }
    }
  }

  private noStream(): void {
    this.status.stream('DISCONNECTED');
    // Without a stream, reading is the only way to learn of changes.
    this.wantComparison();
  }

  /** Compares the account whenever that is wanted, and at least once in an interval. */
  private async keepComparing(): Promise<void> {
    const { signal } = this.stopping;
    const { reconcileIntervalMs, listening = true } = this.options;
    const routine = new Routine(reconcileIntervalMs, () => this.wantComparison());
    // The first one does not wait for a stream that may never open.
    const first = setTimeout(() => this.wantComparison(), listening ? FIRST_COMPARISON_MS : 0);
    for (let idle = 0; !signal.aborted;) {
      await this.comparisonWanted.promise;
      clearTimeout(first);
      if (signal.aborted) break;
      this.comparisonWanted = Promise.withResolvers();
      try {
        if (routine.isDue) {
          // What was taken out of the log while nothing changed, nobody else would notice.
          await this.ledger.load();
          this.newTokenWanted = true;
          routine.isSeenTo();
        }
        // A token opens the environments that there were when it was given.
        if (this.newTokenWanted) this.upstream.forgetSession();
        this.newTokenWanted = false;
        const found = await this.compareAccount();
        this.failedComparisons = 0;
        this.record.comparisons.agreed++;
        this.record.succeeds('account');
        // Messages can ask for a comparison at any rate. Those that find nothing move apart.
        idle = found > 0 ? 1 : Math.min(idle + 1, MOST_IDLE_COMPARISONS);
        if (listening) await this.patience.wait(this.patience.idle(idle));
      } catch (error) {
        if (signal.aborted) break;
        const delay = this.patience.after(++this.failedComparisons, error);
        this.logger.warn(
          `The account could not be compared: ${String(error)}; trying again in ${seconds(delay)}`,
        );
        this.record.comparisons.failed++;
        this.record.fails('account', error, this.failedComparisons, delay.ms);
        await this.patience.wait(delay);
        this.wantComparison();
      }
    }
    routine.end();
  }

  /** Reads the environments that were added, ahead of the comparison, which takes as long as the account is large. */
  private async takeAdded(): Promise<void> {
    const { signal } = this.stopping;
    const taken = await Promise.allSettled(
      this.added.ids.map(async (id) => {
        const begunAt = performance.now();
        const config = await this.upstream.environment(id, signal);
        if (!config) return;
        const { confirmed } = await this.sync(id).take(config, begunAt, {
          account: await this.upstream.account(signal),
        });
        await confirmed;
        this.added.delete(id);
      }),
    );
    for (const take of taken) {
      if (take.status === 'rejected' && !signal.aborted) {
        this.logger.warn(`An added environment is left to the comparison: ${String(take.reason)}`);
      }
    }
  }

  private wantComparison(): void {
    this.comparisonWanted.resolve();
  }

  /** Without waiting longer for what went wrong before to heal. */
  private compareNow(): void {
    this.failedComparisons = 0;
    this.wantComparison();
    this.patience.end();
  }

  /** @returns how many facts it brought into the log */
  private async compareAccount(): Promise<number> {
    const { signal } = this.stopping;
    const begunAt = performance.now();
    if (this.unreadable > 1)
      this.logger.warn(`${this.unreadable} messages of the upstream could not be read`);
    this.unreadable = 0;
    await this.finishKeyDeletion();
    const { listed, found, failures } = await this.readAccount();
    const missing = this.ledger.environments().filter((id) => !listed.has(id));
    if (missing.length > 0) {
      const againAt = performance.now();
      const again = await this.readAccount();
      const gone = missing.filter((id) => !again.listed.has(id));
      for (const environment of gone) this.environmentGone(environment, againAt);
      found.push(...again.found, ...gone.map(() => 'EnvironmentRemoved'));
      failures.push(...again.failures);
    }
    // Whoever asks for the longest wait gets it.
    const [failure] = failures.toSorted((a, b) => askedMs(b) - askedMs(a));
    if (failure !== undefined) throw failure;
    const absent = [...listed].find((id) => !this.ledger.environment(id).exists);
    if (absent) throw new Error(`environment ${absent} was removed while the account was read`);
    if (!this.ledger.snapshotCompleted) {
      const account = (await this.upstream.account(signal)) ?? '';
      await this.ledger.append([{ type: 'SnapshotCompleted', account, environments: listed.size }]);
      this.logger.log(`The log holds the whole account: ${listed.size} environments`);
    }
    this.lookForAdded(listed);
    this.status.agreed();
    this.record.lastComparison = {
      at: Date.now(),
      tookMs: Math.round(performance.now() - begunAt),
      environments: listed.size,
      found: countsOf(found),
    };
    if (await this.upstream.isStreamOutdated(signal)) {
      this.logger.log('The upstream stream is opened anew, to hear of the environments that were added');
      this.connection.abort();
    }
    return found.length;
  }

  /** Throws if one that was added is not listed yet. */
  private lookForAdded(listed: ReadonlySet<string>): void {
    const { missing, givenUp } = this.added.listed(listed);
    for (const id of givenUp) {
      this.logger.warn(
        `Environment ${id} was added, and is not listed after ${LAGGING_READS} reads; the next routine comparison will tell`,
      );
    }
    const [first] = missing;
    if (!first) return;
    this.newTokenWanted = true;
    throw new Error(`environment ${first} was added, and is not listed yet`);
  }

  /**
   * Two complete reads of the account do not list it. Throws if it was added so shortly before that they may lag.
   *
   * @param begunAt when the second of them began
   */
  private environmentGone(environment: string, begunAt: number): void {
    if (this.wasJustAdded(environment, begunAt)) {
      throw new Error(`environment ${environment} was added a moment ago, and is not listed yet`);
    }
    this.logger.warn(`Environment ${environment} is gone: two complete reads of the upstream do not list it`);
    this.sync(environment).told({ type: 'EnvironmentRemoved', environment });
  }

  private wasJustAdded(environment: string, at: number): boolean {
    const addedAt = this.ledger.recentPast.toldAt({ type: 'EnvironmentAdded', environment });
    const { exists } = this.ledger.environment(environment);
    return exists && addedAt !== undefined && addedAt > at - this.recentMs;
  }

  /** Removes what a deleted proxy key gave access to, also if a former process was kept from finishing it. */
  private async finishKeyDeletion(): Promise<void> {
    if (this.deletedKey !== undefined) {
      await this.ledger.append([{ type: 'ProxyKeyDeleted', identifier: this.deletedKey }]);
      this.deletedKey = undefined;
    }
    const leftBehind = this.ledger.leftBehind();
    if (leftBehind.length === 0) return;
    await this.ledger.append(leftBehind.map((environment) => ({ type: 'EnvironmentRemoved', environment })));
    throw new Error(`the proxy key was deleted upstream, and ${leftBehind.length} environments with it`);
  }

  /**
   * Reads all pages and takes over each environment on them.
   *
   * Throws UnusableAnswer for an answer that is not complete and consistent.
   */
  private async readAccount(): Promise<AccountRead> {
    const { signal } = this.stopping;
    const listing = { account: await this.upstream.account(signal) };
    const listed = new Set<string>();
    const found: string[] = [];
    const failures: unknown[] = [];
    const unconfirmed: Taken['confirmed'][] = [];
    let counts: { readonly itemCount: number; readonly pageCount: number } | undefined;
    let begunAt = performance.now();
    for await (const { environments, itemCount, pageCount, unknownFields } of this.upstream.pages(signal)) {
      counts ??= { itemCount, pageCount };
      this.record.unknownFields(unknownFields);
      if (itemCount !== counts.itemCount || pageCount !== counts.pageCount) {
        throw new UnusableAnswer('the configuration changed while it was read');
      }
      for (const { id } of environments) {
        if (listed.has(id)) throw new UnusableAnswer(`environment ${id} is on two pages`);
        listed.add(id);
      }
      // One environment that fails keeps no other from being taken.
      for (const take of await Promise.allSettled(
        environments.map((config) => this.sync(config.id).take(config, begunAt, listing)),
      )) {
        if (take.status === 'rejected') failures.push(take.reason);
        else {
          found.push(...take.value.found);
          unconfirmed.push(take.value.confirmed);
        }
      }
      begunAt = performance.now();
    }
    for (const confirmed of await Promise.allSettled(unconfirmed)) {
      if (confirmed.status === 'rejected') failures.push(confirmed.reason);
      else found.push(...confirmed.value);
    }
    if (listed.size === 0 || listed.size !== counts?.itemCount) {
      throw new UnusableAnswer(
        `the configuration lists ${listed.size} of ${counts?.itemCount ?? 0} environments`,
      );
    }
    return { listed, found, failures };
  }

  /** @returns `reconnect` if the stream must be opened anew to hear of everything */
  private dealWith(event: StreamEvent): 'reconnect' | undefined {
    if ('unreadable' in event) {
      this.record.messages.unreadable++;
      if (this.unreadable++ === 0) {
        this.logger.warn(
          `A message of the upstream cannot be read, so everything is compared: ${event.unreadable}`,
        );
      }
      this.wantComparison();
      return undefined;
    }
    this.record.heard(event);
    switch (`${event.domain} ${event.event}`) {
      case 'flag create':
      case 'flag patch':
        this.entityChanged('flags', event);
        return undefined;
      case 'target-segment create':
      case 'target-segment patch':
        this.entityChanged('segments', event);
        return undefined;
      case 'flag delete':
        this.told([event.environment], (environment) => ({
          type: 'FlagRemoved',
          environment,
          identifier: event.identifier,
          version: event.version,
        }));
        return undefined;
      case 'target-segment delete':
        this.told([event.environment], (environment) => ({
          type: 'SegmentRemoved',
          environment,
          identifier: event.identifier,
          version: event.version,
        }));
        return undefined;
      case 'proxy apiKeyAdded':
        this.told(event.apiKey ? event.environments : [], (environment) => ({
          type: 'ApiKeyAdded',
          environment,
          apiKey: event.apiKey,
        }));
        return undefined;
      case 'proxy apiKeyRemoved':
        this.told(event.apiKey ? event.environments : [], (environment) => ({
          type: 'ApiKeyRemoved',
          environment,
          apiKey: event.apiKey,
        }));
        return undefined;
      case 'proxy environmentsRemoved':
        this.environmentsRemoved(event.environments);
        return undefined;
      case 'proxy environmentsAdded':
        // The token lists the environments it is good for, so a new one is needed, and a stream opened with it.
        this.added.add(event.environments);
        return 'reconnect';
      case 'proxy proxyKeyDeleted':
        this.proxyKeyDeleted(event.identifier);
        return undefined;
      default:
        this.record.unknownKind(`message ${event.domain} ${event.event}`.slice(0, 100), 'passed over');
        return undefined;
    }
  }

  private entityChanged(
    kind: 'flags' | 'segments',
    { event, environment, identifier, version }: StreamMessage,
  ): void {
    if (this.ledger.environment(environment).exists)
      this.sync(environment).changed(kind, identifier, version, event === 'create');
    else this.compareWithNewToken();
  }

  /** What the message says outright, for the environments that it names and that are known; else compare. */
  private told(environments: readonly string[], factFor: (environment: string) => EnvironmentFact): void {
    const known = environments.filter((id) => this.ledger.environment(id).exists);
    for (const id of known) this.sync(id).told(factFor(id));
    if (known.length < environments.length) this.compareWithNewToken();
    else if (known.length === 0) this.wantComparison();
  }

  /** The token may be older than an environment. Messages may come at any rate, so comparisons take the new one. */
  private compareWithNewToken(): void {
    this.newTokenWanted = true;
    this.wantComparison();
  }

  /** The message may be late, or repeated, and of before they were added: a comparison looks whether they are there. */
  private environmentsRemoved(ids: readonly string[]): void {
    for (const id of ids) this.added.delete(id);
    const now = performance.now();
    const removed = ids.filter((id) => !this.wasJustAdded(id, now));
    for (const id of removed.filter((id) => this.isKnownToBeGone(id))) {
      this.ledger.recentPast.heardAgain({ type: 'EnvironmentRemoved', environment: id });
    }
    this.told(removed, (environment) => ({ type: 'EnvironmentRemoved', environment }));
    if (removed.length < ids.length) this.compareWithNewToken();
    this.laterComparison.want();
  }

  private isKnownToBeGone(environment: string): boolean {
    const { exists, lifeSequence } = this.ledger.environment(environment);
    return !exists && lifeSequence > 0;
  }

  private proxyKeyDeleted(identifier: string): void {
    if (this.options.keepServingOnKeyDeletion) {
      this.logger.error(
        'The proxy key was deleted upstream; serving what is known (KEEP_SERVING_ON_KEY_DELETION)',
      );
      return;
    }
    this.logger.error('The proxy key was deleted upstream; everything that it gave access to is removed');
    this.deletedKey = identifier;
    this.upstream.forgetSession();
    // At once, although a comparison may be under way; appended twice is appended once. What fails here is repeated
    // by the comparison.
    this.finishKeyDeletion().catch(() => undefined);
    this.compareNow();
  }

  private sync(environment: string): EnvironmentSync {
    let sync = this.environments.get(environment);
    if (!sync) {
      sync = new EnvironmentSync(environment, {
        ledger: this.ledger,
        upstream: this.upstream,
        patience: this.patience,
        record: this.record,
        recentMs: this.recentMs,
        stopping: this.stopping.signal,
      });
      this.environments.set(environment, sync);
    }
    return sync;
  }
}

function countsOf(types: readonly string[]): Record<string, number> {
  return Object.fromEntries(
    Object.entries(Object.groupBy(types, (type) => type)).map(([type, of]) => [type, of?.length ?? 0]),
  );
}
