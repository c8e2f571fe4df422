import { Controller, Get, Headers, Inject, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

import { NoticeHub } from './notice-hub.js';
import { SdkAccess } from './sdk-access.js';
import { SdkError } from './sdk-error.js';

/** The event stream of an SDK (protocol §4.3). */
@Controller()
export class StreamController {
  constructor(
    @Inject(SdkAccess) private readonly access: SdkAccess,
    @Inject(NoticeHub) private readonly hub: NoticeHub,
  ) {}

  @Get('stream')
  open(
    @Headers('authorization') authorization: string | undefined,
    @Headers('api-key') key: string | undefined,
    @Res() reply: FastifyReply,
  ): void {
    const { state, apiKey } = this.access.authoriseStream(authorization, key);
    if (this.hub.full) {
      throw new SdkError(503, 'this gateway holds as many streams as it can', { 'retry-after': '10' });
    }
    reply.hijack();
    reply.raw.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      connection: 'close',
    });
    reply.raw.flushHeaders();
    this.hub.add(state.id, apiKey, reply.raw);
  }
}
