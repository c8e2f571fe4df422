import { Controller, Get, Header, Inject } from '@nestjs/common';

import { UpstreamStatus } from '#libs/observability';

/** The Go relay's health document (protocol §4.4): always 200, its content tells. */
@Controller()
export class HealthController {
  constructor(@Inject(UpstreamStatus) private readonly upstream: UpstreamStatus) {}

  @Get('health')
  @Header('cache-control', 'no-store')
  health() {
    const { configStatus, streamStatus } = this.upstream;
    return { configStatus, streamStatus, cacheStatus: 'healthy' };
  }
}
