import { Logger } from '@nestjs/common';

import { type EventLog, whileLeading } from '#libs/event-log';
import { type PartStatus, UPSTREAM_NOTE, type UpstreamStatus } from '#libs/observability';
import { pause } from '#libs/saas-client';

import type { IngestorRecord } from './ingestor-record.js';
import type { SetAside } from './ledger.js';

/** How often the link to the upstream is told to the gateways of other processes. */
const REPORT_INTERVAL_MS = 2000;

/** What writes facts while it leads: from an upstream, or from a directory. */
export interface Leader {
  /** Works until the signal aborts. */
  run(leading: AbortSignal): Promise<void>;
  /** Whether the log has held the whole account. */
  readonly isComplete: boolean;
  /** The UUIDs of the environments that exist. */
  readonly knownEnvironments: readonly string[];
  /** What the log does not take. */
  readonly setAside: readonly SetAside[];
  proxyKeyChanged?(): void;
  /** What only it has to tell. */
  details?(): object;
}

/** Of several ingestors one leads: it writes facts, and tells the others how the link to the upstream stands. */
export class IngestorLead {
  private readonly logger = new Logger(IngestorLead.name);
  private readonly stopping = new AbortController();
  private leader: Leader | undefined;
  private work: Promise<void> | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly upstream: UpstreamStatus,
    private readonly record: IngestorRecord,
    private readonly create: () => Leader,
  ) {}

  start(): void {
    this.work = whileLeading(this.log, 'ingestor', this.stopping.signal, (leading) => this.lead(leading));
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  /** There is a new proxy key. */
  proxyKeyChanged(): void {
    this.leader?.proxyKeyChanged?.();
  }

  get isLeading(): boolean {
    return this.leader !== undefined;
  }

  /** What the log does not take. */
  get setAside(): readonly SetAside[] {
    return this.leader?.setAside ?? [];
  }

  status(): PartStatus {
    return {
      // One that stands by is ready. One that leads is, once the log has held the whole account.
      ready: this.leader?.isComplete ?? true,
      leading: this.isLeading,
      upstream: this.upstream.snapshot(),
      log: this.log.reachable ? 'reachable' : 'unreachable',
      setAside: this.setAside,
      ...(this.leader && this.record.status(this.leader.knownEnvironments)),
      ...this.leader?.details?.(),
    };
  }

  private async lead(leading: AbortSignal): Promise<void> {
    this.logger.log('This ingestor leads');
    this.leader = this.create();
    this.upstream.reporting = true;
    await Promise.all([this.leader.run(leading), this.report(leading)]);
    this.upstream.reporting = false;
    this.leader = undefined;
  }

  private async report(leading: AbortSignal): Promise<void> {
    while (!leading.aborted) {
      // Nobody waits for it, and the next one says it again.
      await this.log.remember(UPSTREAM_NOTE, this.upstream.snapshot()).catch(() => undefined);
      await pause(REPORT_INTERVAL_MS, leading);
    }
  }
}
