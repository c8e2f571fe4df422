import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';

import {
  type EnvironmentFact,
  type EnvironmentState,
  factSubject,
  type FetchedEnvironment,
  isDoubtful,
  reconcile,
  sameContent,
} from '#libs/domain';
import {
  type CheckedList,
  type FetchedConfig,
  pause,
  unknownFieldsOfFlag,
  unknownFieldsOfSegment,
} from '#libs/saas-client';

import { type Announcement, Announcements, type Lag } from './announcements.js';
import { Coalesced } from './coalesced.js';
import { heldIn, type ListKind, publishedIn } from './entities.js';
import type { IngestorRecord } from './ingestor-record.js';
import type { Ledger } from './ledger.js';
import { type Patience, seconds } from './patience.js';
import type { UpstreamReader } from './upstream-reader.js';

type Lists = { readonly [Kind in 'flags' | 'segments' | 'apiKeys']?: CheckedList<unknown> | undefined };

const NAMES: Record<keyof Lists, string> = { flags: 'flags', segments: 'target groups', apiKeys: 'SDK keys' };

/** Reads in a row that may contradict each other before it is left to the next reconcile. */
const DOUBTING_READS = 4;

/** Facts that may wait for one environment; beyond that, everything about it is compared instead. */
const MOST_WAITING_FACTS = 1000;

/** What a read said. */
interface Read {
  readonly fetched: FetchedEnvironment;
  /** It shows the upstream as of this time or later, as `performance.now()` tells it. */
  readonly asOf: number;
}

/** What a read left in doubt, by subject. */
type Doubts = ReadonlyMap<string, EnvironmentFact>;
const NO_DOUBTS: Doubts = new Map();

/** Given if a read lists the account's environments: only that brings in one that is not there. */
interface Listing {
  readonly account: string | undefined;
}

/** What became of a read of the account, as far as it concerns one environment. */
export interface Taken {
  /** The types of the facts that followed at once. */
  readonly found: readonly EnvironmentFact['type'][];
  /** The same of what had to be confirmed first. Rejects with what fails. */
  readonly confirmed: Promise<readonly EnvironmentFact['type'][]>;
}

/** What all environments of an account share. */
export interface Surroundings {
  readonly ledger: Ledger;
  readonly upstream: UpstreamReader;
  readonly patience: Patience;
  readonly record: IngestorRecord;
  /** By how much a read may lag: one that is begun now shows the upstream as of so long before, or later. */
  readonly recentMs: number;
  readonly stopping: AbortSignal;
}

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
  private readonly announced: Readonly<Record<ListKind, Announcements>>;
  private readonly reads = {
    flags: new Coalesced((news) => this.readUntilShown('flags', news)),
    segments: new Coalesced((news) => this.readUntilShown('segments', news)),
    whole: new Coalesced(() => this.persist('comparison', () => this.compare())),
  };
  private readonly writing = new Coalesced(() => this.writeFacts());
  /** A read that no longer lags behind what was told before it was wanted. */
  private readonly laterRead = new Coalesced(async () => {
    await pause(this.surroundings.recentMs, this.signal);
    this.reads.whole.want();
  });
  /** What the upstream said outright, and when. */
  private facts: { readonly fact: EnvironmentFact; readonly since: number }[] = [];
  /** What the last read of each list left in doubt, for the comparison to confirm. */
  private inDoubt: Readonly<Record<ListKind, Doubts>> = { flags: NO_DOUBTS, segments: NO_DOUBTS };
  private readonly reportedFaults = new Map<string, string>();

  private readonly ledger: Ledger;
  private readonly upstream: UpstreamReader;
  private readonly record: IngestorRecord;
  private readonly signal: AbortSignal;

  constructor(
    private readonly id: string,
    private readonly surroundings: Surroundings,
  ) {
    this.ledger = surroundings.ledger;
    this.upstream = surroundings.upstream;
    this.record = surroundings.record;
    this.signal = surroundings.stopping;
    const announcements = () => new Announcements((lags) => surroundings.patience.after(lags).ms);
    this.announced = { flags: announcements(), segments: announcements() };
  }

  /** The upstream says that a flag or group is at a version now, or was created at it. */
  changed(kind: ListKind, identifier: string, version: number, isCreated: boolean): void {
    const held = heldIn(this.ledger.environment(this.id), { kind, identifier })?.version ?? 0;
    // Of a life of which nobody told the beginning: a read that lags shows what is known, and settles nothing.
    if (version < held || (isCreated && version === held)) this.laterRead.want();
    if (this.announced[kind].add(identifier, version, performance.now())) {
      this.reads[kind].want();
    } else {
      this.announced[kind].clear();
      this.reads.whole.want();
    }
  }

  /** The upstream says outright what became true. */
  told(fact: EnvironmentFact): void {
    if (fact.type === 'FlagRemoved') this.announced.flags.delete(fact.identifier);
    if (fact.type === 'SegmentRemoved') this.announced.segments.delete(fact.identifier);
    if (this.facts.length < MOST_WAITING_FACTS) {
      this.facts.push({ fact, since: performance.now() });
      this.writing.want();
    } else {
      this.facts = [];
      this.reads.whole.want();
    }
  }

  /**
   * Takes over what a read of the account said about this environment, new or known. Throws what fails.
   *
   * @param begunAt when the read began, as `performance.now()` tells it
   */
  async take(config: FetchedConfig, begunAt: number, listing: Listing): Promise<Taken> {
    const read = { fetched: this.fetched(await this.completed(config)), asOf: this.asOf(begunAt) };
    const found: EnvironmentFact['type'][] = [];
    const doubts = await this.believe(read, found, listing);
    const confirmed = this.confirm(doubts, listing).then((types) => {
      this.agreed();
      return types;
    });
    // Whoever asked looks at it later, or was kept from that by another failure.
    confirmed.catch(() => undefined);
    return { found, confirmed };
  }

  /**
   * With the lists that the configuration left out: an environment begins with all of them, or SDKs start with nothing,
   * and what is not told cannot be compared.
   */
  private async completed(config: FetchedConfig): Promise<FetchedConfig> {
    return {
      ...config,
      flags: config.flags ?? (await this.upstream.flags(this.id, this.signal)),
      segments: config.segments ?? (await this.upstream.segments(this.id, this.signal)),
    };
  }

  private async writeFacts(): Promise<void> {
    for (let next = this.facts.shift(); next && !this.signal.aborted; next = this.facts.shift()) {
      const { fact, since } = next;
      await this.persist('facts', () =>
        this.oneAtATime(async () => {
          const news = this.news(fact);
          await this.ledger.append(news);
          const isChange = fact.type === 'FlagRemoved' || fact.type === 'SegmentRemoved';
          if (isChange && news.length > 0) this.record.tookIn(performance.now() - since);
        }),
      );
    }
  }

  /**
   * Reads a list until it shows what was announced before the read.
   *
   * @param news ends the wait for a read that lags: what else was announced must not wait for it
   */
  private async readUntilShown(kind: ListKind, news: AbortSignal): Promise<void> {
    while (!news.aborted && !this.signal.aborted) {
      const lag = await this.persist(NAMES[kind], () => this.readAnnounced(kind));
      const waitMs = lag && this.noteLag(kind, lag);
      if (waitMs === undefined) return;
      await this.surroundings.patience.wait({ ms: waitMs, askedMs: 0 }, [news]);
    }
  }

  /** Reads a list. @returns what it lacks of what was announced before */
  private async readAnnounced(kind: ListKind): Promise<Lag> {
    const announced = this.announced[kind];
    const expected = announced.all;
    const doubts = await this.readList(kind);
    // It may take long to settle them, and other news must not wait for it.
    this.inDoubt = { ...this.inDoubt, [kind]: doubts };
    if (doubts.size > 0) this.reads.whole.want();
    const shown = new Set([...doubts.values()].map((fact) => this.announcedIn(fact)));
    const lacking = expected.filter(
      ({ identifier, version }) => !shown.has(identifier) && !this.isShown(kind, identifier, version),
    );
    return announced.lag(lacking, performance.now());
  }

  /** @returns how long to wait for the next read; undefined if nothing more is looked for */
  private noteLag(kind: ListKind, { counted, givenUp, waitMs }: Lag): number | undefined {
    const what = `${this.id} announced ${NAMES[kind]}`;
    const lag = ({ identifier, version }: Announcement) =>
      `${identifier} of the ${kind} was announced at version ${version} and is not read so`;
    const [abandoned] = givenUp;
    if (abandoned) {
      this.logger.warn(
        `Environment ${this.id}: ${lag(abandoned)}, ${abandoned.lags} times; the next comparison will tell`,
      );
    }
    const [lagging] = counted;
    if (waitMs === undefined) this.record.succeeds(what);
    else if (lagging) {
      this.logger.warn(`Environment ${this.id}: ${lag(lagging)}; trying again in ${seconds({ ms: waitMs })}`);
      this.record.fails(what, lag(lagging), lagging.lags, waitMs);
    }
    return waitMs;
  }

  /** Whether the log holds an announced version by now, or the announcement no longer matters. */
  private isShown(kind: ListKind, identifier: string, version: number): boolean {
    const announced = this.announced[kind];
    if (announced.of(identifier)?.version !== version) return true;
    const known = this.ledger.environment(this.id);
    const shown =
      !known.exists ||
      (heldIn(known, { kind, identifier })?.version ?? 0) >= version ||
      this.ledger.isSetAside(this.id, kind === 'flags' ? 'flag' : 'segment', identifier);
    if (shown) announced.delete(identifier);
    return shown;
  }

  /** @returns what it leaves in doubt */
  private async readList(kind: ListKind): Promise<Doubts> {
    const { id, signal } = this;
    if (!this.ledger.environment(id).exists) return NO_DOUBTS;
    const asOf = this.asOf(performance.now());
    if (kind === 'flags') {
      const list = await this.upstream.flags(id, signal);
      const fetched = { id, flags: list.items, incomplete: this.incomplete({ flags: list }) };
      return this.believe({ fetched, asOf }, []);
    }
    const list = await this.upstream.segments(id, signal);
    const fetched = { id, segments: list.items, incomplete: this.incomplete({ segments: list }) };
    return this.believe({ fetched, asOf }, []);
  }

  private async compare(): Promise<void> {
    if (!this.ledger.environment(this.id).exists) return;
    const doubts = new Map([...this.inDoubt.flags, ...this.inDoubt.segments]);
    this.inDoubt = { flags: NO_DOUBTS, segments: NO_DOUBTS };
    const expected = { flags: this.announced.flags.all, segments: this.announced.segments.all };
    // What was announced confirms what a list showed, just after that, and nothing else.
    if (doubts.size === 0) this.forgetShown();
    await this.confirm(doubts.size > 0 ? doubts : await this.believe(await this.readWhole(), []));
    this.forgetShown();
    for (const kind of ['flags', 'segments'] as const) this.seekLater(kind, expected[kind]);
    this.agreed();
  }

  /** What a list showed and was doubted, a read that lags more may have lacked: then it is not in doubt any more. */
  private seekLater(kind: ListKind, expected: readonly Announcement[]): void {
    const announced = this.announced[kind];
    const lacking = expected.filter(
      ({ identifier, version }) => announced.of(identifier)?.version === version,
    );
    const lag = announced.lag(lacking, performance.now());
    if (this.noteLag(kind, { ...lag, counted: [] }) !== undefined) this.laterRead.want();
  }

  /** A read of the whole agreed with the log; unless the environment was removed meanwhile, and is no longer kept. */
  private agreed(): void {
    if (this.ledger.environment(this.id).exists) this.record.environmentAgreed(this.id);
  }

  private forgetShown(): void {
    for (const kind of ['flags', 'segments'] as const) {
      for (const { identifier, version } of this.announced[kind].all) this.isShown(kind, identifier, version);
    }
  }

  /** Repeats until it succeeds. @returns undefined if the ingestor stops before */
  private async persist<Result>(part: string, attempt: () => Promise<Result>): Promise<Result | undefined> {
    const { patience } = this.surroundings;
    const what = `${this.id} ${part}`;
    for (let failures = 1; !this.signal.aborted; failures++) {
      try {
        const result = await attempt();
        this.record.succeeds(what);
        return result;
      } catch (error) {
        if (this.signal.aborted) return undefined;
        const delay = patience.after(failures, error);
        this.logger.warn(`Environment ${this.id}: ${String(error)}; trying again in ${seconds(delay)}`);
        this.record.fails(what, error, failures, delay.ms);
        await patience.wait(delay);
      }
    }
    return undefined;
  }

  /**
   * Appends what a read says, as far as that is enough to believe it.
   *
   * @param found gets the types of the facts
   * @param doubts what the read before left in doubt
   * @returns what is in doubt now
   */
  private believe(
    { fetched, asOf }: Read,
    found: EnvironmentFact['type'][],
    listing?: Listing,
    doubts = NO_DOUBTS,
  ): Promise<Doubts> {
    return this.oneAtATime(async () => {
      const known = this.ledger.environment(this.id);
      if (!known.exists && !listing) return NO_DOUBTS;
      const facts = reconcile(known, { ...fetched, account: listing?.account });
      this.forgetSetAside(fetched);
      const isBelieved = (fact: EnvironmentFact) =>
        asOf >= this.believableAt(known, fact) &&
        (!isDoubtful(known, fact) || sameContent(doubts.get(factSubject(fact)), fact));
      // An environment comes back whole or not at all.
      const [first] = facts;
      const isBack = first?.type === 'EnvironmentAdded' && isBelieved(first);
      const { believed = [], doubted = [] } = Object.groupBy(facts, (fact) =>
        (known.exists ? isBelieved(fact) : isBack) ? 'believed' : 'doubted',
      );
      this.noteBelieved(known, believed);
      // What comes back until then, if the read lagged after all, is at least what was there last.
      if (believed.some((fact) => asOf < this.outlivedAt(known, fact, false))) this.laterRead.want();
      await this.ledger.append(believed, asOf);
      this.noteTakenIn(believed);
      found.push(...believed.map(({ type }) => type));
      return new Map(doubted.map((fact) => [factSubject(fact), fact]));
    });
  }

  /**
   * Reads the environment as a whole, once more at once and then when a read can be believed, until reads agree. Throws
   * if they do not.
   */
  private async confirm(doubts: Doubts, listing?: Listing): Promise<readonly EnvironmentFact['type'][]> {
    const found: EnvironmentFact['type'][] = [];
    for (let reads = 1; doubts.size > 0; reads++) {
      if (reads === DOUBTING_READS) throw new Error(`${reads} reads of the upstream contradict each other`);
      if (reads > 1) {
        const known = this.ledger.environment(this.id);
        const believableAt = Math.max(...[...doubts.values()].map((fact) => this.believableAt(known, fact)));
        await pause(Math.max(0, believableAt - this.asOf(performance.now())), this.signal);
      }
      doubts = await this.believe(await this.readWhole(), found, listing, doubts);
    }
    return found;
  }

  /** As of when a read that was begun then shows the upstream, at the earliest. */
  private asOf(begunAt: number): number {
    return begunAt - this.surroundings.recentMs;
  }

  /** As of when a read shows nothing of a former life of the environment, or of what the fact is about. */
  private outlivedAt(known: EnvironmentState, fact: EnvironmentFact, isAnnounced: boolean): number {
    const { recentPast } = this.ledger;
    return Math.max(
      recentPast.outlivedAt(known, { type: 'EnvironmentRemoved', environment: this.id }),
      recentPast.outlivedAt(known, fact, isAnnounced),
    );
  }

  /** As of when a read may be believed that differs from what is known. */
  private believableAt(known: EnvironmentState, fact: EnvironmentFact): number {
    const { recentPast } = this.ledger;
    return Math.max(
      this.outlivedAt(known, fact, this.announcedIn(fact) !== undefined),
      isDoubtful(known, fact) ? recentPast.settledAt(known, fact) : recentPast.shownAsOf(fact),
    );
  }

  /** Whether what the fact is about, or all of the environment, began anew a moment ago. */
  private beganAnew(fact: EnvironmentFact): boolean {
    const environment: EnvironmentFact = { type: 'EnvironmentRemoved', environment: this.id };
    return [fact, environment].some((one) => {
      const at = this.ledger.recentPast.beganAnewAt(one);
      return at !== undefined && at > this.asOf(performance.now());
    });
  }

  /** The identifier of what it publishes, if the upstream said that just this is there now: not what was there before. */
  private announcedIn(fact: EnvironmentFact): string | undefined {
    const entity = publishedIn(fact);
    if (!entity || this.announced[entity.kind].of(entity.identifier)?.version !== entity.version)
      return undefined;
    return entity.identifier;
  }

  /** What was announced and is in the log now is looked for no longer. */
  private noteTakenIn(appended: readonly EnvironmentFact[]): void {
    for (const entity of appended.flatMap((fact) => publishedIn(fact) ?? [])) {
      const announced = this.announced[entity.kind].of(entity.identifier);
      const held = heldIn(this.ledger.environment(this.id), entity);
      if (!announced || !held || (held.version ?? 0) < announced.version) continue;
      this.announced[entity.kind].delete(entity.identifier);
      this.record.tookIn(performance.now() - announced.since);
    }
  }

  /** Tells of what nobody expects: fields that are new, and versions that go back. */
  private noteBelieved(known: EnvironmentState, facts: readonly EnvironmentFact[]): void {
    const back: string[] = [];
    for (const fact of facts) {
      if (fact.type === 'FlagPublished') this.record.unknownFields(unknownFieldsOfFlag(fact.flag));
      if (fact.type === 'SegmentPublished') this.record.unknownFields(unknownFieldsOfSegment(fact.segment));
      const entity = publishedIn(fact);
      const before = entity && (heldIn(known, entity)?.version ?? 0);
      if (before && before > entity.version)
        back.push(`${entity.identifier} from version ${before} to ${entity.version}`);
    }
    if (back.length > 0) {
      this.logger.warn(
        `Environment ${this.id}: ${back.length} flags or target groups went back upstream, and are served so: ` +
          `${back.slice(0, 3).join(', ')}. Was the upstream restored from a backup?`,
      );
    }
  }

  private forgetSetAside({ id, flags, segments }: FetchedEnvironment): void {
    if (flags) this.ledger.noLongerThere(id, 'flag', new Set(flags.map((flag) => flag.feature)));
    if (segments) {
      this.ledger.noLongerThere(id, 'segment', new Set(segments.map((segment) => segment.identifier)));
    }
  }

  private async readWhole(): Promise<Read> {
    const asOf = this.asOf(performance.now());
    const config = await this.upstream.environment(this.id, this.signal);
    if (config) return { fetched: this.fetched(await this.completed(config)), asOf };
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
        if (known.apiKeys.get(fact.apiKey)?.value) return this.noNews(fact);
        // It may be late, and the key revoked since.
        if (known.apiKeys.has(fact.apiKey)) this.laterRead.want();
        return [fact];
      case 'ApiKeyRemoved': {
        const entry = known.apiKeys.get(fact.apiKey);
        return entry && !entry.value ? this.noNews(fact) : [fact];
      }
      case 'EnvironmentRemoved':
      case 'EnvironmentAdded':
      case 'FlagPublished':
      case 'SegmentPublished':
        return [fact];
    }
  }

  /** It was so, and still is: what was read before is older. */
  private noNews(fact: EnvironmentFact): readonly [] {
    this.ledger.recentPast.heardAgain(fact);
    return [];
  }

  private removal(
    fact: Extract<EnvironmentFact, { version: number }>,
    entry: { value?: { version?: number | null | undefined } | undefined } | undefined,
    kind: ListKind,
  ): readonly EnvironmentFact[] {
    if (entry && !entry.value) return this.noNews(fact);
    const version = entry?.value?.version ?? 0;
    if ((fact.version > 0 && fact.version < version) || this.beganAnew(fact)) {
      // It may tell of a life before the one that is known. What is so now, reads will say; the first of them may lag.
      this.reads[kind].want();
      this.laterRead.want();
      return [];
    }
    // So may this, and what was made anew be removed with it: a read will bring it back.
    if (entry && fact.version > version) this.laterRead.want();
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
