import {
  Body,
  Controller,
  Get,
  HttpCode,
  Inject,
  Logger,
  Param,
  Post,
  Query,
  Req,
  Res,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';

import { RelayConfig } from '#libs/config';
import type { EnvironmentState } from '#libs/domain';
import type { Target } from '#libs/evaluation';
import { UpstreamStatus } from '#libs/observability';
import type { SignedInTarget } from '#libs/saas-client';

import { EnvironmentBytes } from './environment-bytes.js';
import { EnvironmentViews } from './environment-views.js';
import { GatewayTelemetry } from './gateway-telemetry.js';
import { MetricsIntake } from './metrics-intake.js';
import type { ReadyAnswer } from './ready-answer.js';
import { RememberedTargets } from './remembered-targets.js';
import { SdkAccess } from './sdk-access.js';
import { SdkError } from './sdk-error.js';
import { SdkEvaluations } from './sdk-evaluations.js';
import { type SdkTarget, signInTarget, targetIn } from './sdk-target.js';
import { TargetForwarder } from './target-forwarder.js';

const signIn = z.looseObject({ apiKey: z.string().min(1), target: signInTarget });

const JSON_TYPE = 'application/json; charset=utf-8';
/** The body of an answer that has nothing to say. */
const NOTHING = Buffer.from('null');

/** SDKs send the same header with every request. */
const WARN_EVERY_MS = 60_000;

/** What SDKs ask for (protocol §4.1, §4.2, §4.4): sign-in, reads that are answered with bytes that are ready, and a place for counts. */
@Controller()
export class ClientApiController {
  private readonly logger = new Logger('Gateway');
  private warnedAt = Number.NEGATIVE_INFINITY;

  constructor(
    @Inject(SdkAccess) private readonly access: SdkAccess,
    @Inject(EnvironmentBytes) private readonly bytes: EnvironmentBytes,
    @Inject(EnvironmentViews) private readonly views: EnvironmentViews,
    @Inject(MetricsIntake) private readonly intake: MetricsIntake,
    @Inject(RememberedTargets) private readonly remembered: RememberedTargets,
    @Inject(TargetForwarder) private readonly forwarder: TargetForwarder | undefined,
    @Inject(UpstreamStatus) private readonly upstream: UpstreamStatus,
    @Inject(SdkEvaluations) private readonly evaluations: SdkEvaluations,
    @Inject(GatewayTelemetry) private readonly telemetry: GatewayTelemetry,
    @Inject(RelayConfig) private readonly config: RelayConfig,
  ) {}

  @Post('client/auth')
  @HttpCode(200)
  signIn(@Body() body: unknown, @Req() request: FastifyRequest): { authToken: string } {
    const read = signIn.safeParse(body);
    if (!read.success) {
      const faults = read.error.issues.map(
        ({ path, message }) => `${path.join('.') || 'the body'}: ${message}`,
      );
      throw new SdkError(400, `bad request: ${faults.join('; ')}`);
    }
    const { apiKey, target } = read.data;
    const { authToken, environment } = this.access.signIn(apiKey, Date.now());
    this.telemetry.letIn(request, environment);
    if (target) {
      const known = signedIn(target);
      this.remembered.remember(environment, known);
      this.forwarder?.offer(apiKey, known);
    }
    return { authToken };
  }

  @Get('client/env/:environment/feature-configs')
  flags(
    @Param('environment') environment: string,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const { state } = this.access.authoriseFor(environment, request.headers.authorization);
    return this.send(request, reply, this.bytes.flags(state));
  }

  @Get('client/env/:environment/feature-configs/:identifier')
  async flag(
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const state = await this.newest(environment, request);
    await this.send(request, reply, this.bytes.flag(state, identifier) ?? notFound(`flag ${identifier}`));
  }

  /** Whether the reader knows AND rules, as it says, and shall get them. */
  private andRules(rules: unknown): boolean {
    return rules === 'v2' && this.config.andRules;
  }

  @Get('client/env/:environment/target-segments')
  segments(
    @Param('environment') environment: string,
    @Query('rules') rules: unknown,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const { state } = this.access.authoriseFor(environment, request.headers.authorization);
    return this.send(request, reply, this.bytes.segments(state, this.andRules(rules)));
  }

  @Get('client/env/:environment/target-segments/:identifier')
  async segment(
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
    @Query('rules') rules: unknown,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const state = await this.newest(environment, request);
    const answer = this.bytes.segment(state, identifier, this.andRules(rules));
    await this.send(request, reply, answer ?? notFound(`target group ${identifier}`));
  }

  /** `…/<target>/evaluations` and `…/<target>/evaluations/<flag>`. SDKs do not encode the target: it may have slashes. */
  @Get('client/env/:environment/target/*')
  async evaluationsFor(
    @Param('environment') environment: string,
    @Param('*') path: string,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const [, identifier, flag] = /^(.+?)\/evaluations(?:\/([^/]+))?$/s.exec(path) ?? [];
    if (identifier === undefined) throw new SdkError(404, `not found: GET ${request.url.split('?')[0]}`);
    // The list too: SDKs ask for all of it when they are told of a target group.
    const state = await this.newest(environment, request);
    const target = this.targetOf(environment, identifier, request.headers['harness-target']);
    const answer =
      flag === undefined ? this.evaluations.all(state, target) : this.evaluations.one(state, flag, target);
    await this.send(request, reply, answer ?? notFound(`flag ${flag}, or a variation of it`));
  }

  /** The header says most, and what cannot be read of it is no reason to show a page without flags. */
  private targetOf(environment: string, identifier: string, header: string | string[] | undefined): Target {
    const told = typeof header === 'string' ? targetIn(header) : undefined;
    if (told) return signedIn(told);
    if (header !== undefined && Date.now() - this.warnedAt > WARN_EVERY_MS) {
      this.warnedAt = Date.now();
      this.logger.warn(
        `An SDK of ${environment} sends a header Harness-Target that is no target in base64; its target is taken from its sign-in, or has no attributes`,
      );
    }
    return this.remembered.target(environment, identifier) ?? { identifier };
  }

  /** SDKs ask for one entity when they were told of it, maybe by another gateway: what that one knew is known here then. */
  private async newest(environment: string, { headers }: FastifyRequest): Promise<EnvironmentState> {
    this.access.authoriseFor(environment, headers.authorization);
    await this.views.level();
    return this.access.authoriseFor(environment, headers.authorization).state;
  }

  /** Called while the views are as they were when the answer was taken from them. */
  private async send({ headers }: FastifyRequest, reply: FastifyReply, answer: ReadyAnswer): Promise<void> {
    const { position } = this.views;
    const ageS = this.upstream.dataAgeS;
    const representation = await answer.in(headers['accept-encoding']);
    const { bytes, tag, encoding } = representation;
    const held = headers['if-none-match'] && answer.heldAs(headers['if-none-match'], representation);
    void reply.headers({
      'cache-control': 'no-cache',
      vary: 'Accept-Encoding',
      etag: held && held !== '*' ? held : tag,
      ...(position && { 'ff-position': `${position.epoch}:${position.sequence}` }),
      ...(ageS !== undefined && { 'ff-data-age': String(ageS) }),
    });
    if (held) void reply.status(304).send();
    else {
      if (encoding) void reply.header('content-encoding', encoding);
      void reply.header('content-type', JSON_TYPE).send(bytes);
    }
  }

  /** The body comes unread: nothing of it is kept before it is known who sends it. */
  @Post('metrics/:environment')
  @HttpCode(200)
  async metrics(
    @Param('environment') environment: string,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    this.access.authoriseFor(environment, request.headers.authorization);
    await this.intake.take(environment, request.raw);
    void reply.headers({ 'content-type': JSON_TYPE, 'cache-control': 'no-cache' }).send(NOTHING);
  }
}

function signedIn({ identifier, name, anonymous, attributes }: SdkTarget): SignedInTarget {
  return {
    identifier,
    name: name || identifier,
    ...(typeof anonymous === 'boolean' && { anonymous }),
    ...(attributes && { attributes }),
  };
}

function notFound(what: string): never {
  throw new SdkError(404, `not found: ${what}`);
}
