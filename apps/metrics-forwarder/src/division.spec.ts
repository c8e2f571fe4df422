import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import type { MetricsReport } from '#libs/domain';

import { Division, MOST_REFUSALS } from './division.js';

const report = (flags: readonly number[]): MetricsReport => ({
  environment: 'e',
  counts: flags.map((flag) => ({ timestamp: 0, count: 1, attributes: { featureIdentifier: String(flag) } })),
  targets: [],
});
const flagsIn = (reports: readonly { report: MetricsReport }[]) =>
  reports.flatMap((each) =>
    each.report.counts.map(({ attributes }) => Number(attributes['featureIdentifier'])),
  );
const numbers = (count: number) => Array.from({ length: count }, (_, i) => i);
/** Divides messages of so many entries, which are numbered, at an upstream that refuses some of them. */
function divide(sizes: readonly number[], isBad: (entry: number) => boolean) {
  let entries = 0;
  const messages = sizes.map((size, message) => ({
    message,
    id: `m${message}`,
    report: report(numbers(size).map(() => entries++)),
  }));
  const division = new Division(messages);
  const [taken, refused]: [number[], typeof messages] = [[], []];
  let posts = 0;
  for (let piece = division.next(); piece; piece = division.next()) {
    posts++;
    if (flagsIn(piece).some(isBad)) refused.push(...division.wasRefused(piece, true));
    else {
      taken.push(...flagsIn(piece));
      division.wasTaken();
    }
  }
  return { taken: taken.toSorted((a, b) => a - b), refused, posts, entries };
}

describe('Dividing a batch', () => {
  it('finds the one entry that is refused, wherever it is, with about 2 log2 posts', () => {
    const sizes = numbers(100).map(() => 100);
    for (const bad of [0, 1, 4321, 9999]) {
      const { taken, refused, posts } = divide(sizes, (entry) => entry === bad);
      expect(taken).toEqual(numbers(10_000).filter((entry) => entry !== bad));
      expect(flagsIn(refused)).toEqual([bad]);
      expect(posts).toBeLessThanOrEqual(1 + 2 * (7 + 7));
    }
  });

  it('finds what is refused, and nothing else', () => {
    const some = fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(some, fc.array(fc.nat(), { maxLength: 7 }), (sizes, choices) => {
        const count = sizes.reduce((a, b) => a + b);
        const bad = new Set(choices.map((choice) => choice % count));
        const { taken, refused } = divide(sizes, (entry) => bad.has(entry));
        expect(taken).toEqual(numbers(count).filter((entry) => !bad.has(entry)));
        expect(new Set(flagsIn(refused))).toEqual(bad);
        expect(flagsIn(refused)).toHaveLength(bad.size);
        // No two of a message are parked under one name.
        expect(new Set(refused.map(({ id }) => id)).size).toBe(refused.length);
      }),
    );
  });

  it('finds it though there is much of it in one place, and some elsewhere', () => {
    const sizes = numbers(100).map(() => 100);
    const isBad = (entry: number) => entry < 1000 || (entry > 5000 && entry < 5100) || entry % 97 === 0;
    expect(divide(sizes, isBad).taken).toEqual(numbers(10_000).filter((entry) => !isBad(entry)));
  });

  it('of which nothing is taken is given up', () => {
    const sizes = numbers(1000).map(() => 50);
    const { posts, refused, entries } = divide(sizes, () => true);
    expect(posts).toBe(MOST_REFUSALS);
    expect(flagsIn(refused).toSorted((a, b) => a - b)).toEqual(numbers(entries));
  });
});
