import { DatabaseSync } from 'node:sqlite';

import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type Bucket, type EvaluationCount, EvaluationCounts, OTHER } from './evaluation-counts.js';

const [MINUTE_MS, HOUR_MS, DAY_MS] = [60_000, 3_600_000, 86_400_000];
const NOON = Date.UTC(2026, 0, 1, 12);
const DEV = 'dev';
const PROD = 'prod';

const aCount = (more: Partial<EvaluationCount> = {}): EvaluationCount => ({
  flag: 'a',
  variation: 'yes',
  sdk: 'go server',
  timestamp: NOON,
  count: 1,
  ...more,
});

describe('Evaluation counts over time', () => {
  let db: DatabaseSync;
  let now: number;
  let warnings: string[];
  const opened = (mostSeries?: number) =>
    new EvaluationCounts(
      db,
      () => undefined,
      () => now,
      mostSeries,
    );
  const rows = (table: string) => Number(db.prepare(`SELECT count(*) AS n FROM ${table}`).get()?.['n']);

  beforeEach(() => {
    now = NOON;
    warnings = [];
    jest.spyOn(Logger.prototype, 'warn').mockImplementation((text) => void warnings.push(String(text)));
    db = new DatabaseSync(':memory:');
    db.exec(`PRAGMA foreign_keys = ON; CREATE TABLE environments (id TEXT PRIMARY KEY);
      INSERT INTO environments VALUES ('${DEV}'), ('${PROD}')`);
  });

  afterEach(() => {
    jest.restoreAllMocks();
    db.close();
  });

  /** All that is kept in buckets of a length, as [begin, count]. */
  const kept = (counts: EvaluationCounts, bucket: Bucket, environment = DEV) =>
    counts
      .inTime(counts.groups(environment, {}, []), counts.rangeOf(bucket, 0))
      .flat()
      .map(({ time, count }) => [time, count]);
  const sums = (counts: EvaluationCounts, environment = DEV) => {
    const groups = counts.groups(environment, {}, ['flag']);
    const inTime = counts.inTime(groups, counts.rangeOf('day', 0));
    return Object.fromEntries(
      groups.map(({ names }, index) => [
        names.flag,
        inTime[index]?.reduce((sum, { count }) => sum + count, 0),
      ]),
    );
  };

  it('are kept by minute for a day, by hour for sixty, by day for four hundred', () => {
    const counts = opened();
    counts.add(DEV, [aCount()]);
    expect(kept(counts, 'minute')).toEqual([[NOON, 1]]);
    expect(kept(counts, 'hour')).toEqual([[NOON, 1]]);
    expect(kept(counts, 'day')).toEqual([[NOON - 12 * HOUR_MS, 1]]);

    const after = (milliseconds: number, bucket: Bucket) => {
      now = NOON + milliseconds;
      counts.add(PROD, [aCount({ timestamp: now })]);
      return kept(counts, bucket).length;
    };
    expect(after(DAY_MS - 1, 'minute')).toBe(1);
    expect(after(DAY_MS, 'minute')).toBe(0);
    expect(after(60 * DAY_MS - 1, 'hour')).toBe(1);
    expect(after(60 * DAY_MS, 'hour')).toBe(0);
    expect(after(399 * DAY_MS, 'day')).toBe(1);
    expect(after(400 * DAY_MS, 'day')).toBe(0);
    expect(counts.groups(DEV, {}, ['flag'])).toEqual([]);
    // What is not kept takes no room: of the other environment a minute, two hours and four days are left.
    expect([rows('count_series'), rows('count_buckets')]).toEqual([1, 1 + 2 + 4]);
  });

  it('that come late are added where they belong, as far as that is kept', () => {
    const counts = opened();
    const time = NOON - 3 * DAY_MS;
    counts.add(DEV, [aCount({ timestamp: time }), aCount({ timestamp: time + 1, count: 2 })]);
    expect(kept(counts, 'minute')).toEqual([]);
    expect(kept(counts, 'hour')).toEqual([[time, 3]]);
    expect(kept(counts, 'day')).toEqual([[time - 12 * HOUR_MS, 3]]);
  });

  it('of a clock that is wrong are counted now', () => {
    const counts = opened();
    counts.add(DEV, [aCount({ timestamp: 0 }), aCount({ timestamp: NOON + 1000 * DAY_MS, count: 2 })]);
    for (const bucket of ['minute', 'hour'] as const) expect(kept(counts, bucket)).toEqual([[NOON, 3]]);
    expect(counts.groups(DEV, {}, ['flag'])).toMatchObject([{ lastAccess: NOON }]);
  });

  it('of more names than there is room for are added under one more, and the sum is right', () => {
    const counts = opened(3);
    counts.add(
      DEV,
      Array.from({ length: 10 }, (_, index) => aCount({ flag: `flag-${index}`, count: 2 })),
    );
    counts.add(DEV, [aCount({ flag: 'flag-0' }), aCount({ flag: 'flag-9' })]);
    counts.add(PROD, [aCount()]);
    expect(sums(counts)).toEqual({ 'flag-0': 3, 'flag-1': 2, 'flag-2': 2, [OTHER]: 15 });
    expect(sums(counts, PROD)).toEqual({ a: 1 });
    expect(warnings).toEqual([expect.stringContaining('Environment dev has 3 series')]);

    // Room comes back once a name is forgotten.
    now += 200 * DAY_MS;
    counts.add(DEV, [aCount({ flag: 'flag-0', timestamp: now })]);
    now += 201 * DAY_MS;
    counts.add(DEV, [aCount({ flag: 'flag-9', timestamp: now })]);
    expect(sums(counts)).toEqual({ 'flag-0': 1, 'flag-9': 1 });
  });

  it('are all added or, when one cannot be, none', () => {
    const counts = opened();
    expect(() => counts.add(DEV, [aCount(), aCount({ count: Number.NaN })])).toThrow(/NOT NULL/);
    expect(() => counts.add('nowhere', [aCount()])).toThrow(/FOREIGN KEY/);
    expect([rows('count_series'), rows('count_buckets')]).toEqual([0, 0]);
    counts.add(DEV, [aCount()]);
    expect(sums(counts)).toEqual({ a: 1 });
  });

  it('stay numbers, however large', () => {
    const counts = opened();
    for (let i = 0; i < 3; i++) counts.add(DEV, [aCount({ count: Number.MAX_SAFE_INTEGER })]);
    expect(kept(counts, 'minute')).toEqual([[NOON, Number.MAX_SAFE_INTEGER]]);
  });

  it('are told of once for each report, when they can be read', () => {
    const heard: string[] = [];
    const counts: EvaluationCounts = new EvaluationCounts(
      db,
      ({ environment }) => heard.push(`${environment} ${JSON.stringify(sums(counts))}`),
      () => now,
    );
    counts.add(DEV, [aCount(), aCount({ timestamp: NOON - MINUTE_MS })]);
    counts.add(DEV, []);
    expect(heard).toEqual(['dev {"a":2}']);
  });
});
