import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import type { MetricsReport } from '#libs/domain';

import { UnreadableBody } from './entry-reader.js';
import { SdkReport } from './sdk-metrics.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const NOW = Date.UTC(2026, 0, 1);

const pairs = (attributes: Record<string, unknown>) =>
  Object.entries(attributes).map(([key, value]) => ({ key, value }));
const entry = (attributes: Record<string, unknown>, more: object = {}) => ({
  timestamp: NOW - 5,
  count: 3,
  metricsType: 'FFMETRICS',
  attributes: pairs(attributes),
  ...more,
});
const FLAG = { featureIdentifier: 'dark-mode', variationIdentifier: 'true' };
/** The parts of a body and what was left out; undefined if it is no report. */
function read(body: unknown): { parts: MetricsReport[]; unusable: number } | undefined {
  const parts: MetricsReport[] = [];
  const report = new SdkReport(DEV, NOW, (part) => parts.push(part));
  try {
    report.write(Buffer.from(JSON.stringify(body) ?? ''));
    const last = report.end();
    if (last.counts.length + last.targets.length > 0) parts.push(last);
  } catch (error) {
    if (error instanceof UnreadableBody) return undefined;
    throw error;
  }
  return { parts, unusable: report.unusable };
}

describe('Counts', () => {
  it.each<[string, Record<string, unknown>, Record<string, string>]>([
    [
      'Node, without a target',
      { ...FLAG, featureName: 'dark-mode', SDK_TYPE: 'server', SDK_LANGUAGE: 'javascript', target: null },
      { featureName: 'dark-mode', SDK_TYPE: 'server', SDK_LANGUAGE: 'javascript', target: '' },
    ],
    ['Go', { ...FLAG, featureValue: 'yes', target: 'global' }, { featureValue: 'yes', target: 'global' }],
    [
      'Python',
      { ...FLAG, variationValue: 'yes', target: 'global' },
      { variationValue: 'yes', target: 'global' },
    ],
    [
      'Java, which names a flag in its own way',
      {
        featureName: 'dark-mode',
        variationIdentifier: 'true',
        target: '__global__cf_target',
        JAR_VERSION: '1',
      },
      { featureName: 'dark-mode', target: '__global__cf_target', JAR_VERSION: '1' },
    ],
    ['a browser', { ...FLAG, SDK_NAME: 'js', target: 'anna' }, { SDK_NAME: 'js', target: 'anna' }],
    ['an SDK that writes numbers', { ...FLAG, SDK_VERSION: 2 }, { SDK_VERSION: '2' }],
  ])('of %s are understood', (_, sent, kept) => {
    expect(read({ metricsData: [entry(sent)] })).toEqual({
      parts: [
        {
          environment: DEV,
          counts: [{ timestamp: NOW - 5, count: 3, attributes: { ...FLAG, ...kept } }],
          targets: [],
        },
      ],
      unusable: 0,
    });
  });

  it.each([undefined, null, 0, -1, 1.5, 'yesterday'])('with the time %s are of now', (timestamp) => {
    const { parts } = read({ metricsData: [entry(FLAG, { timestamp })] }) ?? {};
    expect(parts?.[0]?.counts).toMatchObject([{ timestamp: NOW }]);
  });

  it.each<[string, unknown]>([
    ['names no flag', entry({ variationIdentifier: 'true' })],
    ['has no attributes', entry({}, { attributes: null })],
    ['counts nothing', entry(FLAG, { count: 0 })],
    ['counts less than nothing', entry(FLAG, { count: -3 })],
    ['counts halves', entry(FLAG, { count: 1.5 })],
    ['counts more than can be', entry(FLAG, { count: 1e300 })],
    ['counts in words', entry(FLAG, { count: 'three' })],
    ['is nothing', null],
    ['is longer than the log takes', entry({ ...FLAG, note: 'x'.repeat(300_000) })],
  ])('are taken without an entry that %s', (_, unusable) => {
    const { parts, unusable: left } = read({ metricsData: [entry(FLAG), unusable] }) ?? {};
    expect(parts).toMatchObject([{ counts: [{ count: 3 }] }]);
    expect(left).toBe(1);
    expect(read({ metricsData: [unusable] })).toBeUndefined();
  });
});

describe('Targets', () => {
  it('are taken with what they have', () => {
    const { parts } =
      read({
        metricsData: null,
        targetData: [
          { identifier: 'anna', name: 'Anna', attributes: pairs({ plan: 'pro', age: 7, more: { a: 1 } }) },
          { identifier: 'bert', attributes: null },
        ],
      }) ?? {};
    expect(parts).toEqual([
      {
        environment: DEV,
        counts: [],
        targets: [
          { identifier: 'anna', name: 'Anna', attributes: { plan: 'pro', age: '7' } },
          { identifier: 'bert', name: 'bert', attributes: {} },
        ],
      },
    ]);
  });

  it('that are told twice are taken as they were told last', () => {
    const { parts } =
      read({ targetData: [{ identifier: 'anna' }, { identifier: 'anna', name: 'Anna' }] }) ?? {};
    expect(parts).toMatchObject([{ targets: [{ identifier: 'anna', name: 'Anna' }] }]);
  });

  it('that have no identifier are left out', () => {
    expect(read({ targetData: [{ name: 'Anna' }, { identifier: 'bert' }] })).toMatchObject({ unusable: 1 });
  });
});

describe('A report', () => {
  it.each([{}, { metricsData: [], targetData: [] }, { metricsData: null }, { somethingElse: 1 }])(
    '%j says nothing',
    (body) => {
      expect(read(body)).toEqual({ parts: [], unusable: 0 });
    },
  );

  it.each([null, undefined, 7, 'text', [], { metricsData: {} }, { metricsData: 'x' }, { targetData: 7 }])(
    '%j is none',
    (body) => {
      expect(read(body)).toBeUndefined();
    },
  );

  it('that is large comes in parts that any log takes, and nothing is lost', () => {
    const metricsData = Array.from({ length: 5000 }, (_, i) =>
      entry({ ...FLAG, featureIdentifier: `flag-${i}`, note: 'ü'.repeat(200) }),
    );
    const targetData = Array.from({ length: 5000 }, (_, i) => ({ identifier: `${'ü'.repeat(100)}-${i}` }));
    const { parts, unusable } = read({ metricsData, targetData })!;
    expect(unusable).toBe(0);
    expect(parts.length).toBeGreaterThan(5);
    for (const part of parts) expect(Buffer.byteLength(JSON.stringify(part))).toBeLessThan(800_000);
    expect(
      parts.flatMap(({ counts }) => counts.map(({ attributes }) => attributes['featureIdentifier'])),
    ).toEqual(metricsData.map((_, i) => `flag-${i}`));
    expect(parts.flatMap(({ targets }) => targets)).toHaveLength(5000);
  });

  it('may be anything', () => {
    const attributes = fc.array(fc.record({ key: fc.anything(), value: fc.anything() }));
    const some = fc.record({
      metricsData: fc.array(fc.record({ count: fc.anything(), timestamp: fc.anything(), attributes })),
      targetData: fc.array(fc.record({ identifier: fc.anything(), name: fc.anything(), attributes })),
    });
    fc.assert(
      fc.property(fc.oneof(some, fc.anything()), (body) => {
        for (const { counts, targets } of read(body)?.parts ?? []) {
          for (const { count, attributes: kept } of counts) {
            expect(count).toBeGreaterThan(0);
            expect(kept).toMatchObject({ featureIdentifier: expect.any(String) });
          }
          for (const { identifier } of targets) expect(identifier).not.toBe('');
        }
      }),
    );
  });
});
