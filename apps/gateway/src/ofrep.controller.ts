import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';

import { Catch, Controller, HttpCode, Inject, Param, Post, Req, Res, UseFilters } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';

import { RelayConfig } from '#libs/config';
import { type EnvironmentState, flagIn } from '#libs/domain';
import type { Answer, Target } from '#libs/evaluation';
import { UpstreamStatus } from '#libs/observability';

import { EnvironmentViews } from './environment-views.js';
import { Evaluator } from './evaluator.js';
import { GatewayTelemetry } from './gateway-telemetry.js';
import { type OfrepEntry, ofrepEntry, OfrepFault, targetInContext } from './ofrep-payloads.js';
import { type Access, SdkAccess } from './sdk-access.js';
import { SdkError, SdkErrorFilter } from './sdk-error.js';
import { EVENTS } from './stream.controller.js';

const FLAGS = 'ofrep/v1/evaluate/flags';

/** Says what went wrong in the words of OFREP. */
@Catch()
class OfrepErrorFilter extends SdkErrorFilter {
  protected override bodyOf(
    exception: unknown,
    { params }: FastifyRequest,
    _status: number,
    message: string,
  ) {
    const { key } = (params ?? {}) as { key?: string };
    return {
      ...(key !== undefined && { key }),
      errorCode: exception instanceof OfrepFault ? exception.code : 'GENERAL',
      errorDetails: message,
    };
  }
}

/** Evaluations for OpenFeature SDKs, by the OpenFeature Remote Evaluation Protocol. */
@Controller()
@UseFilters(OfrepErrorFilter)
export class OfrepController {
  /** What is said of an answer. It lives as long as its flag is not changed. */
  private readonly entries = new WeakMap<Answer, OfrepEntry>();

  constructor(
    @Inject(SdkAccess) private readonly access: SdkAccess,
    @Inject(Evaluator) private readonly evaluator: Evaluator,
    @Inject(EnvironmentViews) private readonly views: EnvironmentViews,
    @Inject(UpstreamStatus) private readonly upstream: UpstreamStatus,
    @Inject(GatewayTelemetry) private readonly telemetry: GatewayTelemetry,
    @Inject(RelayConfig) private readonly config: RelayConfig,
  ) {}

  @Post(FLAGS)
  @HttpCode(200)
  async all(@Req() request: FastifyRequest, @Res() reply: FastifyReply): Promise<void> {
    // A provider may have been told of a change by another gateway.
    const { access, target } = await this.asked(request, () => this.views.level());
    const { state } = access;
    const entries = this.evaluator.evaluateAll(state, target).map((answer) => this.entryOf(state, answer));
    const flags = `[${entries.map(({ text }) => `${text}}}`).join(',')}]`;
    const streams = this.eventStreams(access);
    // A weak one, since it says nothing of the metadata: that is new each second.
    const tag = `W/"${createHash('sha256').update(flags).update(streams).digest('base64url')}"`;
    void reply.header('etag', tag);
    const metadata = JSON.stringify(this.standing());
    if (isHeld(tag, request.headers['if-none-match'])) this.send(reply, 304);
    else this.send(reply, 200, `{"flags":${flags},"metadata":${metadata},"eventStreams":${streams}}`);
  }

  @Post(`${FLAGS}/:key`)
  @HttpCode(200)
  async one(
    @Param('key') key: string,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const { access, target } = await this.asked(request);
    const { state } = access;
    const answer = this.evaluator.evaluate(state, key, target);
    if (!answer) throw new OfrepFault('FLAG_NOT_FOUND', `there is no flag ${key}`);
    const { text, hasValue } = this.entryOf(state, answer);
    const standing = JSON.stringify(this.standing()).slice(1);
    this.send(reply, hasValue ? 200 : 400, `${text}${standing === '}' ? '' : ','}${standing}}`);
  }

  /** The body is read once it is known who sends it. @param waited before it is said what they may read */
  private async asked(
    request: FastifyRequest,
    waited?: () => Promise<void>,
  ): Promise<{ readonly access: Access; readonly target: Target }> {
    const { headers, raw } = request;
    const key = headers['x-api-key'];
    const authorise = () =>
      this.access.authoriseKey(headers.authorization, typeof key === 'string' ? key : undefined);
    this.telemetry.letIn(request, authorise().state.id);
    const target = targetInContext(await textOf(raw, this.config.ofrepBodyLimitBytes));
    await waited?.();
    return { access: authorise(), target };
  }

  /** Where a provider hears that it should ask again: an address without origin, since a gateway does not know its own. */
  private eventStreams(access: Access): string {
    const requestUri = `/${EVENTS}?token=${this.access.eventsToken(access)}`;
    return JSON.stringify([{ type: 'sse', endpoint: { requestUri } }]);
  }

  private entryOf(state: EnvironmentState, answer: Answer): OfrepEntry {
    let entry = this.entries.get(answer);
    if (entry === undefined) {
      entry = ofrepEntry(answer, flagIn(state, answer.flag)?.version);
      this.entries.set(answer, entry);
    }
    return entry;
  }

  /** How new the answer is. */
  private standing(): { readonly position?: string; readonly dataAgeSeconds?: number } {
    const { position } = this.views;
    const { dataAgeS } = this.upstream;
    return {
      ...(position && { position: `${position.epoch}:${position.sequence}` }),
      ...(dataAgeS !== undefined && { dataAgeSeconds: dataAgeS }),
    };
  }

  private send(reply: FastifyReply, status: number, body?: string): void {
    const { position, dataAgeSeconds } = this.standing();
    void reply.status(status).headers({
      'cache-control': 'no-cache',
      ...(position !== undefined && { 'ff-position': position }),
      ...(dataAgeSeconds !== undefined && { 'ff-data-age': String(dataAgeSeconds) }),
    });
    if (body === undefined) void reply.send();
    else void reply.header('content-type', 'application/json; charset=utf-8').send(body);
  }
}

function isHeld(tag: string, held = ''): boolean {
  const tags = held.split(',').map((each) => each.trim());
  return tags.some((each) => each === '*' || each.replace(/^W\//, '') === tag.slice(2));
}

/** Throws SdkError. */
async function textOf(body: Readable, limitBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limitBytes) break;
      chunks.push(chunk);
    }
  } catch {
    throw new SdkError(400, 'the body broke off');
  }
  if (size <= limitBytes) return Buffer.concat(chunks).toString();
  // Whoever is still sending must be able to read the answer.
  body.resume();
  throw new SdkError(413, `the body is larger than ${limitBytes} bytes (OFREP_BODY_LIMIT)`);
}
