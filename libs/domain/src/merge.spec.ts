import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { evaluationsIn, halvesOf, keyOf, merge } from './merge.js';
import type { EvaluationCount, MetricsReport } from './metrics.js';

const ENVIRONMENT = '10000000-0000-4000-8000-000000000001';
const NOON = Date.UTC(2026, 0, 1, 12);

const aCount = (attributes: Record<string, string> = {}, more: Partial<EvaluationCount> = {}) => ({
  timestamp: NOON,
  count: 1,
  attributes: {
    featureIdentifier: 'dark-mode',
    variationIdentifier: 'true',
    SDK_TYPE: 'server',
    SDK_LANGUAGE: 'node',
    SDK_VERSION: '1.0',
    target: 'global',
    ...attributes,
  },
  ...more,
});
const aReport = (...counts: EvaluationCount[]): MetricsReport => ({
  environment: ENVIRONMENT,
  counts,
  targets: [],
});

/** Few values, among them those that a joined key would confuse. */
const name = fc.constantFrom('a', 'b', 'a-b', '', '","', 'a","b');
const count: fc.Arbitrary<EvaluationCount> = fc
  .tuple(
    fc.integer({ min: NOON, max: NOON + 180_000 }),
    fc.integer({ min: 1, max: 2 ** 31 - 1 }),
    fc.record(
      {
        featureIdentifier: name,
        variationIdentifier: name,
        SDK_TYPE: name,
        SDK_LANGUAGE: name,
        SDK_VERSION: name,
        target: fc.constantFrom('', 'global', '__global__cf_target', 'anna', 'bert'),
      },
      { requiredKeys: ['featureIdentifier', 'variationIdentifier'] },
    ),
  )
  .map(([timestamp, sum, attributes]) => ({ timestamp, count: sum, attributes }));
const target = fc.record({
  identifier: fc.constantFrom('anna', 'bert', '__proto__'),
  name: fc.string(),
  attributes: fc.dictionary(fc.string(), fc.string()),
});
const report: fc.Arbitrary<MetricsReport> = fc.record({
  environment: fc.constant(ENVIRONMENT),
  counts: fc.array(count),
  targets: fc.array(target),
});

const sumsOf = (reports: readonly MetricsReport[]) => {
  const sums = new Map<string, number>();
  for (const each of reports.flatMap(({ counts }) => counts)) {
    sums.set(keyOf(each), (sums.get(keyOf(each)) ?? 0) + each.count);
  }
  return sums;
};
const namesOf = (reports: readonly MetricsReport[]) =>
  new Set(reports.flatMap(({ targets }) => targets.map(({ identifier }) => identifier)));

describe('Merging', () => {
  it('keeps the sum of every key, whatever is divided, merged again, and in which order', () => {
    fc.assert(
      fc.property(fc.array(report), fc.array(fc.nat()), (reports, choices) => {
        let pieces = [...reports];
        for (const choice of choices) {
          const at = pieces.length === 0 ? 0 : choice % pieces.length;
          const [piece] = pieces.splice(at, 1);
          if (!piece) break;
          // Divided, or put together with all that come after it.
          if (choice % 2 === 0) pieces.push(...(halvesOf(piece) ?? [piece]));
          else pieces = [...pieces.slice(0, at), merge(ENVIRONMENT, [piece, ...pieces.slice(at)])];
        }
        const merged = merge(ENVIRONMENT, pieces.toReversed());
        expect(sumsOf([merged])).toEqual(sumsOf(reports));
        expect(merged.counts).toHaveLength(sumsOf(reports).size);
        expect(namesOf([merged])).toEqual(namesOf(reports));
        expect(merged.targets).toHaveLength(namesOf(reports).size);
      }),
    );
  });

  it('adds what differs in nothing but its target, value and moment, and keeps the rest of the first', () => {
    const merged = merge(ENVIRONMENT, [
      aReport(aCount({ target: 'anna', featureValue: 'yes' }, { count: 2, timestamp: NOON + 5 })),
      aReport(aCount({ target: 'bert', featureValue: 'no' }, { count: 3, timestamp: NOON + 1 })),
    ]);
    expect(merged.counts).toEqual([
      aCount({ target: 'anna', featureValue: 'yes' }, { count: 5, timestamp: NOON + 1 }),
    ]);
  });

  it.each<[string, Record<string, string>]>([
    ['flag', { featureIdentifier: 'other' }],
    ['variation', { variationIdentifier: 'false' }],
    ['type of SDK', { SDK_TYPE: 'client' }],
    ['language', { SDK_LANGUAGE: 'go' }],
    ['version of the SDK', { SDK_VERSION: '2.0' }],
    ['kind of target', { target: 'anna' }],
    ['kind of target, which is none,', { target: '' }],
  ])('does not add what differs in its %s', (_, difference) => {
    const reports = [aReport(aCount()), aReport(aCount(difference))];
    expect(merge(ENVIRONMENT, reports).counts).toEqual([aCount(), aCount(difference)]);
  });

  it('does not add what was counted in another minute, so that a backlog keeps its times', () => {
    const later = aCount({}, { timestamp: NOON + 60_000 });
    expect(merge(ENVIRONMENT, [aReport(aCount(), later)]).counts).toEqual([aCount(), later]);
  });

  it('is not confused by names that hold what divides names', () => {
    const one = aCount({ featureIdentifier: 'a-b', variationIdentifier: 'c' });
    const other = aCount({ featureIdentifier: 'a', variationIdentifier: 'b-c' });
    expect(merge(ENVIRONMENT, [aReport(one, other)]).counts).toEqual([one, other]);
  });

  it('tells a target as it was told last', () => {
    const anna = { identifier: 'anna', name: 'Anna', attributes: {} };
    const merged = merge(ENVIRONMENT, [
      { ...aReport(), targets: [anna] },
      { ...aReport(), targets: [{ ...anna, attributes: { plan: 'pro' } }] },
    ]);
    expect(merged.targets).toEqual([{ ...anna, attributes: { plan: 'pro' } }]);
  });
});

describe('Halves of a report', () => {
  it('say together what it says, and each says less', () => {
    fc.assert(
      fc.property(report, (whole) => {
        const sizeOf = ({ counts, targets }: MetricsReport) => counts.length + targets.length;
        const halves = halvesOf(whole);
        if (!halves) return expect(sizeOf(whole)).toBeLessThan(2);
        expect(halves.flatMap(({ counts }) => counts)).toEqual(whole.counts);
        expect(halves.flatMap(({ targets }) => targets)).toEqual(whole.targets);
        for (const half of halves) expect(sizeOf(half)).toBeLessThanOrEqual(Math.ceil(sizeOf(whole) / 2));
      }),
    );
  });
});

it('Evaluations of a report are the sum of its counts', () => {
  expect(evaluationsIn(aReport(aCount({}, { count: 2 }), aCount({}, { count: 40 })))).toBe(42);
});
