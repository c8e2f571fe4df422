import { describe, expect, it } from '@jest/globals';

import { momentIn } from './moment.js';

const NOW = Date.UTC(2026, 10, 21);

describe('A moment', () => {
  it.each([
    ['0', { sequence: 0 }],
    ['812', { sequence: 812 }],
    ['20261120', { sequence: 20_261_120 }],
    ['2026-11-20', { time: Date.UTC(2026, 10, 20) }],
    ['2026-11-20T12:00Z', { time: Date.UTC(2026, 10, 20, 12) }],
    ['2026-11-20T12:00:30.5Z', { time: Date.UTC(2026, 10, 20, 12, 0, 30, 500) }],
    ['2026-11-20T01:30+02:00', { time: Date.UTC(2026, 10, 19, 23, 30) }],
    ['2024-02-29', { time: Date.UTC(2024, 1, 29) }],
  ])('is read from %s', (text, moment) => {
    expect(momentIn(text, NOW)).toEqual(moment);
  });

  it.each([
    '',
    'noon',
    '-1',
    '1.5',
    '2026-11',
    '2026-13-01',
    '2026-02-30',
    '2026-11-20T12:00',
    '2026-11-20 12:00Z',
    '2026-11-20T25:00Z',
  ])('is not %p, and what to write instead is said', (text) => {
    expect(() => momentIn(text, NOW)).toThrow(/^a position is a whole number; a time is written .*Z/);
  });

  it('is not one that is still to come', () => {
    expect(() => momentIn('2026-11-22', NOW)).toThrow('that time is still to come');
  });
});
