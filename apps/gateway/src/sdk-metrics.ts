/**
 * Evaluation counts as SDKs post them (protocol §4.4), made one thing. SDKs differ: Java names flags by `featureName`
 * alone, Node sends a `target` of null, browsers no targets at all. What one entry lacks does not spoil the others.
 */
import type { EvaluationCount, MetricsReport, ReportedTarget } from '#libs/domain';

type Attributes = Readonly<Record<string, string>>;

/** More evaluations than an SDK counts between two posts. Sums of as many entries as one likes stay exact. */
const MOST_EVALUATIONS = 2 ** 31;

/** A part of a report has so many characters at most, so that any log takes it. */
const PART_CHARACTERS = 256 * 1024;

export interface ReadMetrics {
  /** What is reported, in parts that are small enough for any log; none if it is nothing. */
  readonly parts: readonly MetricsReport[];
  /** Entries that were left out, since they cannot be counts or targets. */
  readonly unusable: number;
}

/** What an SDK reports in a body; undefined if nothing in it can be used, though it is not empty. */
export function metricsIn(body: unknown, environment: string, now: number): ReadMetrics | undefined {
  if (!isRecord(body)) return undefined;
  const { metricsData, targetData } = body;
  if (!isList(metricsData) || !isList(targetData)) return undefined;
  const parts = [
    ...portions((metricsData ?? []).map((entry) => countIn(entry, now))).map((counts) => ({
      environment,
      counts,
      targets: [],
    })),
    ...portions((targetData ?? []).map(targetIn)).map((targets) => ({ environment, counts: [], targets })),
  ];
  const entries = (metricsData?.length ?? 0) + (targetData?.length ?? 0);
  const used = parts.reduce((sum, { counts, targets }) => sum + counts.length + targets.length, 0);
  return entries > 0 && used === 0 ? undefined : { parts, unusable: entries - used };
}

/** Without what is not there, and without what is longer than a portion. */
function portions<Entry>(entries: readonly (Entry | undefined)[]): Entry[][] {
  const all: Entry[][] = [];
  let characters = PART_CHARACTERS;
  for (const entry of entries) {
    if (entry === undefined) continue;
    const { length } = JSON.stringify(entry);
    if (length > PART_CHARACTERS) continue;
    if (characters + length > PART_CHARACTERS) {
      all.push([]);
      characters = 0;
    }
    all.at(-1)?.push(entry);
    characters += length;
  }
  return all;
}

function countIn(entry: unknown, now: number): EvaluationCount | undefined {
  if (!isRecord(entry)) return undefined;
  const { count, timestamp } = entry;
  const attributes = attributesIn(entry['attributes']);
  const flag = attributes['featureIdentifier'] || attributes['featureName'];
  if (!flag || !Number.isInteger(count) || Number(count) < 1 || Number(count) >= MOST_EVALUATIONS)
    return undefined;
  return {
    timestamp: Number.isSafeInteger(timestamp) && Number(timestamp) > 0 ? Number(timestamp) : now,
    count: Number(count),
    attributes: {
      ...attributes,
      featureIdentifier: flag,
      variationIdentifier: attributes['variationIdentifier'] ?? '',
    },
  };
}

function targetIn(entry: unknown): ReportedTarget | undefined {
  if (!isRecord(entry)) return undefined;
  const { identifier, name, attributes } = entry;
  if (typeof identifier !== 'string' || identifier === '') return undefined;
  return {
    identifier,
    name: typeof name === 'string' && name !== '' ? name : identifier,
    attributes: attributesIn(attributes),
  };
}

/** Pairs of key and value. A value that is null is empty text, as the Go relay forwards it. */
function attributesIn(pairs: unknown): Attributes {
  if (!Array.isArray(pairs)) return {};
  return Object.fromEntries(
    pairs.flatMap((pair: unknown) => {
      if (!isRecord(pair)) return [];
      const { key, value } = pair;
      if (typeof key !== 'string') return [];
      if (typeof value === 'number' || typeof value === 'boolean') return [[key, String(value)]];
      return typeof value === 'string' ? [[key, value]] : value === null ? [[key, '']] : [];
    }),
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isList(value: unknown): value is readonly unknown[] | null | undefined {
  return value === undefined || value === null || Array.isArray(value);
}
