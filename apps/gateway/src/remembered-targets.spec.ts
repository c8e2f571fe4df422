import { describe, expect, it } from '@jest/globals';

import { RememberedTargets } from './remembered-targets.js';

const target = (identifier: string, attributes: Record<string, unknown> = {}) => ({
  identifier,
  name: identifier,
  anonymous: false,
  attributes,
});

describe('The remembered targets', () => {
  it('are known by environment and identifier, as they last signed in', () => {
    const targets = new RememberedTargets();
    targets.remember('dev', target('anna', { plan: 'free', list: [1, { a: null }] }));
    targets.remember('prod', target('anna', { plan: 'none' }));
    targets.remember('dev', target('anna', { plan: 'pro' }));
    expect(targets.target('dev', 'anna')).toEqual(target('anna', { plan: 'pro' }));
    expect(targets.target('prod', 'anna')).toEqual(target('anna', { plan: 'none' }));
    expect(targets.target('dev', 'bob')).toBeUndefined();
    expect(targets.target('prod', 'dev/anna')).toBeUndefined();
  });

  it('are no more than 50,000, and those who signed in or were asked for last stay', () => {
    const targets = new RememberedTargets();
    targets.remember('dev', target('first'));
    targets.remember('dev', target('second'));
    for (let i = 0; i < 49_999; i++) {
      if (i === 49_998) targets.target('dev', 'first');
      targets.remember('dev', target(`anna-${i}`));
    }
    expect(targets.target('dev', 'first')).toBeDefined();
    expect(targets.target('dev', 'second')).toBeUndefined();
    expect(targets.target('dev', 'anna-49998')).toBeDefined();
  });

  it('take no more than 16 million characters', () => {
    const targets = new RememberedTargets();
    const large = { x: 'x'.repeat(500_000) };
    for (let i = 0; i < 100; i++) targets.remember('dev', target(`anna-${i}`, large));
    const known = Array.from({ length: 100 }, (_, i) => targets.target('dev', `anna-${i}`)).filter(Boolean);
    expect(known).toHaveLength(33);
    expect(targets.target('dev', 'anna-99')).toBeDefined();
  });
});
