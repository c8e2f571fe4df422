import {
  Body,
  Controller,
  Get,
  Headers,
  HttpCode,
  Inject,
  Param,
  Post,
  Query,
  Req,
  Res,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';

import type { EnvironmentState } from '#libs/domain';

import { EnvironmentBytes } from './environment-bytes.js';
import { EnvironmentViews } from './environment-views.js';
import { MetricsIntake } from './metrics-intake.js';
import { SdkAccess } from './sdk-access.js';
import { SdkError } from './sdk-error.js';

const signIn = z.looseObject({
  apiKey: z.string().min(1),
  target: z
    .looseObject({
      identifier: z.string().min(1).max(1024),
      name: z.string().max(1024).nullish(),
      anonymous: z.boolean().nullish(),
      attributes: z.record(z.string(), z.unknown()).nullish(),
    })
    .nullish(),
});

/** The body of an answer that has nothing to say. */
const NOTHING = Buffer.from('null');

/** What SDKs ask for (protocol §4.1, §4.2, §4.4): sign-in, reads that are answered with bytes that are ready, and a place for counts. */
@Controller()
export class ClientApiController {
  constructor(
    @Inject(SdkAccess) private readonly access: SdkAccess,
    @Inject(EnvironmentBytes) private readonly bytes: EnvironmentBytes,
    @Inject(EnvironmentViews) private readonly views: EnvironmentViews,
    @Inject(MetricsIntake) private readonly intake: MetricsIntake,
  ) {}

  @Post('client/auth')
  @HttpCode(200)
  signIn(@Body() body: unknown): { authToken: string } {
    const read = signIn.safeParse(body);
    if (!read.success) {
      const faults = read.error.issues.map(
        ({ path, message }) => `${path.join('.') || 'the body'}: ${message}`,
      );
      throw new SdkError(400, `bad request: ${faults.join('; ')}`);
    }
    return { authToken: this.access.signIn(read.data.apiKey, Date.now()) };
  }

  @Get('client/env/:environment/feature-configs')
  flags(
    @Param('environment') environment: string,
    @Headers('authorization') authorization: string | undefined,
    @Res() reply: FastifyReply,
  ): void {
    const { state } = this.access.authoriseFor(environment, authorization);
    send(reply, this.bytes.flags(state));
  }

  @Get('client/env/:environment/feature-configs/:identifier')
  async flag(
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
    @Headers('authorization') authorization: string | undefined,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const state = await this.newest(environment, authorization);
    send(reply, this.bytes.flag(state, identifier) ?? notFound(`flag ${identifier}`));
  }

  @Get('client/env/:environment/target-segments')
  segments(
    @Param('environment') environment: string,
    @Query('rules') rules: unknown,
    @Headers('authorization') authorization: string | undefined,
    @Res() reply: FastifyReply,
  ): void {
    const { state } = this.access.authoriseFor(environment, authorization);
    send(reply, this.bytes.segments(state, rules === 'v2'));
  }

  @Get('client/env/:environment/target-segments/:identifier')
  async segment(
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
    @Query('rules') rules: unknown,
    @Headers('authorization') authorization: string | undefined,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const state = await this.newest(environment, authorization);
    send(
      reply,
      this.bytes.segment(state, identifier, rules === 'v2') ?? notFound(`target group ${identifier}`),
    );
  }

  /** SDKs ask for one entity when they were told of it, maybe by another gateway: what that one knew is known here then. */
  private async newest(environment: string, authorization: string | undefined): Promise<EnvironmentState> {
    this.access.authoriseFor(environment, authorization);
    await this.views.level();
    return this.access.authoriseFor(environment, authorization).state;
  }

  /** The body comes unread: nothing of it is kept before it is known who sends it. */
  @Post('metrics/:environment')
  @HttpCode(200)
  async metrics(
    @Param('environment') environment: string,
    @Headers('authorization') authorization: string | undefined,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    this.access.authoriseFor(environment, authorization);
    await this.intake.take(environment, request.raw);
    send(reply, NOTHING);
  }
}

function send(reply: FastifyReply, bytes: Buffer): void {
  void reply
    .headers({ 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-cache' })
    .send(bytes);
}

function notFound(what: string): never {
  throw new SdkError(404, `not found: ${what}`);
}
