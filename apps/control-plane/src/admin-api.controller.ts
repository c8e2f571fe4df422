import { createHash, randomUUID, timingSafeEqual } from 'node:crypto';

import {
  BadRequestException,
  Body,
  type CanActivate,
  ConflictException,
  Controller,
  Delete,
  type ExecutionContext,
  ForbiddenException,
  Get,
  HttpCode,
  Injectable,
  NotFoundException,
  Param,
  Patch,
  Post,
  Query,
  Req,
  Res,
  UnauthorizedException,
  UnsupportedMediaTypeException,
  UseGuards,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';

import { AccountStream } from './account-stream.js';
import { ControlPlaneConfig, isLoopback } from './control-plane-config.js';
import { EvaluationCounts } from './evaluation-counts.js';
import {
  type Environment,
  type Feature,
  FlagRegistry,
  type Project,
  type StoredFeature,
  type StoredFlag,
} from './flag-registry.js';
import { IMPORT, importBodyIn, IMPORT_TYPE } from './import-body.js';
import { pageOf, queryNumber, validated } from './requests.js';

const MOST_FEATURES = 10_000;

const NAME = z.string().min(1).max(256);
/** Also a path segment and a Redis key: `.` and `..` alone would be taken for folders by HTTP clients. */
const IDENTIFIER = z
  .string()
  .regex(/^(?!\.{1,2}$)[A-Za-z0-9._$-]{1,256}$/, 'must be 1 to 256 of A-Z a-z 0-9 . _ $ -');
const ACCOUNT_SCOPE = z.object({ accountIdentifier: NAME, orgIdentifier: NAME });
const PROJECT_SCOPE = ACCOUNT_SCOPE.extend({ projectIdentifier: NAME });
const ENVIRONMENT_SCOPE = PROJECT_SCOPE.extend({ environmentIdentifier: NAME });
const PAGE = { pageNumber: queryNumber(0, 1_000_000, 0), pageSize: queryNumber(1, 1000, 100) };

/** Of one answer: some megabytes, read in a fraction of a second. */
const MOST_BUCKETS = 150_000;
/** In ms since the epoch. */
const TIME = z
  .string()
  .regex(/^\d{1,15}$/, 'must be milliseconds since 1970')
  .transform(Number);
const DIMENSIONS = ['flag', 'variation', 'sdk'] as const;
const COUNTS_QUERY = ENVIRONMENT_SCOPE.extend({
  ...PAGE,
  flag: NAME.optional(),
  variation: z.string().max(256).optional(),
  sdk: z.string().max(64).optional(),
  bucket: z.enum(['minute', 'hour', 'day']).default('hour'),
  from: TIME.optional(),
  to: TIME.optional(),
  groupBy: z
    .string()
    .default('flag,variation')
    .transform((names) => names.split(','))
    .pipe(z.array(z.enum(DIMENSIONS)))
    .transform((names) => DIMENSIONS.filter((name) => names.includes(name))),
}).refine(({ from, to }) => from === undefined || to === undefined || from < to, {
  path: ['from'],
  message: 'must be before to',
});

const FEATURE_METRICS_QUERY = ENVIRONMENT_SCOPE.extend({
  ...PAGE,
  featureIDs: z.union([NAME.transform((name) => [name]), z.array(NAME).max(1000)]).optional(),
});

const NEW_FEATURE = z
  .object({
    identifier: IDENTIFIER,
    name: NAME,
    project: NAME,
    description: z.string().max(4096).optional(),
    kind: z.enum(['boolean', 'string', 'int', 'json']),
    permanent: z.boolean().default(false),
    owner: z.string().max(256).optional(),
    tags: z
      .array(z.object({ name: NAME, identifier: NAME }))
      .max(100)
      .default([]),
    variations: z
      .array(
        z.object({
          identifier: IDENTIFIER,
          name: z.string().max(256).optional(),
          description: z.string().max(4096).optional(),
          value: z.string(),
        }),
      )
      .min(2)
      .max(100),
    defaultOnVariation: z.string(),
    defaultOffVariation: z.string(),
    prerequisites: z
      .array(z.object({ feature: IDENTIFIER, variations: z.array(IDENTIFIER).min(1).max(100) }))
      .max(100)
      .default([]),
  })
  .superRefine((feature, context) => {
    const fault = (path: (string | number)[], message: string) =>
      context.addIssue({ code: 'custom', path, message });
    const identifiers = feature.variations.map(({ identifier }) => identifier);
    for (const [index, { identifier, value }] of feature.variations.entries()) {
      if (identifiers.indexOf(identifier) < index) {
        fault(['variations', index, 'identifier'], `${identifier} is there twice`);
      }
      if (!VALUE_CHECKS[feature.kind](value))
        fault(['variations', index, 'value'], `must be text that is ${feature.kind}`);
    }
    for (const field of ['defaultOnVariation', 'defaultOffVariation'] as const) {
      if (!identifiers.includes(feature[field])) fault([field], 'must be the identifier of a variation');
    }
  });

const VALUE_CHECKS: Record<Feature['kind'], (value: string) => boolean> = {
  boolean: (value) => value === 'true' || value === 'false',
  string: () => true,
  int: (value) => /^-?\d+$/.test(value) && Number.isSafeInteger(Number(value)),
  json: (value) => {
    try {
      JSON.parse(value);
      return true;
    } catch {
      return false;
    }
  },
};

const PATCH = z.object({
  instructions: z
    .array(
      z.discriminatedUnion('kind', [
        z.object({
          kind: z.literal('setFeatureFlagState'),
          parameters: z.object({ state: z.enum(['on', 'off']) }),
        }),
      ]),
    )
    .min(1)
    .max(100),
  comment: z.string().max(4096).optional(),
});

/** Every accepted write of a flag is answered with this. */
const DONE = { details: { governanceMetadata: null } };

/**
 * Lets callers in who send ADMIN_TOKEN in x-api-key. Without ADMIN_TOKEN the process listens on this machine alone
 * and takes any token; a web page elsewhere can neither send that header across origins nor, since the Host header
 * must name this machine, rebind its own name to us.
 */
@Injectable()
export class AdminGuard implements CanActivate {
  constructor(private readonly config: ControlPlaneConfig) {}

  canActivate(context: ExecutionContext): boolean {
    const { headers, hostname } = context.switchToHttp().getRequest<FastifyRequest>();
    const expected = this.config.adminToken;
    if (expected !== undefined) {
      if (sameText(String(headers['x-api-key'] ?? ''), expected)) return true;
      throw new UnauthorizedException('Send ADMIN_TOKEN of this control plane in the header x-api-key');
    }
    if (!isLoopback(hostname.replace(/^\[(.*)\]$/, '$1').toLowerCase())) {
      throw new ForbiddenException(
        'Without ADMIN_TOKEN only http://localhost and http://127.0.0.1 may be used',
      );
    }
    if (headers['x-api-key'] || headers.authorization) return true;
    throw new UnauthorizedException(
      'Send a token in the header x-api-key (any text: ADMIN_TOKEN is not set)',
    );
  }
}

/** Compares without telling by its time how much agrees. */
const sameText = (a: string, b: string) => timingSafeEqual(digest(a), digest(b));
const digest = (text: string) => createHash('sha256').update(text).digest();

/** The part of the SaaS's admin API by which flags are seen, made, switched and removed (admin API §1, 3, 5, 7, 9). */
@UseGuards(AdminGuard)
@Controller(['gateway/cf/admin', 'cf/admin'])
export class AdminApiController {
  constructor(
    private readonly registry: FlagRegistry,
    private readonly counts: EvaluationCounts,
    private readonly stream: AccountStream,
  ) {}

  /** Ours: what changes in any environment, as the account stream tells it. The page follows this. */
  @Get('events')
  events(@Res() reply: FastifyReply): void {
    this.stream.open(reply, () => true);
  }

  @Get('projects')
  projects(@Query() query: unknown) {
    const { pageNumber, pageSize } = validated(z.object(PAGE), query);
    const { items, paging } = pageOf(this.registry.projects(), pageNumber, pageSize);
    const projects = items.map(({ account, organization, identifier, name }) => ({
      identifier,
      name,
      accountIdentifier: account,
      orgIdentifier: organization,
    }));
    return envelope({ projects, ...paging });
  }

  @Get('environments')
  environments(@Query() query: unknown) {
    const read = validated(PROJECT_SCOPE.extend(PAGE), query);
    const project = this.project(read);
    const { items, paging } = pageOf(this.registry.environments(project), read.pageNumber, read.pageSize);
    return envelope({ environments: items.map((each) => this.environmentView(project, each)), ...paging });
  }

  @Get('environments/:identifier')
  environment(@Param('identifier') identifier: string, @Query() query: unknown) {
    const project = this.project(validated(PROJECT_SCOPE, query));
    return envelope(this.environmentView(project, this.environmentNamed(project, identifier)));
  }

  @Get('features')
  features(@Query() query: unknown) {
    const read = validated(PROJECT_SCOPE.extend({ ...PAGE, environmentIdentifier: NAME.optional() }), query);
    const project = this.project(read);
    const environment =
      read.environmentIdentifier && this.environmentNamed(project, read.environmentIdentifier);
    const { items, paging } = pageOf(this.registry.features(project), read.pageNumber, read.pageSize);
    const flags = new Map(
      environment ? this.registry.flags(environment.id).map((stored) => [stored.flag.feature, stored]) : [],
    );
    return {
      features: items.map((stored) => featureView(project, stored, flags.get(stored.feature.identifier))),
      ...paging,
    };
  }

  /** What became of each flag in the last 30 days (admin API §7): never a 404, flags that are not known are left out. */
  @Get('features/metrics')
  featureMetrics(@Query() query: unknown) {
    const { featureIDs, ...read } = validated(FEATURE_METRICS_QUERY, query);
    const project = this.project(read);
    const environment = this.environmentNamed(project, read.environmentIdentifier);
    const wanted = this.registry
      .features(project)
      .filter(({ feature }) => featureIDs?.includes(feature.identifier) ?? true);
    const { items } = pageOf(wanted, read.pageNumber, read.pageSize);
    const shown = new Set(items.map(({ feature }) => feature.identifier));
    const groups = this.counts
      .groups(environment.id, {}, ['flag', 'variation'])
      .filter(({ names }) => shown.has(names.flag ?? ''));
    const totals = this.counts
      .inTime(groups, this.counts.rangeOf('day'))
      .map((counts) => counts.reduce((sum, { count }) => sum + count, 0));
    const byFlag = Map.groupBy(
      groups.map(({ names, lastAccess }, index) => ({ ...names, lastAccess, total: totals[index] ?? 0 })),
      ({ flag }) => flag,
    );
    return items.map(({ feature }) => metricsView(feature, byFlag.get(feature.identifier) ?? []));
  }

  @Get('features/:identifier')
  feature(@Param('identifier') identifier: string, @Query() query: unknown) {
    const read = validated(PROJECT_SCOPE.extend({ environmentIdentifier: NAME.optional() }), query);
    const project = this.project(read);
    const environment =
      read.environmentIdentifier && this.environmentNamed(project, read.environmentIdentifier);
    const stored = this.registry.feature(project, identifier);
    if (!stored) throw unknownFlag(identifier);
    return featureView(
      project,
      stored,
      environment ? this.registry.flag(environment.id, identifier) : undefined,
    );
  }

  @Post('features')
  create(@Query() query: unknown, @Body() body: unknown) {
    const scope = validated(ACCOUNT_SCOPE, query);
    const { project: projectIdentifier, ...feature } = validated(NEW_FEATURE, body);
    const project = this.project({ ...scope, projectIdentifier });
    this.requirePrerequisites(project, feature);
    if (this.registry.featureCount(project) >= MOST_FEATURES) {
      throw new BadRequestException(
        `Project ${project.identifier} has ${MOST_FEATURES} flags, which is the most`,
      );
    }
    if (!this.registry.createFeature(project, feature)) {
      throw new ConflictException(`Flag ${feature.identifier} exists in project ${project.identifier}`);
    }
    return DONE;
  }

  @Patch('features/:identifier')
  patch(@Param('identifier') identifier: string, @Query() query: unknown, @Body() body: unknown) {
    const scope = validated(ENVIRONMENT_SCOPE, query);
    const { instructions } = validated(PATCH, body);
    const environment = this.environmentNamed(this.project(scope), scope.environmentIdentifier);
    const state = instructions.at(-1)!.parameters.state;
    if (!this.registry.changeFlag(environment.id, identifier, { state })) throw unknownFlag(identifier);
    return DONE;
  }

  @Delete('features/:identifier')
  @HttpCode(204)
  remove(@Param('identifier') identifier: string, @Query() query: unknown): void {
    const project = this.project(validated(PROJECT_SCOPE, query));
    if (!this.registry.deleteFeature(project, identifier)) throw unknownFlag(identifier);
  }

  /** Ours: takes over what a bundle says, with its ids, versions and hashes of keys; all of it or nothing. */
  @Post('import')
  @HttpCode(200)
  async import(@Req() { raw, headers }: FastifyRequest) {
    if (headers['content-type'] !== IMPORT_TYPE)
      throw new UnsupportedMediaTypeException(`Send what is imported as ${IMPORT_TYPE}`);
    const { replace, ...imported } = validated(IMPORT, await importBodyIn(raw));
    const outcome = this.registry.import(imported, replace);
    if ('proxyKeyAdded' in outcome) return outcome;
    const shown = outcome.conflicts.slice(0, 5).join('; ');
    const more = outcome.conflicts.length - 5;
    throw new ConflictException(more > 0 ? `${shown}; and ${more} more` : shown);
  }

  /** Ours: how often each variation was served, in minutes, hours or days. */
  @Get('metrics')
  metrics(@Query() query: unknown) {
    const { flag, variation, sdk, bucket, from, to, groupBy, ...read } = validated(COUNTS_QUERY, query);
    const environment = this.environmentNamed(this.project(read), read.environmentIdentifier);
    const range = this.counts.rangeOf(bucket, from, to);
    const most = Math.floor(MOST_BUCKETS / range.buckets);
    if (read.pageSize > most) {
      throw new BadRequestException(
        `pageSize: at most ${most} series of ${range.buckets} buckets each are told at once`,
      );
    }
    const groups = this.counts.groups(environment.id, { flag, variation, sdk }, groupBy);
    const { items, paging } = pageOf(groups, read.pageNumber, read.pageSize);
    const inTime = this.counts.inTime(items, range);
    const series = items.map(({ names, lastAccess }, index) => {
      const counts = inTime[index] ?? [];
      return { ...names, lastAccess, total: counts.reduce((sum, { count }) => sum + count, 0), counts };
    });
    return { bucket, from: range.from, to: range.to, series, ...paging };
  }

  private project(scope: z.infer<typeof PROJECT_SCOPE>): Project {
    const { accountIdentifier, orgIdentifier, projectIdentifier } = scope;
    const project = this.registry.project(accountIdentifier, orgIdentifier, projectIdentifier);
    if (project) return project;
    throw new NotFoundException(
      `Project ${projectIdentifier} of organization ${orgIdentifier} in account ${accountIdentifier} is not known`,
    );
  }

  private environmentNamed(project: Project, identifier: string): Environment {
    const environment = this.registry.environment(project, identifier);
    if (environment) return environment;
    throw new NotFoundException(`Environment ${identifier} is not known in project ${project.identifier}`);
  }

  private environmentView(project: Project, { id, identifier, name, type }: Environment) {
    const keys = this.registry.sdkKeys(id).map((key) => ({
      identifier: key.identifier,
      name: key.name,
      type: key.type,
      key: key.hash,
      apiKey: '*'.repeat(36),
    }));
    const { items: apiKeys, paging } = pageOf(keys, 0, Math.max(keys.length, 1));
    return {
      id,
      identifier,
      name,
      type,
      project: project.identifier,
      tags: [],
      apiKeys: { apiKeys, ...paging },
    };
  }

  private requirePrerequisites(project: Project, feature: Feature): void {
    const faults = feature.prerequisites.flatMap((prerequisite, index) => {
      const known = this.registry.feature(project, prerequisite.feature)?.feature.variations;
      if (!known) return [`prerequisites.${index}.feature: flag ${prerequisite.feature} is not known`];
      const unknown = (prerequisite.variations ?? []).filter(
        (id) => !known.some(({ identifier }) => identifier === id),
      );
      return unknown.map(
        (id) => `prerequisites.${index}.variations: ${id} is no variation of ${prerequisite.feature}`,
      );
    });
    if (faults.length > 0) throw new BadRequestException(faults.join('; '));
  }
}

const unknownFlag = (identifier: string) =>
  new NotFoundException(`Flag ${identifier} is not known in this project`);

/** Projects and environments come wrapped, everything else bare. */
const envelope = (data: object) => ({ status: 'SUCCESS', data, metaData: null, correlationId: randomUUID() });

function featureView(
  project: Project,
  { feature, createdAt, modifiedAt }: StoredFeature,
  inEnvironment?: StoredFlag,
) {
  return {
    ...feature,
    owner: feature.owner === undefined ? [] : [feature.owner],
    project: project.identifier,
    archived: false,
    createdAt,
    modifiedAt,
    ...(inEnvironment && { envProperties: environmentProperties(inEnvironment) }),
  };
}

const ACTIVE_MS = 7 * 86_400_000;

function metricsView(
  { identifier, name, variations }: Feature,
  counted: readonly { variation?: string | undefined; lastAccess: number; total: number }[],
) {
  const lastAccess = Math.max(0, ...counted.map((each) => each.lastAccess));
  const status =
    lastAccess === 0 ? 'never-requested' : Date.now() - lastAccess < ACTIVE_MS ? 'active' : 'inactive';
  return {
    identifier,
    name,
    results: variations.map((variation) => ({
      variationIdentifier: variation.identifier,
      variationName: variation.name ?? variation.identifier,
      count: counted.find((each) => each.variation === variation.identifier)?.total ?? 0,
    })),
    status: { status, lastAccess },
  };
}

function environmentProperties({ flag, modifiedAt }: StoredFlag) {
  return {
    environment: flag.environment,
    state: flag.state,
    version: flag.version,
    modifiedAt,
    offVariation: flag.offVariation,
    defaultServe: flag.defaultServe,
    rules: flag.rules ?? [],
    variationMap: flag.variationToTargetMap ?? [],
    pipelineConfigured: false,
  };
}
