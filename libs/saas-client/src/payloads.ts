/**
 * The door: what the upstream answers is checked here, and is ours from here on. Payloads are checked, not rebuilt, so
 * that unknown fields and the order of keys stay as they came. What one entity lacks does not spoil its neighbours.
 */
import { z } from 'zod';

import type { Flag, Segment } from '#libs/domain';

/** A name that can go into keys, subjects and URLs: not empty, at most 1,024 characters, whole Unicode. */
const identifier = z
  .string()
  .min(1)
  .max(1024)
  .refine((text) => text.isWellFormed(), 'is no whole Unicode text');
const version = z.int().nonnegative().nullish();
const text = z.string().nullish();
/** Documented, and of no consequence here: kept as it came. */
const asItCame = z.unknown().optional();
const apiKeyHash = z.string().regex(/^[0-9a-f]{64}$/, 'is no SHA-256 in lower-case hex');

const clause = z.looseObject({
  id: asItCame,
  attribute: z.string(),
  op: z.string(),
  values: z.array(z.string()).nullish(),
  negate: z.boolean().nullish(),
});
const serve = z.looseObject({
  variation: text,
  distribution: z
    .looseObject({
      bucketBy: z.string(),
      variations: z.array(z.looseObject({ variation: z.string(), weight: z.int() })),
    })
    .nullish(),
});
const listedTarget = z.looseObject({
  identifier: z.string(),
  name: z.string(),
  account: asItCame,
  org: asItCame,
  project: asItCame,
  environment: asItCame,
  anonymous: asItCame,
  attributes: asItCame,
  createdAt: asItCame,
  segments: asItCame,
});
const variation = z.looseObject({
  identifier: z.string(),
  value: z.string(),
  name: asItCame,
  description: asItCame,
});

const flag = z.looseObject({
  feature: identifier,
  project: z.string(),
  environment: z.string(),
  // Of a kind or state that they do not know, Java and Python SDKs cannot read the list with all the others.
  kind: z.enum(['boolean', 'int', 'string', 'json']),
  state: z.enum(['on', 'off']),
  variations: z.array(variation),
  offVariation: z.string(),
  defaultServe: serve,
  rules: z
    .array(z.looseObject({ ruleId: asItCame, priority: z.int(), clauses: z.array(clause).nullish(), serve }))
    .nullish(),
  prerequisites: z
    .array(z.looseObject({ feature: z.string(), variations: z.array(z.string()).nullish() }))
    .nullish(),
  variationToTargetMap: z
    .array(
      z.looseObject({
        variation: z.string(),
        targets: z.array(listedTarget).nullish(),
        targetSegments: z.array(z.string()).nullish(),
      }),
    )
    .nullish(),
  version,
});

const segment = z.looseObject({
  identifier,
  name: z.string(),
  environment: asItCame,
  tags: asItCame,
  createdAt: asItCame,
  modifiedAt: asItCame,
  included: z.array(listedTarget).nullish(),
  excluded: z.array(listedTarget).nullish(),
  rules: z.array(clause).nullish(),
  servingRules: z
    .array(z.looseObject({ ruleId: asItCame, priority: z.int(), clauses: z.array(clause).nullish() }))
    .nullish(),
  version,
});

const configPage = z.looseObject({
  itemCount: z.int().nonnegative(),
  pageCount: z.int().nonnegative(),
  pageIndex: asItCame,
  pageSize: asItCame,
  version: asItCame,
  environments: z.array(
    z.looseObject({
      id: identifier,
      apiKeys: z.array(z.unknown()).nullish(),
      featureConfigs: z.array(z.unknown()).nullish(),
      segments: z.array(z.unknown()).nullish(),
    }),
  ),
});

const streamMessage = z.looseObject({
  event: z.string(),
  domain: z.string(),
  identifier: z.string().nullish(),
  version,
  environment: z.string().nullish(),
  environments: z.array(identifier).nullish(),
  apiKey: z.union([apiKeyHash, z.literal('')]).nullish(),
});

/** Text that a header can carry; what `fetch` refuses as one it shows, and some of this is secret. */
const headerText = z.string().regex(/^[\x20-\x7e]*$/, 'holds characters that a header cannot carry');

const authAnswer = z.looseObject({ authToken: headerText.min(1) });

const tokenClaims = z.looseObject({
  account: headerText.nullish(),
  cluster_identifier: z.string().nullish(),
  environments: z.array(z.string()).nullish(),
});

/** A list, less the entries that cannot be used, each with what is wrong with it. */
export interface CheckedList<Item> {
  readonly items: readonly Item[];
  readonly faults: readonly string[];
}

/** An environment as `/proxy/config` tells it. What is absent was not told. */
export interface FetchedConfig {
  readonly id: string;
  readonly flags?: CheckedList<Flag> | undefined;
  readonly segments?: CheckedList<Segment> | undefined;
  readonly apiKeys?: CheckedList<string> | undefined;
}

export interface ConfigPage {
  /** Environments over all pages. */
  readonly itemCount: number;
  readonly pageCount: number;
  readonly environments: readonly FetchedConfig[];
  /** Fields that the protocol does not document, which are passed over. */
  readonly unknownFields: readonly string[];
}

/** A message of the account stream (protocol §3). Fields that do not matter to its kind are empty. */
export interface StreamMessage {
  readonly event: string;
  readonly domain: string;
  readonly identifier: string;
  readonly version: number;
  readonly environment: string;
  readonly environments: readonly string[];
  /** SHA-256, lower-case hex. */
  readonly apiKey: string;
  /** Fields that the protocol does not document, which are passed over. */
  readonly unknownFields: readonly string[];
}

export interface TokenClaims {
  readonly account: string | undefined;
  readonly cluster: string;
  /** What the token gives access to; undefined if it does not tell. */
  readonly environments: ReadonlySet<string> | undefined;
}

/** Of one thing; more are not told. */
const MOST_UNKNOWN_FIELDS = 20;

/** Something that the upstream said and that cannot be understood. */
export class UnusableAnswer extends Error {
  override readonly name = 'UnusableAnswer';
}

export function flagsIn(payload: unknown): CheckedList<Flag> {
  return checkedList<Flag>(payload, flag, (item) => item.feature);
}

export function segmentsIn(payload: unknown): CheckedList<Segment> {
  return checkedList<Segment>(payload, segment, (item) => item.identifier);
}

/** SHA-256 of SDK keys, lower-case hex. */
export function apiKeysIn(payload: unknown): CheckedList<string> {
  return checkedList<string>(payload, apiKeyHash, (hash) => hash);
}

export function configPageIn(payload: unknown): ConfigPage {
  const page = checked(configPage, payload, 'a page of the configuration');
  return {
    unknownFields: unknownFields(configPage, page, 'config'),
    itemCount: page.itemCount,
    pageCount: page.pageCount,
    environments: page.environments.map(({ id, featureConfigs, segments, apiKeys }) => ({
      id,
      flags: featureConfigs ? flagsIn(featureConfigs) : undefined,
      segments: segments ? segmentsIn(segments) : undefined,
      apiKeys: apiKeys ? apiKeysIn(apiKeys) : undefined,
    })),
  };
}

export function streamMessageIn(data: string): StreamMessage {
  const message = checked(streamMessage, json(data), 'a message of the stream');
  return {
    unknownFields: unknownFields(streamMessage, message, 'message'),
    event: message.event,
    domain: message.domain,
    identifier: message.identifier ?? '',
    version: message.version ?? 0,
    environment: message.environment ?? '',
    environments: message.environments ?? [],
    apiKey: message.apiKey ?? '',
  };
}

/** The token's claims; its signature is the upstream's business. */
export function claimsIn(token: string): TokenClaims {
  const claims = checked(tokenClaims, payloadOf(token), 'the token');
  return {
    account: claims.account || undefined,
    cluster: claims.cluster_identifier || '1',
    environments: claims.environments ? new Set(claims.environments) : undefined,
  };
}

export function authTokenIn(payload: unknown): string {
  return checked(authAnswer, payload, 'the answer to the proxy key').authToken;
}

/** Throws UnusableAnswer with so little of the body that it gives no secret away. */
export function json(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    throw new UnusableAnswer(`${JSON.stringify(body.slice(0, 20))} is how it begins, and it is not JSON`);
  }
}

function payloadOf(token: string): unknown {
  try {
    return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
  } catch {
    throw new UnusableAnswer('the token is no JWT');
  }
}

function checked<Schema extends z.ZodType>(schema: Schema, payload: unknown, what: string): z.infer<Schema> {
  const result = schema.safeParse(payload);
  if (result.success) return result.data;
  throw new UnusableAnswer(`${what} is not as it should be: ${faultsOf(result.error)}`);
}

function checkedList<Item>(
  payload: unknown,
  schema: z.ZodType,
  nameOf: (item: Item) => string,
): CheckedList<Item> {
  if (!Array.isArray(payload)) throw new UnusableAnswer('a list was expected');
  const items = new Map<string, Item>();
  const faults: string[] = [];
  payload.forEach((entry: unknown, i) => {
    const result = schema.safeParse(entry);
    if (!result.success) {
      faults.push(`${labelOf(entry) ?? `entry ${i}`}: ${faultsOf(result.error)}`);
    } else if (items.has(nameOf(entry as Item))) {
      faults.push(`${nameOf(entry as Item)}: is listed twice`);
    } else {
      items.set(nameOf(entry as Item), entry as Item);
    }
  });
  return { items: [...items.values()], faults };
}

/** The fields of a flag that the protocol does not document, at any depth: `flag.rules.colour`. */
export function unknownFieldsOfFlag(item: Flag): readonly string[] {
  return unknownFields(flag, item, 'flag');
}

/** The same, of a target group: `segment.colour`. */
export function unknownFieldsOfSegment(item: Segment): readonly string[] {
  return unknownFields(segment, item, 'segment');
}

function unknownFields(schema: z.ZodType, value: unknown, path: string): readonly string[] {
  const found = new Set<string>();
  findUnknown(schema, value, path, found);
  return [...found];
}

function findUnknown(schema: z.ZodType, value: unknown, path: string, found: Set<string>): void {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable) {
    findUnknown(schema.unwrap() as z.ZodType, value, path, found);
  } else if (schema instanceof z.ZodArray && Array.isArray(value)) {
    for (const item of value) findUnknown(schema.element as z.ZodType, item, path, found);
  } else if (schema instanceof z.ZodObject && typeof value === 'object' && value !== null) {
    const documented = schema.shape as Record<string, z.ZodType>;
    for (const [name, field] of Object.entries(value)) {
      const known = Object.hasOwn(documented, name) ? documented[name] : undefined;
      if (known) findUnknown(known, field, `${path}.${name}`, found);
      else if (found.size < MOST_UNKNOWN_FIELDS) found.add(`${path}.${name}`.slice(0, 100));
    }
  }
}

function labelOf(entry: unknown): string | undefined {
  const { feature, identifier: name } = (entry ?? {}) as Record<string, unknown>;
  return [feature, name].find((label) => typeof label === 'string');
}

function faultsOf(error: z.ZodError): string {
  const shown = error.issues.slice(0, 3).map(({ path, message }) => `${path.join('.') || 'it'}: ${message}`);
  return shown.join('; ') + (error.issues.length > 3 ? ` and ${error.issues.length - 3} more` : '');
}
