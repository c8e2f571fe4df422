import { Controller, Get, Headers, Inject, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';

import { NoticeHub } from './notice-hub.js';
import { type Access, SdkAccess } from './sdk-access.js';
import { SdkError } from './sdk-error.js';
import type { Reader } from './stream-events.js';
import { UpstreamLoss } from './upstream-loss.js';

/** Of OpenFeature providers. */
export const EVENTS = 'ofrep/v1/events';

/** The event streams of Harness SDKs (protocol §4.3) and of OpenFeature providers (OFREP 0.3). */
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
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): void {
    this.begin(this.access.authoriseStream(authorization, key), 'harness', lastEventId, request, reply);
  }

  /** Answers of OFREP name the address, with its token. */
  @Get(EVENTS)
  openForOpenFeature(
    @Query('token') token: unknown,
    @Headers('last-event-id') lastEventId: string | undefined,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): void {
    const access = this.access.authoriseEvents(typeof token === 'string' ? token : undefined);
    this.begin(access, 'openfeature', lastEventId, request, reply);
  }

  private begin(
    { state, apiKey }: Access,
    reader: Reader,
    lastEventId: string | undefined,
    { method }: FastifyRequest,
    reply: FastifyReply,
  ): void {
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
    this.hub.add({ environment: state.id, apiKey, reader }, reply.raw, lastEventId);
  }
}

function later(message: string): SdkError {
  return new SdkError(503, message, { 'retry-after': '10' });
}
