import { describe, expect, it } from '@jest/globals';

import { certificateFinding } from './certificate.js';

const DAY_MS = 24 * 3_600_000;
const NOW = Date.parse('2026-11-21T12:00Z');

describe('A certificate', () => {
  it.each([
    ['long', -60, 30, /^ok: the certificate of TLS_CERT is valid until 2026-12-21$/],
    ['not for long', -80, 10, /^warn: .* valid until 2026-12-01, for 10 d/],
    ['for days, and was made for days', -2, 4, /^ok: /],
    ['no more', -90, -1, /^fail: .* was valid until 2026-11-20$/],
    ['not yet', 1, 90, /^fail: .* is not valid before 2026-11-22T12:00:00\.000Z$/],
  ])('that is valid %s is told of', (_, from, until, message) => {
    const dates = { from: NOW + from * DAY_MS, until: NOW + until * DAY_MS };
    const { level, what } = certificateFinding({ setting: 'TLS_CERT', ...dates }, NOW);
    expect(`${level}: ${what}`).toMatch(message);
  });
});
