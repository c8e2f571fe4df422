import { Logger } from '@nestjs/common';

import { type Bundle, BundleError, glanceAt, readBundle } from '#libs/bundle';
import { type EnvironmentFact, reconcile } from '#libs/domain';
import type { EventLog } from '#libs/event-log';
import type { UpstreamStatus } from '#libs/observability';
import { pause } from '#libs/saas-client';

import type { Leader } from './ingestor-lead.js';
import type { IngestorRecord } from './ingestor-record.js';
import { Ledger, type SetAside } from './ledger.js';

const LOOK_EVERY_MS = 500;
/** Looks at a directory of a thousand environments take no more than a twentieth of a core. */
const REST_AFTER_LOOK = 20;
/** Whoever copies files pauses for less. */
const SETTLED_MS = 3000;
/** The part of the record that is about the directory. */
const BUNDLE = 'bundle';

export interface BundleIngestorOptions {
  readonly directory: string;
  /** How often the log is compared with the directory although nothing in it changed. */
  readonly rereadMs: number;
  /** How often the directory is looked at; half a second, if left out. */
  readonly lookEveryMs?: number;
  /** How long a directory without a manifest must be at rest before it is read; 3 s, if left out. */
  readonly settledMs?: number;
}

/**
 * Turns a directory of offline configuration into facts, in the place of an upstream.
 *
 * The directory is looked at all the time and read when it changed: as a whole, or not at all. What is read is not in
 * doubt, as a read of the upstream may be, so what differs from the log is appended at once. A directory that is refused
 * changes nothing; why it is refused is told once, and in /status for as long as it lasts.
 */
export class BundleIngestor implements Leader {
  private readonly logger = new Logger(BundleIngestor.name);
  private readonly ledger: Ledger;
  /** What the last look saw, and since when, as `performance.now()` tells it. */
  private seen = { text: '', at: 0 };
  /** What was seen when the directory was last taken over or refused, and when that was. */
  private decided: { readonly text: string; readonly at: number } | undefined;
  private loaded: { readonly bundle: Omit<Bundle, 'environments'>; readonly at: number } | undefined;
  private refusal: { readonly reason: string; readonly since: number } | undefined;
  private failures = 0;

  constructor(
    log: EventLog,
    private readonly upstream: UpstreamStatus,
    private readonly record: IngestorRecord,
    private readonly options: BundleIngestorOptions,
  ) {
    this.ledger = new Ledger(log, Date.now, (fact) => record.appended(fact));
  }

  /** Whether the log has held a whole directory, or a whole account. */
  get isComplete(): boolean {
    return this.ledger.snapshotCompleted;
  }

  get knownEnvironments(): readonly string[] {
    return this.ledger.environments();
  }

  get setAside(): readonly SetAside[] {
    return this.ledger.setAside;
  }

  details(): object {
    const { position, time, writtenAt } = this.loaded?.bundle.manifest ?? {};
    return {
      ...(!this.isComplete && this.refusal && { notReadyBecause: this.refusal.reason }),
      bundle: {
        directory: this.options.directory,
        loadedAt: this.loaded?.at ?? null,
        ...(writtenAt !== undefined && { position, time, writtenAt }),
        refused: this.refusal ?? null,
      },
    };
  }

  async run(leading: AbortSignal): Promise<void> {
    const { lookEveryMs = LOOK_EVERY_MS } = this.options;
    let following: Promise<void> | undefined;
    while (!leading.aborted) {
      const begunAt = performance.now();
      try {
        if (!following) {
          await this.ledger.load();
          following = this.ledger.follow(leading, () => {
            this.logger.warn('The log was lost, in whole or in part; it is filled again from CONFIG_DIR');
            this.decided = undefined;
          });
        }
        await this.look();
      } catch (error) {
        // The log is away, or somebody else writes to it: what differs is found again at the next look.
        this.fails(String(error), lookEveryMs);
      }
      await pause(Math.max(lookEveryMs, REST_AFTER_LOOK * (performance.now() - begunAt)), leading);
    }
    await following;
    this.record.stopped();
  }

  private async look(): Promise<void> {
    const { directory, rereadMs } = this.options;
    const now = performance.now();
    const glance = await glanceAt(directory);
    if (glance.text !== this.seen.text) this.seen = { text: glance.text, at: now };
    if (glance.text === this.decided?.text && now - this.decided.at < rereadMs) {
      if (!this.refusal) this.upstream.agreed();
      return;
    }
    // A manifest says itself whether all is there.
    if (!glance.hasManifest && !this.isSettled(glance.changedMs, now)) return;
    const begunAt = performance.now();
    try {
      const bundle = await readBundle(directory);
      if ((await glanceAt(directory)).text !== glance.text) return;
      if (this.decided && glance.text === this.decided.text) await this.ledger.load();
      await this.take(bundle, begunAt);
    } catch (error) {
      if (!(error instanceof BundleError)) throw error;
      this.refuse(error.message);
    }
    this.decided = { text: glance.text, at: now };
  }

  private isSettled(changedMs: number, now: number): boolean {
    const { settledMs = SETTLED_MS } = this.options;
    return now - this.seen.at >= settledMs || Date.now() - changedMs >= settledMs;
  }

  /** Appends what differs from the log: first what is gone, so that an SDK key that moved is let in where it is now. */
  private async take({ environments, manifest }: Bundle, begunAt: number): Promise<void> {
    const ids = new Set(environments.map(({ id }) => id));
    const gone = this.ledger.environments().filter((id) => !ids.has(id));
    const differing = environments.map((environment) =>
      reconcile(this.ledger.environment(environment.id), environment),
    );
    const revoked = differing.flat().filter(({ type }) => type === 'ApiKeyRemoved');
    await this.ledger.append([
      ...gone.map((environment) => ({ type: 'EnvironmentRemoved', environment }) as const),
      ...revoked,
    ]);
    for (const [i, facts] of differing.entries()) {
      await this.ledger.append(facts.filter(({ type }) => type !== 'ApiKeyRemoved'));
      this.forgetSetAside(environments[i]);
    }
    if (!this.ledger.snapshotCompleted) {
      const account = environments.find((environment) => environment.account !== undefined)?.account ?? '';
      await this.ledger.append([{ type: 'SnapshotCompleted', account, environments: environments.length }]);
    }
    const found: EnvironmentFact['type'][] = [
      ...gone.map(() => 'EnvironmentRemoved' as const),
      ...differing.flat().map(({ type }) => type),
    ];
    this.succeeds();
    for (const id of ids) this.record.environmentAgreed(id);
    this.record.lastComparison = {
      at: Date.now(),
      tookMs: Math.round(performance.now() - begunAt),
      environments: environments.length,
      found: Object.fromEntries(
        [...Map.groupBy(found, (type) => type)].map(([type, of]) => [type, of.length]),
      ),
    };
    if (!this.loaded || found.length > 0) {
      const as = manifest ? `, as of ${manifest.time}` : '';
      this.logger.log(
        `${this.options.directory} is served: ${environments.length} environments${as}, ${found.length} differences`,
      );
    }
    this.loaded = { bundle: { manifest }, at: Date.now() };
    this.upstream.stream('CONNECTED');
    this.upstream.agreed();
  }

  private forgetSetAside(environment: Bundle['environments'][number] | undefined): void {
    if (!environment) return;
    const { id, flags, segments } = environment;
    this.ledger.noLongerThere(id, 'flag', new Set(flags.map(({ feature }) => feature)));
    this.ledger.noLongerThere(id, 'segment', new Set(segments.map(({ identifier }) => identifier)));
  }

  private refuse(reason: string): void {
    if (this.refusal?.reason !== reason) {
      this.refusal = { reason, since: this.refusal?.since ?? Date.now() };
      this.logger.error(
        this.isComplete
          ? `${reason}. What was known before is served until it is put right`
          : `${reason}. There is nothing to serve until it is put right`,
      );
    }
    if (this.isComplete) this.upstream.stream('CONNECTED');
    this.fails(reason, this.options.rereadMs);
  }

  private fails(reason: string, waitMs: number): void {
    if (!this.refusal && this.record.failing.get(BUNDLE)?.reason !== reason)
      this.logger.warn(`${reason}; trying again`);
    this.record.comparisons.failed++;
    this.record.fails(BUNDLE, reason, ++this.failures, waitMs);
  }

  private succeeds(): void {
    if (this.refusal) this.logger.log(`${this.options.directory} can be used again`);
    this.refusal = undefined;
    this.failures = 0;
    this.record.comparisons.agreed++;
    this.record.succeeds(BUNDLE);
  }
}
