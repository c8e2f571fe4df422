import { Controller, Get, Inject, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

import { RelayConfig } from '#libs/config';
import { Telemetry } from '#libs/observability';

import { GatewayWorker } from './gateway-worker.js';
import { SdkError } from './sdk-error.js';

/** Anybody may ask here, and as often as they like. */
const KEPT_MS = 1000;

/** The Go relay's place for Prometheus, unless it has a port of its own. */
@Controller()
export class PrometheusController {
  constructor(
    @Inject(Telemetry) private readonly telemetry: Telemetry,
    @Inject(GatewayWorker) private readonly worker: GatewayWorker | undefined,
    @Inject(RelayConfig) private readonly config: RelayConfig,
  ) {}

  @Get('metrics')
  async metrics(@Res() reply: FastifyReply): Promise<void> {
    if (this.config.prometheusPort !== undefined) {
      throw new SdkError(404, 'not found: the metrics are on a port of their own');
    }
    await reply
      .headers({ 'content-type': Telemetry.CONTENT_TYPE, 'cache-control': 'no-store' })
      .send(await (this.worker ?? this.telemetry).page(KEPT_MS));
  }
}
