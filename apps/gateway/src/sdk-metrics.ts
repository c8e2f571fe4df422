/**
 * Evaluation counts as SDKs post them (protocol §4.4), made one thing. SDKs differ: Java names flags by `featureName`
 * alone, Node sends a `target` of null, browsers no targets at all. What one entry lacks does not spoil the others.
 */
import { type EvaluationCount, type MetricsReport, type ReportedTarget, Sum } from '#libs/domain';

import { EntryReader, UnreadableBody } from './entry-reader.js';

type Attributes = Readonly<Record<string, string>>;

/** More evaluations than an SDK counts between two posts. Sums of as many entries as one likes stay exact. */
const MOST_EVALUATIONS = 2 ** 31;

/** A part of a report has about so many characters at most: with an entry above that, less than any log takes. */
export const PART_CHARACTERS = 128 * 1024;

/** SDKs that one post may name. A process has one. */
const MOST_SDKS = 20;

/** What an SDK posts about an environment, read as it arrives: added up, and handed on in parts. */
export class SdkReport {
  /** Entries that were left out, since they cannot be counts or targets. */
  unusable = 0;
  /** What tells one SDK from another, of each that is named. */
  readonly sdks = new Map<string, Attributes>();
  private used = 0;
  private sum: Sum;
  private readonly reader: EntryReader;

  /** @param full is given each part but the last */
  constructor(
    private readonly environment: string,
    private readonly now: number,
    private readonly full: (part: MetricsReport) => void,
  ) {
    this.sum = new Sum(environment);
    this.reader = new EntryReader(['metricsData', 'targetData'], (list, entries) => {
      for (const entry of entries) {
        if (list === 'metricsData') this.addCount(countIn(entry, this.now));
        else this.addTarget(targetIn(entry));
      }
    });
  }

  /** Throws UnreadableBody. */
  write(bytes: Buffer): void {
    this.reader.write(bytes);
  }

  /** The last part, which may say nothing. Throws UnreadableBody, also if of all that was sent nothing can be used. */
  end(): MetricsReport {
    const body = this.reader.end();
    this.unusable += this.reader.tooLong;
    const isReport = isRecord(body) && isList(body['metricsData']) && isList(body['targetData']);
    if (!isReport || (this.used === 0 && this.unusable > 0)) {
      throw new UnreadableBody('this is no report of metrics: { "metricsData": […], "targetData": […] }');
    }
    return this.sum.report();
  }

  private addCount(count: EvaluationCount | undefined): void {
    if (!count) return void this.unusable++;
    this.sum.addCount(count);
    const { SDK_TYPE, SDK_LANGUAGE, SDK_VERSION } = count.attributes;
    if (this.sdks.size < MOST_SDKS)
      this.sdks.set(`${SDK_TYPE} ${SDK_LANGUAGE} ${SDK_VERSION}`, count.attributes);
    this.added();
  }

  private addTarget(target: ReportedTarget | undefined): void {
    if (!target) return void this.unusable++;
    this.sum.addTarget(target);
    this.added();
  }

  private added(): void {
    this.used++;
    if (this.sum.characters < PART_CHARACTERS) return;
    this.full(this.sum.report());
    this.sum = new Sum(this.environment);
  }
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
