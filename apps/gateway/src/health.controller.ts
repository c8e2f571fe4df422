import { Controller, Get, Header, Inject } from '@nestjs/common';

import { UpstreamStatus } from '#libs/observability';
import { StateStore } from '#libs/state-store';

/** The Go relay's health document (protocol §4.4): always 200, its content tells. */
@Controller()
export class HealthController {
  constructor(
    @Inject(UpstreamStatus) private readonly upstream: UpstreamStatus,
    @Inject(StateStore) private readonly store: StateStore,
  ) {}

  @Get('health')
  @Header('cache-control', 'no-store')
  health() {
    const { configStatus, streamStatus } = this.upstream;
    return { configStatus, streamStatus, cacheStatus: this.store.reachable ? 'healthy' : 'unhealthy' };
  }
}
