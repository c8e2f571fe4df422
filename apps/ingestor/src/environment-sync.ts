import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';

import {
  type EnvironmentFact,
  factSubject,
  type FetchedEnvironment,
  flagIn,
  isDoubtful,
  reconcile,
  sameContent,
  segmentIn,
} from '#libs/domain';
import { type Backoff, type CheckedList, type FetchedConfig, pause } from '#libs/saas-client';

import type { Ledger } from './ledger.js';
import type { UpstreamReader } from './upstream-reader.js';

type ListKind = 'flags' | 'segments';
type Lists = { readonly [Kind in 'flags' | 'segments' | 'apiKeys']?: CheckedList<unknown> | undefined };

const NAMES: Record<keyof Lists, string> = { flags: 'flags', segments: 'target groups', apiKeys: 'SDK keys' };

/** The upstream told of a version and then returned an older one: its read lags behind its stream. */
class LaggingRead extends Error {
  override readonly name = 'LaggingRead';
}

/** After so many reads that lag, the version that was announced is given up; the next reconcile will tell. */
const LAGGING_READS = 8;
/** Reads in a row that may contradict each other before it is left to the next reconcile. */
const DOUBTING_READS = 4;

/** Facts that may wait for one environment; beyond that, everything about it is compared instead. */
const MOST_WAITING_FACTS = 1000;

/**
 * Keeps one environment of the log equal to the upstream. A burst of announcements of any length costs a read that runs
 * and one that waits, for each kind. Whatever fails is repeated until it succeeds.
 *
 * Reads may fail for long, so nothing waits for them: what the upstream says outright, such as the removal of an SDK
 * key, overtakes them. A read that was under way meanwhile contradicts what is known then, and so is doubted.
 */
export class EnvironmentSync {
  private readonly logger = new Logger(EnvironmentSync.name);
  /** Deciding and appending: what is decided must not be out of date when it is appended. */
  private readonly oneAtATime = pLimit(1);
  /** The versions that the upstream announced and no read has shown yet, by identifier. */
  private readonly announced = { flags: new Map<string, number>(), segments: new Map<string, number>() };
  private readonly reads = {
    flags: new Coalesced(() => this.readUntilShown('flags')),
    segments: new Coalesced(() => this.readUntilShown('segments')),
    whole: new Coalesced(() => this.persist(() => this.compare())),
  };
  private readonly writing = new Coalesced(() => this.writeFacts());
  private facts: EnvironmentFact[] = [];
  private readonly reportedFaults = new Map<string, string>();

  constructor(
    private readonly id: string,
    private readonly ledger: Ledger,
    private readonly upstream: UpstreamReader,
    private readonly backoff: Backoff,
    private readonly signal: AbortSignal,
  ) {}

  /** The upstream says that a flag or group is at a version now. */
  changed(kind: ListKind, identifier: string, version: number): void {
    const announced = this.announced[kind];
    announced.set(identifier, Math.max(version, announced.get(identifier) ?? 0));
    this.reads[kind].want();
  }

  /** The upstream says outright what became true. */
  told(fact: EnvironmentFact): void {
    if (fact.type === 'FlagRemoved') this.announced.flags.delete(fact.identifier);
    if (fact.type === 'SegmentRemoved') this.announced.segments.delete(fact.identifier);
    if (this.facts.length < MOST_WAITING_FACTS) {
      this.facts.push(fact);
      this.writing.want();
    } else {
      this.facts = [];
      this.reads.whole.want();
    }
  }

  /** Takes over what a read of the account said about this environment, new or known. Throws what fails. */
  async take(config: FetchedConfig, account: string | undefined): Promise<void> {
    const isNew = !this.ledger.environment(this.id).exists;
    await this.settle(this.fetched(isNew ? await this.completed(config) : config), { account });
  }

  /** With the lists that the account left out: an environment begins with all of them, or SDKs start with nothing. */
  private async completed(config: FetchedConfig): Promise<FetchedConfig> {
    return {
      ...config,
      flags: config.flags ?? (await this.upstream.flags(this.id, this.signal)),
      segments: config.segments ?? (await this.upstream.segments(this.id, this.signal)),
    };
  }

  private async writeFacts(): Promise<void> {
    for (let fact = this.facts.shift(); fact && !this.signal.aborted; fact = this.facts.shift()) {
      const next = fact;
      await this.persist(() => this.oneAtATime(() => this.ledger.append(this.news(next))));
    }
  }

  /** Reads a list until it shows what was announced before the read. */
  private async readUntilShown(kind: ListKind): Promise<void> {
    let lags = 0;
    await this.persist(async () => {
      const expected = [...this.announced[kind]];
      await this.readList(kind);
      const lagging = expected.filter((announcement) => !this.isShown(kind, ...announcement));
      const [first] = lagging;
      if (!first) return;
      const lag = `${first[0]} of the ${kind} was announced at version ${first[1]} and is not read so`;
      if (++lags < LAGGING_READS) throw new LaggingRead(lag);
      this.logger.warn(`Environment ${this.id}: ${lag}, ${lags} times; the next comparison will tell`);
      for (const [identifier] of lagging) this.announced[kind].delete(identifier);
    });
  }

  /** Whether the log holds an announced version by now, or the announcement no longer matters. */
  private isShown(kind: ListKind, identifier: string, version: number): boolean {
    const announced = this.announced[kind];
    if (announced.get(identifier) !== version) return true;
    const known = this.ledger.environment(this.id);
    const held = kind === 'flags' ? flagIn(known, identifier) : segmentIn(known, identifier);
    const shown =
      !known.exists ||
      (held?.version ?? 0) >= version ||
      this.ledger.isSetAside(this.id, kind === 'flags' ? 'flag' : 'segment', identifier);
    if (shown) announced.delete(identifier);
    return shown;
  }

  private async readList(kind: ListKind): Promise<void> {
    const { id, signal } = this;
    if (!this.ledger.environment(id).exists) return;
    if (kind === 'flags') {
      const list = await this.upstream.flags(id, signal);
      await this.settle({ id, flags: list.items, incomplete: this.incomplete({ flags: list }) });
    } else {
      const list = await this.upstream.segments(id, signal);
      await this.settle({ id, segments: list.items, incomplete: this.incomplete({ segments: list }) });
    }
  }

  private async compare(): Promise<void> {
    if (this.ledger.environment(this.id).exists) await this.settle(await this.readWhole());
  }

  /** Repeats until it succeeds or the ingestor stops. */
  private async persist(attempt: () => Promise<void>): Promise<void> {
    for (let failures = 1; !this.signal.aborted; failures++) {
      try {
        await attempt();
        return;
      } catch (error) {
        if (this.signal.aborted) return;
        const waitMs = this.backoff(failures, Math.random(), this.upstream.askedMs(error));
        this.logger.warn(
          `Environment ${this.id}: ${String(error)}; trying again in ${Math.ceil(waitMs / 1000)} s`,
        );
        await pause(waitMs, this.signal);
      }
    }
  }

  /**
   * Appends what a read says. What a single read is not enough for is appended only if the next read, at once, says it
   * too.
   *
   * @param listing given if the read lists the account's environments: only that brings in one that is not there
   */
  private async settle(
    first: FetchedEnvironment,
    listing?: { readonly account: string | undefined },
  ): Promise<void> {
    let doubts: ReadonlyMap<string, EnvironmentFact> = new Map();
    for (let fetched = first, reads = 1; ; fetched = await this.readWhole(), reads++) {
      doubts = await this.oneAtATime(async () => {
        const known = this.ledger.environment(this.id);
        if (!known.exists && !listing) return new Map();
        const facts = reconcile(known, { ...fetched, account: listing?.account });
        this.forgetSetAside(fetched);
        const { believed = [], doubted = [] } = Object.groupBy(facts, (fact) =>
          !isDoubtful(known, fact) || sameContent(doubts.get(factSubject(fact)), fact)
            ? 'believed'
            : 'doubted',
        );
        await this.ledger.append(believed);
        return new Map(doubted.map((fact) => [factSubject(fact), fact]));
      });
      if (doubts.size === 0) return;
      if (reads === DOUBTING_READS) throw new Error(`${reads} reads of the upstream contradict each other`);
    }
  }

  private forgetSetAside({ id, flags, segments }: FetchedEnvironment): void {
    if (flags) this.ledger.noLongerThere(id, 'flag', new Set(flags.map((flag) => flag.feature)));
    if (segments) {
      this.ledger.noLongerThere(id, 'segment', new Set(segments.map((segment) => segment.identifier)));
    }
  }

  private async readWhole(): Promise<FetchedEnvironment> {
    const config = await this.upstream.environment(this.id, this.signal);
    if (config) return this.fetched(config);
    throw new Error('the upstream does not list the environment');
  }

  /**
   * The fact, unless the log holds it already. The removal of something that is not known is news too: a read that is
   * under way may still list it, and is doubted then.
   */
  private news(fact: EnvironmentFact): readonly EnvironmentFact[] {
    const known = this.ledger.environment(this.id);
    if (!known.exists) return [];
    switch (fact.type) {
      case 'FlagRemoved':
        return this.removal(fact, known.flags.get(fact.identifier), 'flags');
      case 'SegmentRemoved':
        return this.removal(fact, known.segments.get(fact.identifier), 'segments');
      case 'ApiKeyAdded':
        return known.apiKeys.get(fact.apiKey)?.value ? [] : [fact];
      case 'ApiKeyRemoved': {
        const entry = known.apiKeys.get(fact.apiKey);
        return entry && !entry.value ? [] : [fact];
      }
      case 'EnvironmentRemoved':
      case 'EnvironmentAdded':
      case 'FlagPublished':
      case 'SegmentPublished':
        return [fact];
    }
  }

  private removal(
    fact: Extract<EnvironmentFact, { version: number }>,
    entry: { value?: { version?: number | null | undefined } | undefined } | undefined,
    kind: ListKind,
  ): readonly EnvironmentFact[] {
    if (entry && !entry.value) return [];
    const version = entry?.value?.version ?? 0;
    if (fact.version > 0 && fact.version < version) {
      // It tells of a life before the one that is known. What is so now, a read will say.
      this.reads[kind].want();
      return [];
    }
    return [{ ...fact, version: Math.max(fact.version, version) }];
  }

  private fetched({ id, flags, segments, apiKeys }: FetchedConfig): FetchedEnvironment {
    // With flags of which none can be used, nobody is let in to read that there are none.
    const unusable = flags && flags.items.length === 0 && flags.faults.length > 0;
    return {
      id,
      flags: flags?.items,
      segments: segments?.items,
      apiKeys: unusable ? undefined : apiKeys?.items,
      incomplete: this.incomplete({ flags, segments, apiKeys }),
    };
  }

  /** The lists that hold entries which cannot be used. What is wrong is logged, once as long as it stays the same. */
  private incomplete(lists: Lists): (keyof Lists)[] {
    return (['flags', 'segments', 'apiKeys'] as const).filter((kind) => {
      const faults = lists[kind]?.faults;
      if (!faults) return false;
      const shown = faults.slice(0, 10).join(' | ');
      if (shown !== (this.reportedFaults.get(kind) ?? '')) {
        this.reportedFaults.set(kind, shown);
        if (shown) {
          this.logger.error(
            `Environment ${this.id}: ${faults.length} of its ${NAMES[kind]} cannot be used and keep their last good state: ${shown}`,
          );
        }
      }
      return faults.length > 0;
    });
  }
}

/** A job that runs when it is wanted; wanted while it runs, it runs once more, however often it was wanted. */
class Coalesced {
  private wanted = false;
  private running = false;

  /** @param job deals with its own failures */
  constructor(private readonly job: () => Promise<void>) {}

  want(): void {
    this.wanted = true;
    if (!this.running) void this.run();
  }

  private async run(): Promise<void> {
    this.running = true;
    while (this.wanted) {
      this.wanted = false;
      await this.job();
    }
    this.running = false;
  }
}
