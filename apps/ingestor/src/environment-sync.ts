import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';

import {
  type EnvironmentFact,
  type FetchedEnvironment,
  flagIn,
  isDoubtful,
  reconcile,
  sameContent,
  segmentIn,
} from '#libs/domain';
import type { CheckedList, FetchedConfig } from '#libs/saas-client';

import { backoffMs, pause } from './backoff.js';
import type { Ledger } from './ledger.js';
import type { UpstreamReader } from './upstream-reader.js';

/** Something to do for one environment. What is asked for again before it has begun is done once. */
type Step = Fetch | { readonly kind: 'whole' } | { readonly kind: 'fact'; readonly fact: EnvironmentFact };

interface Fetch {
  readonly kind: 'flags' | 'segments';
  /** The versions that the upstream announced, by identifier. */
  readonly expected: Map<string, number>;
}

/** The upstream told of a version and then returned an older one: its read lags behind its stream. */
class LaggingRead extends Error {
  override readonly name = 'LaggingRead';
}

/** After so many reads that lag, the version that was announced is given up; the next reconcile will tell. */
const LAGGING_READS = 8;
/** Reads in a row that may contradict each other before it is left to the next reconcile. */
const DOUBTING_READS = 4;

/** What may wait for one environment; beyond that, everything about it is compared instead. */
const MOST_WAITING_STEPS = 1000;

/**
 * Keeps one environment of the log equal to the upstream: one step after the other, each repeated until it succeeds.
 * Steps that wait are merged, so a burst of any length costs a fetch that runs and one that waits, for each kind.
 */
export class EnvironmentSync {
  private readonly logger = new Logger(EnvironmentSync.name);
  private readonly oneAtATime = pLimit(1);
  private waiting: Step[] = [];
  private working = false;
  private reportedFaults = '';

  constructor(
    private readonly id: string,
    private readonly ledger: Ledger,
    private readonly upstream: UpstreamReader,
    private readonly signal: AbortSignal,
  ) {}

  /** The upstream says that a flag or group is at a version now. */
  changed(kind: 'flags' | 'segments', identifier: string, version: number): void {
    const merged = this.lastWaiting(kind);
    if (merged) merged.expected.set(identifier, Math.max(version, merged.expected.get(identifier) ?? 0));
    else this.enqueue({ kind, expected: new Map([[identifier, version]]) });
  }

  /** The upstream says outright what became true. */
  told(fact: EnvironmentFact): void {
    this.enqueue({ kind: 'fact', fact });
  }

  /** Takes over what a read of the account said about this environment, in turn with the steps. Throws what fails. */
  take(config: FetchedConfig, account: string | undefined): Promise<void> {
    return this.oneAtATime(() => this.settle(this.fetched(config), account));
  }

  /** A waiting step of that kind that may still learn more: no fact has to come before what it would learn. */
  private lastWaiting(kind: 'flags' | 'segments'): Fetch | undefined {
    const barrier = this.waiting.findLastIndex((step) => step.kind === 'fact');
    return this.waiting.slice(barrier + 1).find((step): step is Fetch => step.kind === kind);
  }

  private enqueue(step: Step): void {
    if (this.waiting.length < MOST_WAITING_STEPS) this.waiting.push(step);
    else this.waiting = [{ kind: 'whole' }];
    if (!this.working) void this.work();
  }

  private async work(): Promise<void> {
    this.working = true;
    for (let step = this.waiting.shift(); step && !this.signal.aborted; step = this.waiting.shift()) {
      await this.persist(step);
    }
    this.working = false;
  }

  /** Runs a step until it succeeds. Between its tries others have their turn. */
  private async persist(step: Step): Promise<void> {
    for (let failures = 1; !this.signal.aborted; failures++) {
      try {
        await this.oneAtATime(() => this.run(step));
        return;
      } catch (error) {
        if (this.signal.aborted) return;
        if (error instanceof LaggingRead && failures === LAGGING_READS) {
          this.logger.warn(
            `Environment ${this.id}: ${error.message}, ${failures} times; the next comparison will tell`,
          );
          return;
        }
        const waitMs = backoffMs(failures, Math.random(), this.upstream.askedMs(error));
        this.logger.warn(
          `Environment ${this.id}: ${String(error)}; trying again in ${Math.ceil(waitMs / 1000)} s`,
        );
        await pause(waitMs, this.signal);
      }
    }
  }

  private async run(step: Step): Promise<void> {
    if (!this.ledger.environment(this.id).exists) return;
    switch (step.kind) {
      case 'fact':
        return this.ledger.append(this.news(step.fact));
      case 'whole':
        return this.settle(await this.readWhole());
      case 'flags': {
        const list = await this.upstream.flags(this.id, this.signal);
        await this.settle({ id: this.id, flags: list.items, incomplete: this.report('flags', list) });
        return this.expect(step, (id) => flagIn(this.ledger.environment(this.id), id));
      }
      case 'segments': {
        const list = await this.upstream.segments(this.id, this.signal);
        await this.settle({
          id: this.id,
          segments: list.items,
          incomplete: this.report('target groups', list),
        });
        return this.expect(step, (id) => segmentIn(this.ledger.environment(this.id), id));
      }
    }
  }

  /**
   * Appends what a read says. What a single read is not enough for is appended only if the next read, at once, says it
   * too.
   */
  private async settle(first: FetchedEnvironment, account?: string): Promise<void> {
    let doubts: readonly EnvironmentFact[] = [];
    for (let fetched = first, reads = 1; ; fetched = await this.readWhole(), reads++) {
      const known = this.ledger.environment(this.id);
      const facts = reconcile(known, { ...fetched, account });
      const believed = facts.filter(
        (fact) => !isDoubtful(known, fact) || doubts.some((doubt) => sameContent(doubt, fact)),
      );
      await this.ledger.append(believed);
      doubts = facts.filter((fact) => !believed.includes(fact));
      if (doubts.length === 0) return;
      if (reads === DOUBTING_READS) throw new Error(`${reads} reads of the upstream contradict each other`);
    }
  }

  private async readWhole(): Promise<FetchedEnvironment> {
    const config = await this.upstream.environment(this.id, this.signal);
    if (config) return this.fetched(config);
    throw new Error('the upstream does not list the environment');
  }

  private expect(
    { kind, expected }: Fetch,
    held: (identifier: string) => { version?: number | null | undefined } | undefined,
  ): void {
    for (const [identifier, version] of expected) {
      const now = held(identifier)?.version ?? 0;
      if (now < version) {
        throw new LaggingRead(
          `${identifier} of the ${kind} was announced at version ${version} and read at ${now}`,
        );
      }
    }
  }

  /** The fact, unless the log holds it already. */
  private news(fact: EnvironmentFact): readonly EnvironmentFact[] {
    const known = this.ledger.environment(this.id);
    switch (fact.type) {
      case 'FlagRemoved': {
        const flag = flagIn(known, fact.identifier);
        return flag ? [{ ...fact, version: Math.max(fact.version, flag.version ?? 0) }] : [];
      }
      case 'SegmentRemoved': {
        const segment = segmentIn(known, fact.identifier);
        return segment ? [{ ...fact, version: Math.max(fact.version, segment.version ?? 0) }] : [];
      }
      case 'ApiKeyAdded':
        return known.apiKeys.get(fact.apiKey)?.value ? [] : [fact];
      case 'ApiKeyRemoved':
        return known.apiKeys.get(fact.apiKey)?.value ? [fact] : [];
      case 'EnvironmentRemoved':
      case 'EnvironmentAdded':
      case 'FlagPublished':
      case 'SegmentPublished':
        return [fact];
    }
  }

  private fetched({ id, flags, segments, apiKeys }: FetchedConfig): FetchedEnvironment {
    const faulty = [
      this.report('flags', flags),
      this.report('target groups', segments),
      this.report('SDK keys', apiKeys),
    ];
    return {
      id,
      flags: flags?.items,
      segments: segments?.items,
      apiKeys: apiKeys?.items,
      incomplete: faulty.includes(true),
    };
  }

  /** Logs what is wrong with a list, once as long as it stays the same. @returns whether anything is */
  private report(what: string, list: CheckedList<unknown> | undefined): boolean {
    if (!list || list.faults.length === 0) return false;
    const faults = list.faults.slice(0, 10).join(' | ');
    if (faults !== this.reportedFaults) {
      this.reportedFaults = faults;
      this.logger.error(
        `Environment ${this.id}: ${list.faults.length} of its ${what} cannot be used and keep their last good state: ${faults}`,
      );
    }
    return true;
  }
}
