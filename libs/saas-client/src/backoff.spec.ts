import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { backoffMs, pause } from './backoff.js';

const MINUTE = 60_000;

describe('The wait before the next try', () => {
  it.each([
    [1, 1000],
    [2, 2000],
    [3, 4000],
    [6, 32_000],
    [7, MINUTE],
    [5000, MINUTE],
  ])('after %i failures is anything up to %i ms', (failures, most) => {
    expect(backoffMs(failures, 0)).toBe(0);
    expect(backoffMs(failures, 0.5)).toBe(most / 2);
    expect(backoffMs(failures, 1)).toBe(most);
  });

  it('is never shorter than the other side asked for, up to 5 minutes', () => {
    expect(backoffMs(1, 0, 7000)).toBe(7000);
    expect(backoffMs(7, 1, 7000)).toBe(MINUTE);
    expect(backoffMs(1, 1, 24 * 60 * MINUTE)).toBe(5 * MINUTE);
  });

  it('stays within its bounds and does not shrink as failures go on', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.nat(Number.MAX_SAFE_INTEGER),
        (failures, random, askedMs) => {
          const waitMs = backoffMs(failures, random, askedMs);
          expect(waitMs).toBeGreaterThanOrEqual(Math.min(askedMs, 5 * MINUTE));
          expect(waitMs).toBeLessThanOrEqual(Math.max(MINUTE, Math.min(askedMs, 5 * MINUTE)));
          expect(backoffMs(failures + 1, random, askedMs)).toBeGreaterThanOrEqual(waitMs);
        },
      ),
    );
  });
});

describe('A pause', () => {
  it('is over when it is aborted, before it or during it', async () => {
    await pause(MINUTE, AbortSignal.abort());
    const stopping = new AbortController();
    const pausing = pause(MINUTE, stopping.signal);
    stopping.abort();
    await pausing;
  });
});
