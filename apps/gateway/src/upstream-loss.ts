import type { UpstreamStatus } from '#libs/observability';

import type { NoticeHub } from './notice-hub.js';

const LOOK_MS = 500;

/** The Go relay's way, where that is set: no SDK has a stream while the upstream is away, so all of them poll. */
export class UpstreamLoss {
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly status: UpstreamStatus,
    private readonly hub: NoticeHub,
    private readonly isSet: boolean,
  ) {}

  get closesStreams(): boolean {
    return this.isSet && this.status.streamStatus.state !== 'CONNECTED';
  }

  start(): void {
    if (!this.isSet) return;
    this.timer = setInterval(() => {
      if (this.closesStreams) this.hub.endAll();
    }, LOOK_MS);
  }

  stop(): void {
    clearInterval(this.timer);
  }
}
