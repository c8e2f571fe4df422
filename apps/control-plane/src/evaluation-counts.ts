import type { DatabaseSync, StatementSync } from 'node:sqlite';

import { Logger } from '@nestjs/common';
import { byIdentifier } from '#libs/domain';

import type { AccountMessage } from './account-stream.js';

/** So many evaluations that gave the same variation. */
export interface EvaluationCount {
  readonly flag: string;
  readonly variation: string;
  /** The kind of SDK that counted, for example `go server`; empty where it does not say. */
  readonly sdk: string;
  /** When, in ms since the epoch. */
  readonly timestamp: number;
  readonly count: number;
}

export type Bucket = 'minute' | 'hour' | 'day';
export type Dimension = 'flag' | 'variation' | 'sdk';
export type CountNames = { readonly [name in Dimension]?: string | undefined };

/** From `from` up to and without `to`, in ms since the epoch, each where a bucket begins. */
export interface CountRange {
  readonly bucket: Bucket;
  readonly from: number;
  readonly to: number;
  /** How many those are. */
  readonly buckets: number;
}

/** What was counted under one name, or under several that differ in nothing that was asked for. */
export interface CountGroup {
  readonly names: CountNames;
  /** When it was last counted, in ms since the epoch. */
  readonly lastAccess: number;
  readonly series: readonly number[];
}

export interface BucketCount {
  /** Its begin, in ms since the epoch. */
  readonly time: number;
  readonly count: number;
}

/** How many buckets of each length are kept, and how many are shown to who does not say. Hours and days are UTC's. */
const BUCKETS: Readonly<Record<Bucket, { lengthMs: number; kept: number; shown: number }>> = {
  minute: { lengthMs: 60_000, kept: 1440, shown: 60 },
  hour: { lengthMs: 3_600_000, kept: 1440, shown: 24 },
  day: { lengthMs: 86_400_000, kept: 400, shown: 30 },
};
const MINUTE_MS = BUCKETS.minute.lengthMs;

/** Where the oldest bucket begins that is kept. */
function oldest({ lengthMs, kept }: { lengthMs: number; kept: number }, now: number): number {
  return now - (now % lengthMs) - (kept - 1) * lengthMs;
}

/** Of one environment: what counts come under, beside `OTHER`. */
const MOST_SERIES = 5_000;
/** A name that no flag can have. */
export const OTHER = '(other)';

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS count_series (
    id INTEGER PRIMARY KEY, environment TEXT NOT NULL REFERENCES environments, flag TEXT NOT NULL,
    variation TEXT NOT NULL, sdk TEXT NOT NULL, last_at INTEGER NOT NULL, UNIQUE (environment, flag, variation, sdk)
  ) STRICT;
  CREATE TABLE IF NOT EXISTS count_buckets (
    length INTEGER NOT NULL, start INTEGER NOT NULL, series INTEGER NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (length, start, series)
  ) STRICT, WITHOUT ROWID;
`;

/** The table of files of version 2, which had minutes alone and no end. */
const MINUTES_OF_VERSION_2 =
  'SELECT environment, flag, variation, minute, count FROM counts ORDER BY environment';

/**
 * Evaluation counts as time series, in the database of the registry. Each count is added to its minute, its hour and its
 * day at once, so a question is answered from buckets of its own length and old ones only have to be deleted.
 *
 * Bounded: an environment has at most 5,000 series, a series at most 1,440 minutes, 1,440 hours and 400 days. Counts that
 * would begin one series more are added under `OTHER`, so that the sum of an environment is right. A series is gone when
 * the last of its days is.
 */
export class EvaluationCounts {
  private readonly logger = new Logger(EvaluationCounts.name);
  private readonly statements: Readonly<Record<keyof typeof SQL, StatementSync>>;
  private prunedAt = 0;
  /** The environments that were said to have too many series. */
  private readonly full = new Set<string>();

  /** `db` has no transaction open, but for that of a caller who opens the file. */
  constructor(
    private readonly db: DatabaseSync,
    private readonly announce: (message: AccountMessage) => void,
    private readonly now: () => number = Date.now,
    private readonly mostSeries = MOST_SERIES,
  ) {
    db.exec(SCHEMA);
    this.statements = Object.fromEntries(
      Object.entries(SQL).map(([name, text]) => [name, db.prepare(text)]),
    ) as Record<keyof typeof SQL, StatementSync>;
    this.takeOver();
  }

  /**
   * Adds what was counted in an environment (UUID): all of it or, when this throws, nothing. It is on disk when this
   * returns. A time ahead of now, or before anything that is kept, can only be a wrong clock's: it counts as of now.
   */
  add(environment: string, counts: readonly EvaluationCount[]): void {
    if (counts.length === 0) return;
    this.db.exec('BEGIN IMMEDIATE');
    try {
      this.prune();
      this.insert(environment, counts);
      this.db.exec('COMMIT');
    } catch (error) {
      if (this.db.isTransaction) this.db.exec('ROLLBACK');
      throw error;
    }
    this.announce(aboutCounts(environment));
  }

  /** What was ever counted in an environment (UUID) and is not forgotten, in the order of its names. */
  groups(environment: string, filter: CountNames, by: readonly Dimension[]): CountGroup[] {
    const found = this.statements.seriesOf.all(
      environment,
      ...DIMENSIONS.map((name) => filter[name] ?? null),
    ) as unknown as SeriesRow[];
    const groups = new Map<string, SeriesRow[]>();
    for (const row of found) {
      const key = JSON.stringify(by.map((name) => row[name]));
      const group = groups.get(key);
      if (group) group.push(row);
      else groups.set(key, [row]);
    }
    return [...groups.values()]
      .map((rows) => ({
        names: Object.fromEntries(by.map((name) => [name, rows[0]?.[name] ?? ''])) as CountNames,
        lastAccess: Math.max(...rows.map((row) => row.last_at)),
        series: rows.map(({ id }) => id),
      }))
      .toSorted(inOrderOf(by));
  }

  /** Whole buckets around the times that were asked for, as far back as they are kept and none that is still to come. */
  rangeOf(bucket: Bucket, from?: number, to?: number): CountRange {
    const { lengthMs, shown } = BUCKETS[bucket];
    const floor = (time: number) => time - (time % lengthMs);
    const now = this.now();
    const end = floor(Math.min(to === undefined ? now : to - 1, now)) + lengthMs;
    const asked = from === undefined ? end - shown * lengthMs : floor(from);
    const begin = Math.min(Math.max(asked, oldest(BUCKETS[bucket], now)), end);
    return { bucket, from: begin, to: end, buckets: (end - begin) / lengthMs };
  }

  /** Of each group the buckets in which something was counted, oldest first. */
  inTime(groups: readonly CountGroup[], { bucket, from, to }: CountRange): BucketCount[][] {
    const { lengthMs } = BUCKETS[bucket];
    const groupOf = new Map(groups.flatMap(({ series }, index) => series.map((id) => [id, index] as const)));
    const sums = groups.map(() => new Map<number, number>());
    const found = this.statements.bucketsOf.all(from, lengthMs, to, JSON.stringify([...groupOf.keys()]));
    for (const { series, start, count } of found as unknown as BucketRow[]) {
      const sum = sums[groupOf.get(series) ?? -1];
      sum?.set(start, (sum.get(start) ?? 0) + count);
    }
    return sums.map((sum) => [...sum].map(([time, count]) => ({ time, count })));
  }

  private insert(environment: string, counts: readonly EvaluationCount[]): void {
    const now = this.now();
    const series = this.seriesIn(environment);
    for (const { flag, variation, sdk, timestamp, count } of counts) {
      const time = timestamp > now || timestamp < oldest(BUCKETS.day, now) ? now : timestamp;
      const id = series(flag, variation, sdk, time);
      for (const bucket of Object.values(BUCKETS)) {
        const start = time - (time % bucket.lengthMs);
        if (start >= oldest(bucket, now)) this.statements.addToBucket.run(bucket.lengthMs, start, id, count);
      }
    }
  }

  /** Finds series, or makes them while there is room. */
  private seriesIn(environment: string) {
    let known: number | undefined;
    const touch = (flag: string, variation: string, sdk: string, time: number) =>
      this.statements.touchSeries.get(time, environment, flag, variation, sdk) as { id: number } | undefined;
    const make = (flag: string, variation: string, sdk: string, time: number) =>
      Number(this.statements.makeSeries.run(environment, flag, variation, sdk, time).lastInsertRowid);
    return (flag: string, variation: string, sdk: string, time: number): number => {
      const found = touch(flag, variation, sdk, time);
      if (found) return found.id;
      known ??= Number(this.statements.countSeries.get(environment, OTHER)?.['count']);
      if (known < this.mostSeries) {
        known++;
        return make(flag, variation, sdk, time);
      }
      this.sayFull(environment);
      return touch(OTHER, OTHER, '', time)?.id ?? make(OTHER, OTHER, '', time);
    };
  }

  private sayFull(environment: string): void {
    if (this.full.has(environment)) return;
    this.full.add(environment);
    this.logger.warn(
      `Environment ${environment} has ${this.mostSeries} series of evaluation counts, which is the most: others are ` +
        `added under ${OTHER}. GET /admin/metrics lists them; flags that are gone leave it after ${BUCKETS.day.kept} days`,
    );
  }

  /** Deletes what is older than is kept; once a minute, so that there is never much. */
  private prune(): void {
    const now = this.now();
    const minute = Math.floor(now / MINUTE_MS);
    if (minute === this.prunedAt) return;
    this.prunedAt = minute;
    for (const bucket of Object.values(BUCKETS)) {
      this.statements.pruneBuckets.run(bucket.lengthMs, oldest(bucket, now));
    }
    if (this.statements.pruneSeries.run(oldest(BUCKETS.day, now)).changes) this.full.clear();
  }

  private takeOver(): void {
    const { tables } = this.db
      .prepare("SELECT count(*) AS tables FROM sqlite_schema WHERE name = 'counts'")
      .get() as { tables: number };
    if (tables === 0) return;
    for (const row of this.db.prepare(MINUTES_OF_VERSION_2).iterate()) {
      const { environment, flag, variation, minute, count } = row as unknown as OldRow;
      this.insert(environment, [{ flag, variation, sdk: '', timestamp: minute, count }]);
    }
    this.db.exec('DROP TABLE counts');
  }
}

const DIMENSIONS = ['flag', 'variation', 'sdk'] as const;

const SQL = {
  touchSeries: `UPDATE count_series SET last_at = max(last_at, ?)
    WHERE environment = ? AND flag = ? AND variation = ? AND sdk = ? RETURNING id`,
  makeSeries: 'INSERT INTO count_series (environment, flag, variation, sdk, last_at) VALUES (?, ?, ?, ?, ?)',
  countSeries: 'SELECT count(*) AS count FROM count_series WHERE environment = ? AND flag <> ?',
  seriesOf: `SELECT id, flag, variation, sdk, last_at FROM count_series WHERE environment = ?1
    AND (?2 IS NULL OR flag = ?2) AND (?3 IS NULL OR variation = ?3) AND (?4 IS NULL OR sdk = ?4)`,
  pruneSeries: 'DELETE FROM count_series WHERE last_at < ?',
  // No sum may outgrow what JavaScript reads as a number.
  addToBucket: `INSERT INTO count_buckets (length, start, series, count) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET count = min(count + excluded.count, ${Number.MAX_SAFE_INTEGER})`,
  pruneBuckets: 'DELETE FROM count_buckets WHERE length = ? AND start < ?',
  // Bucket by bucket: the range as a whole would be read with all series of all environments in it.
  bucketsOf: `WITH RECURSIVE times (start) AS (
      SELECT ?1 WHERE ?1 < ?3 UNION ALL SELECT start + ?2 FROM times WHERE start + ?2 < ?3
    )
    SELECT series, count_buckets.start AS start, count FROM times CROSS JOIN json_each(?4) AS wanted
    CROSS JOIN count_buckets ON length = ?2 AND count_buckets.start = times.start AND series = wanted.value`,
};

type SeriesRow = { id: number; flag: string; variation: string; sdk: string; last_at: number };
type BucketRow = { series: number; start: number; count: number };
type OldRow = { environment: string; flag: string; variation: string; minute: number; count: number };

const inOrderOf = (by: readonly Dimension[]) => (a: CountGroup, b: CountGroup) => {
  for (const name of by) {
    const order = byIdentifier(a.names[name] ?? '', b.names[name] ?? '');
    if (order !== 0) return order;
  }
  return 0;
};

/** For those who follow the admin API alone: the protocol's account stream knows nothing of counts. */
const aboutCounts = (environment: string): AccountMessage => ({
  event: 'add',
  domain: 'metrics',
  identifier: '',
  version: 0,
  environment,
  apiKey: '',
});
