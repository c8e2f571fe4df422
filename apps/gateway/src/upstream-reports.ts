import type { EventLog } from '#libs/event-log';
import { UPSTREAM_NOTE, type UpstreamStatus } from '#libs/observability';

const INTERVAL_MS = 2000;

/** Keeps a gateway told of how the ingestor's link to the upstream stands. */
export class UpstreamReports {
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly status: UpstreamStatus,
  ) {}

  start(): void {
    void this.read();
    this.timer = setInterval(() => void this.read(), INTERVAL_MS);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private async read(): Promise<void> {
    if (this.status.reporting) return;
    try {
      this.status.adopt(await this.log.recall(UPSTREAM_NOTE));
    } catch {
      // Without the log there are no changes either; the last report ages.
      this.status.adopt(this.status.snapshot());
    }
  }
}
