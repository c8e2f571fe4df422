import { once } from 'node:events';

import { Logger } from '@nestjs/common';

import type { EnvironmentFact } from '#libs/domain';
import type { EventLog } from '#libs/event-log';
import type { UpstreamStatus } from '#libs/observability';
import {
  type Backoff,
  backoffMs,
  type ConfigPage,
  pause,
  type SaasClient,
  type StreamEvent,
  type StreamMessage,
  UnusableAnswer,
} from '#libs/saas-client';

import { EnvironmentSync } from './environment-sync.js';
import { Ledger, type SetAside } from './ledger.js';
import { UpstreamReader } from './upstream-reader.js';

/** A connection that lasted so long was a good one: what ends it is a new failure, not one more. */
const STABLE_MS = 30_000;
const MOST_UNKNOWN_KINDS = 100;
/** The upstream lets a proxy key have 1,000 environments. */
const MOST_ADDED = 1000;
const FIRST_COMPARISON_MS = 3000;
const LOG_RETRY_MS = 1000;
/** Comparisons in a row that found nothing, after which they do not move further apart: 8 s. */
const MOST_IDLE_COMPARISONS = 5;

export interface IngestorOptions {
  readonly reconcileIntervalMs: number;
  readonly keepServingOnKeyDeletion: boolean;
}

/**
 * Turns what the upstream says into facts.
 *
 * The stream is opened first and the account is read after that, so that no change falls between the two. A start, a
 * reconnect, an interval, a message that cannot be read: all lead to the same comparison of the whole account, repeated
 * until it succeeds. Messages of the stream are dealt with by environment, in order, each environment on its own.
 */
export class Ingestor {
  private readonly logger = new Logger(Ingestor.name);
  private readonly stopping = new AbortController();
  private readonly ledger: Ledger;
  private readonly upstream: UpstreamReader;
  private readonly environments = new Map<string, EnvironmentSync>();
  private readonly unknownKinds = new Set<string>();
  /** The identifier of a proxy key whose deletion the log does not know of yet. */
  private deletedKey: string | undefined;
  /** Environments that the upstream said were added, and that nobody has read yet. */
  private readonly added = new Set<string>();
  /** Comparisons that failed, one after the other, since the stream was opened. */
  private failedComparisons = 0;
  /** Messages that could not be read since the last comparison began. */
  private unreadable = 0;
  private comparisonWanted = Promise.withResolvers<void>();
  /** Aborted when there is reason to believe that the next comparison goes better than the last. */
  private patience = new AbortController();
  private work: Promise<unknown> | undefined;

  constructor(
    log: EventLog,
    saas: SaasClient,
    private readonly status: UpstreamStatus,
    private readonly options: IngestorOptions,
    private readonly backoff: Backoff = backoffMs,
  ) {
    this.ledger = new Ledger(log, Date.now);
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

  /** What the log does not take, and so nobody is served. */
  get setAside(): readonly SetAside[] {
    return this.ledger.setAside;
  }

  /** Keeps the account stream open. */
  private async keepListening(): Promise<void> {
    const { signal } = this.stopping;
    for (let failures = 0; !signal.aborted;) {
      const connection = new AbortController();
      let openedAt: number | undefined;
      const failuresSoFar = () =>
        openedAt !== undefined && Date.now() - openedAt >= STABLE_MS ? 1 : failures + 1;
      try {
        const events = await this.upstream.stream(AbortSignal.any([signal, connection.signal]));
        openedAt = Date.now();
        this.logger.log('The upstream stream is open');
        this.status.stream('CONNECTED');
        void this.takeAdded();
        this.compareNow();
        for await (const event of events) {
          if (this.dealWith(event) === 'reconnect') connection.abort();
        }
        // Once is what an added environment needs; an upstream that asks for it again and again has to wait.
        failures = failuresSoFar();
        if (failures > 1) await pause(this.backoff(failures, Math.random()), signal);
      } catch (error) {
        if (signal.aborted) break;
        this.status.stream('DISCONNECTED');
        failures = failuresSoFar();
        const waitMs = this.backoff(failures, Math.random(), this.upstream.askedMs(error));
        this.logger.warn(
          `${String(error)}; connecting again in ${Math.ceil(waitMs / 1000)} s, serving what is known`,
        );
        // Without a stream, reading is the only way to learn of changes.
        this.wantComparison();
        await pause(waitMs, signal);
      }
    }
  }

  /** Compares the account whenever that is wanted, and at least once in an interval. */
  private async keepComparing(): Promise<void> {
    const { signal } = this.stopping;
    // The first one does not wait for a stream that may never open.
    let intervalMs = Math.min(FIRST_COMPARISON_MS, this.options.reconcileIntervalMs);
    for (let idle = 0; !signal.aborted;) {
      let isRoutine = false;
      const interval = setTimeout(() => {
        isRoutine = true;
        this.wantComparison();
      }, intervalMs);
      await this.comparisonWanted.promise;
      clearTimeout(interval);
      if (signal.aborted) break;
      intervalMs = this.options.reconcileIntervalMs;
      this.comparisonWanted = Promise.withResolvers();
      try {
        const before = this.ledger.appends;
        // What was taken out of the log while nothing changed, nobody else would notice.
        if (isRoutine) await this.ledger.load();
        await this.compareAccount();
        this.failedComparisons = 0;
        // Messages can ask for a comparison at any rate. Those that find nothing move apart.
        idle = this.ledger.appends === before ? Math.min(idle + 1, MOST_IDLE_COMPARISONS) : 0;
        if (idle > 1) await this.wait(this.backoff(idle - 1, 1));
      } catch (error) {
        if (signal.aborted) break;
        const waitMs = this.backoff(++this.failedComparisons, Math.random(), this.upstream.askedMs(error));
        this.logger.warn(
          `The account could not be compared: ${String(error)}; trying again in ${Math.ceil(waitMs / 1000)} s`,
        );
        await this.wait(waitMs);
        this.wantComparison();
      }
    }
  }

  /** Until there is reason to believe that a comparison is worth it, or so long. */
  private async wait(ms: number): Promise<void> {
    this.patience = new AbortController();
    await pause(ms, AbortSignal.any([this.stopping.signal, this.patience.signal]));
  }

  /** Reads the environments that were added, ahead of the comparison, which takes as long as the account is large. */
  private async takeAdded(): Promise<void> {
    const { signal } = this.stopping;
    const added = [...this.added];
    this.added.clear();
    const taken = await Promise.allSettled(
      added.map(async (id) => {
        const config = await this.upstream.environment(id, signal);
        if (config) await this.sync(id).take(config, await this.upstream.account(signal));
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
    this.patience.abort();
  }

  private async compareAccount(): Promise<void> {
    if (this.unreadable > 1)
      this.logger.warn(`${this.unreadable} messages of the upstream could not be read`);
    this.unreadable = 0;
    await this.finishKeyDeletion();
    const listed = await this.readAccount();
    const missing = this.ledger.environments().filter((id) => !listed.has(id));
    if (missing.length > 0) {
      const listedAgain = await this.readAccount();
      for (const environment of missing.filter((id) => !listedAgain.has(id))) {
        this.logger.warn(
          `Environment ${environment} is gone: two complete reads of the upstream do not list it`,
        );
        this.sync(environment).told({ type: 'EnvironmentRemoved', environment });
      }
    }
    const absent = [...listed].find((id) => !this.ledger.environment(id).exists);
    if (absent) throw new Error(`environment ${absent} was removed while the account was read`);
    if (!this.ledger.snapshotCompleted) {
      const account = (await this.upstream.account(this.stopping.signal)) ?? '';
      await this.ledger.append([{ type: 'SnapshotCompleted', account, environments: listed.size }]);
      this.logger.log(`The log holds the whole account: ${listed.size} environments`);
    }
    this.status.agreed();
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
   * @returns the environments that a complete and consistent answer lists. Throws UnusableAnswer for another.
   */
  private async readAccount(): Promise<Set<string>> {
    const { signal } = this.stopping;
    const account = await this.upstream.account(signal);
    const listed = new Set<string>();
    const failures: unknown[] = [];
    let first: ConfigPage | undefined;
    for await (const page of this.upstream.pages(signal)) {
      first ??= page;
      if (page.itemCount !== first.itemCount || page.pageCount !== first.pageCount) {
        throw new UnusableAnswer('the configuration changed while it was read');
      }
      for (const { id } of page.environments) {
        if (listed.has(id)) throw new UnusableAnswer(`environment ${id} is on two pages`);
        listed.add(id);
      }
      // One environment that fails keeps no other from being taken.
      const taken = await Promise.allSettled(
        page.environments.map((config) => this.sync(config.id).take(config, account)),
      );
      failures.push(...taken.flatMap((take) => (take.status === 'rejected' ? [take.reason as unknown] : [])));
    }
    if (failures.length > 0) throw failures[0];
    if (listed.size === 0 || listed.size !== first?.itemCount) {
      throw new UnusableAnswer(
        `the configuration lists ${listed.size} of ${first?.itemCount ?? 0} environments`,
      );
    }
    return listed;
  }

  /** @returns `reconnect` if the stream must be opened anew to hear of everything */
  private dealWith(event: StreamEvent): 'reconnect' | undefined {
    if ('unreadable' in event) {
      if (this.unreadable++ === 0) {
        this.logger.warn(
          `A message of the upstream cannot be read, so everything is compared: ${event.unreadable}`,
        );
      }
      this.wantComparison();
      return undefined;
    }
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
        this.told(event.environments, (environment) => ({ type: 'EnvironmentRemoved', environment }));
        return undefined;
      case 'proxy environmentsAdded':
        // The token lists the environments it is good for, so a new one is needed, and a stream opened with it.
        for (const id of event.environments.slice(0, MOST_ADDED)) this.added.add(id);
        return 'reconnect';
      case 'proxy proxyKeyDeleted':
        this.proxyKeyDeleted(event.identifier);
        return undefined;
      default:
        this.unknown(event);
        return undefined;
    }
  }

  private entityChanged(
    kind: 'flags' | 'segments',
    { environment, identifier, version }: StreamMessage,
  ): void {
    if (this.ledger.environment(environment).exists)
      this.sync(environment).changed(kind, identifier, version);
    else this.wantComparison();
  }

  /** What the message says outright, for the environments that it names and that are known; else compare. */
  private told(environments: readonly string[], factFor: (environment: string) => EnvironmentFact): void {
    const known = environments.filter((id) => this.ledger.environment(id).exists);
    for (const id of known) this.sync(id).told(factFor(id));
    if (known.length < environments.length || known.length === 0) this.wantComparison();
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

  private unknown({ domain, event }: StreamMessage): void {
    const kind = `${domain} ${event}`.slice(0, 100);
    if (this.unknownKinds.has(kind) || this.unknownKinds.size >= MOST_UNKNOWN_KINDS) return;
    this.unknownKinds.add(kind);
    this.logger.warn(
      `The upstream sends messages that this relay does not know, and ignores: ${JSON.stringify(kind)}`,
    );
  }

  private sync(environment: string): EnvironmentSync {
    let sync = this.environments.get(environment);
    if (!sync) {
      sync = new EnvironmentSync(environment, this.ledger, this.upstream, this.backoff, this.stopping.signal);
      this.environments.set(environment, sync);
    }
    return sync;
  }
}
