import { Controller, Get, Headers, Inject, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';

import { NoticeHub } from './notice-hub.js';
import { SdkAccess } from './sdk-access.js';
import { SdkError } from './sdk-error.js';
import { UpstreamLoss } from './upstream-loss.js';

/** The event stream of an SDK (protocol §4.3). */
@Controller()
export class StreamController {
  constructor(
    @Inject(SdkAccess) private readonly access: SdkAccess,
    @Inject(NoticeHub) private readonly hub: NoticeHub,
    @Inject(UpstreamLoss) private readonly loss: UpstreamLoss,
  ) {}

  @Get('stream')
  open(
    @Headers('authorization') authorization: string | undefined,
    @Headers('api-key') key: string | undefined,
    @Headers('last-event-id') lastEventId: string | undefined,
    @Req() { method }: FastifyRequest,
    @Res() reply: FastifyReply,
  ): void {
    const { state, apiKey } = this.access.authoriseStream(authorization, key);
    if (this.loss.closesStreams) throw later('SaaS stream disconnected: streaming endpoint disabled');
    if (!this.hub.takes(state.id, apiKey)) throw later('this gateway takes no more streams now');
    if (!reply.raw.socket) {
      throw new SdkError(400, 'bad request: a stream needs a connection on which nothing is under way');
    }
    reply.hijack();
    reply.raw.writeHead(200, {
      ...(reply.getHeaders() as Record<string, string>),
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      connection: 'close',
    });
    if (method === 'HEAD') {
      reply.raw.end();
      return;
    }
    reply.raw.flushHeaders();
    this.hub.add(state.id, apiKey, reply.raw, lastEventId);
  }
}

function later(message: string): SdkError {
  return new SdkError(503, message, { 'retry-after': '10' });
}
