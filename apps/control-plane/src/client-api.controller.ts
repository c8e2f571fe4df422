import {
  BadRequestException,
  Body,
  Controller,
  ForbiddenException,
  Get,
  Headers,
  HttpCode,
  NotFoundException,
  Param,
  Post,
  Query,
  Res,
  UnauthorizedException,
} from '@nestjs/common';
import { JwtService } from '@nestjs/jwt';
import type { Flag, Segment } from '#libs/domain';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';

import { AccountStream } from './account-stream.js';
import { type EvaluationCount, EvaluationCounts } from './evaluation-counts.js';
import { FlagRegistry, hashOf, type ProxyKey } from './flag-registry.js';
import { faultsIn, pageOf, queryNumber, validated } from './requests.js';

const SECRET = z.string().min(1).max(1024);
const AUTHENTICATION = z.object({ proxyKey: SECRET });
const CLAIMS = z.object({ key_type: z.literal('Proxy'), key: z.string(), environments: z.array(z.string()) });
const METRICS = z.object({ metricsData: z.array(z.unknown()).nullish() });
const MOST_CHARACTERS = { name: 256, sdk: 64 };
const ENTRY = z.object({
  timestamp: z.int().nonnegative(),
  count: z.int().positive(),
  attributes: z.array(z.object({ key: z.string(), value: z.string().nullish() })).transform((attributes) => {
    const valueOf = (name: string) => attributes.find(({ key }) => key === name)?.value;
    const flag = valueOf('featureIdentifier') ?? valueOf('featureName') ?? '';
    const variation = valueOf('variationIdentifier') ?? '';
    const sdk = [valueOf('SDK_LANGUAGE'), valueOf('SDK_TYPE')].filter(Boolean).join(' ');
    // SDKs name themselves and flags as they like. Cut and not refused: a report has the counts of many of them.
    return {
      flag: flag.slice(0, MOST_CHARACTERS.name),
      variation: variation.slice(0, MOST_CHARACTERS.name),
      sdk: sdk.slice(0, MOST_CHARACTERS.sdk),
    };
  }),
});
/** A report has thousands of entries, and a caller needs no more to find what is wrong. */
const MOST_FAULTS = 10;
const CONFIG_QUERY = z.object({
  key: SECRET,
  environment: z.string().max(256).optional(),
  pageNumber: queryNumber(0, 1_000_000, 0),
  pageSize: queryNumber(1, 100, 10),
});

/** What a relay calls (protocol §2 and §3). */
@Controller('api/1.0')
export class ClientApiController {
  constructor(
    private readonly registry: FlagRegistry,
    private readonly counts: EvaluationCounts,
    private readonly stream: AccountStream,
    private readonly tokens: JwtService,
  ) {}

  /** U1. The token names the environments that it opens and has no end; it dies with its key. */
  @Post('proxy/auth')
  @HttpCode(200)
  authenticate(@Body() body: unknown): { authToken: string } {
    const { proxyKey } = validated(AUTHENTICATION, body);
    const key = this.registry.proxyKey(hashOf(proxyKey));
    if (!key) throw new UnauthorizedException('This proxy key is not known here');
    const authToken = this.tokens.sign({
      cluster_identifier: '1',
      account: key.account,
      organization: key.organization,
      key_type: 'Proxy',
      key: key.hash,
      environments: key.environments,
    });
    return { authToken };
  }

  /** U2: everything, some environments a page. Groups are as `rules=v2` gives them, so that both routes agree. */
  @Get('proxy/config')
  config(@Headers('authorization') authorization: string | undefined, @Query() query: unknown) {
    const caller = this.caller(authorization);
    const { key, environment, pageNumber, pageSize } = validated(CONFIG_QUERY, query);
    requireSameKey(caller, key);
    if (environment !== undefined) requireScope(caller, environment);
    const { items, paging } = pageOf(environment ? [environment] : caller.environments, pageNumber, pageSize);
    return {
      ...paging,
      version: caller.version,
      environments: items.map((id) => ({
        id,
        apiKeys: this.registry.sdkKeys(id).map(({ hash }) => hash),
        featureConfigs: this.registry.flags(id).map(({ flag }) => flag),
        segments: this.registry.segments(id).map(asRulesV2),
      })),
    };
  }

  /** U3: what changes in the environments of the token, from now on; and that its key opens more, for which a new token is needed. */
  @Get('stream')
  follow(
    @Headers('authorization') authorization: string | undefined,
    @Headers('api-key') apiKey: string | undefined,
    @Res() reply: FastifyReply,
  ): void {
    const caller = this.caller(authorization);
    requireSameKey(caller, apiKey ?? '');
    const scope = new Set(caller.environments);
    this.stream.open(reply, ({ domain, environment, environments = [] }) => {
      // Counts are no business of relays: they would take the message for one of a kind that they do not know yet.
      if (domain === 'metrics') return false;
      if (environments.length === 0) return scope.has(environment);
      const open = this.registry.proxyKey(caller.hash)?.environments ?? [];
      return environments.some((id) => open.includes(id));
    });
  }

  /** U4. */
  @Get('client/env/:environment/feature-configs')
  flags(
    @Headers('authorization') authorization: string | undefined,
    @Param('environment') environment: string,
  ): Flag[] {
    requireScope(this.caller(authorization), environment);
    return this.registry.flags(environment).map(({ flag }) => flag);
  }

  @Get('client/env/:environment/feature-configs/:identifier')
  flag(
    @Headers('authorization') authorization: string | undefined,
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
  ): Flag {
    requireScope(this.caller(authorization), environment);
    const stored = this.registry.flag(environment, identifier);
    if (!stored) throw new NotFoundException(`Flag ${identifier} is not known in this environment`);
    return stored.flag;
  }

  /** U5. */
  @Get('client/env/:environment/target-segments')
  segments(
    @Headers('authorization') authorization: string | undefined,
    @Param('environment') environment: string,
    @Query('rules') rules: unknown,
  ): Segment[] {
    requireScope(this.caller(authorization), environment);
    return this.registry.segments(environment).map(rules === 'v2' ? asRulesV2 : asRulesV1);
  }

  @Get('client/env/:environment/target-segments/:identifier')
  segment(
    @Headers('authorization') authorization: string | undefined,
    @Param('environment') environment: string,
    @Param('identifier') identifier: string,
    @Query('rules') rules: unknown,
  ): Segment {
    requireScope(this.caller(authorization), environment);
    const segment = this.registry.segment(environment, identifier);
    if (!segment) throw new NotFoundException(`Target group ${identifier} is not known in this environment`);
    return (rules === 'v2' ? asRulesV2 : asRulesV1)(segment);
  }

  /**
   * U6. Kept when this answers, by flag, variation and kind of SDK; a count that names no flag says nothing. All of a
   * report is taken or nothing. A post has no name by which its repetition could be told, so it is counted again.
   */
  @Post('metrics/:environment')
  @HttpCode(200)
  addMetrics(
    @Headers('authorization') authorization: string | undefined,
    @Param('environment') environment: string,
    @Body() body: unknown,
  ): void {
    requireScope(this.caller(authorization), environment);
    this.counts.add(environment, countsIn(validated(METRICS, body).metricsData ?? []));
  }

  /** The proxy key of a token, with the environments that key and token have in common. */
  private caller(authorization: string | undefined): ProxyKey {
    const token = /^bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
    if (!token)
      throw new UnauthorizedException('Send the token of POST /proxy/auth as Authorization: Bearer');
    const claims = CLAIMS.safeParse(this.claimsIn(token)).data;
    const key = claims && this.registry.proxyKey(claims.key);
    if (!key) throw new UnauthorizedException('This token is not valid here. Get one from POST /proxy/auth');
    const granted = new Set(claims.environments);
    return { ...key, environments: key.environments.filter((id) => granted.has(id)) };
  }

  private claimsIn(token: string): unknown {
    try {
      return this.tokens.verify(token);
    } catch {
      return undefined;
    }
  }
}

function countsIn(entries: readonly unknown[]): EvaluationCount[] {
  const counts: EvaluationCount[] = [];
  const faults: string[] = [];
  for (const [index, entry] of entries.entries()) {
    const read = ENTRY.safeParse(entry);
    if (!read.success) faults.push(...faultsIn(read.error, 'metricsData', index));
    else {
      const { attributes, timestamp, count } = read.data;
      if (attributes.flag !== '') counts.push({ ...attributes, timestamp, count });
    }
    if (faults.length >= MOST_FAULTS) break;
  }
  if (faults.length > 0) throw new BadRequestException(faults.slice(0, MOST_FAULTS).join('; '));
  return counts;
}

function requireSameKey(caller: ProxyKey, key: string): void {
  if (hashOf(key) !== caller.hash) throw new UnauthorizedException('The token belongs to another proxy key');
}

function requireScope(caller: ProxyKey, environment: string): void {
  if (!caller.environments.includes(environment)) {
    throw new ForbiddenException('This token does not open that environment');
  }
}

/** For readers of `servingRules` (all clauses of a rule must match); a group without them keeps its `rules`. */
function asRulesV2(segment: Segment): Segment {
  if (!segment.servingRules?.length) return segment;
  const { rules: _, ...rest } = segment;
  return rest;
}

/** For readers of `rules` alone (any clause may match). */
function asRulesV1(segment: Segment): Segment {
  const { servingRules: _, ...rest } = segment;
  return rest;
}
