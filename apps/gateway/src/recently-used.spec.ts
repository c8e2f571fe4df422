import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { RecentlyUsed } from './recently-used.js';

describe('What was used recently', () => {
  it('is kept, and what was not used for longest goes first', () => {
    const map = new RecentlyUsed<number>(2);
    map.set('a', 1);
    map.set('b', 2);
    map.get('a');
    map.set('c', 3);
    expect([map.get('a'), map.get('b'), map.get('c')]).toEqual([1, undefined, 3]);
  });

  it('counts with what it weighs now', () => {
    const map = new RecentlyUsed<number>(10, 10);
    map.set('a', 1, 8);
    map.set('a', 2, 1);
    map.set('b', 3, 9);
    expect([map.get('a'), map.get('b')]).toEqual([2, 3]);
  });

  it('makes no room for what is too heavy, and forgets what that would have replaced', () => {
    const map = new RecentlyUsed<number>(10, 10);
    map.set('a', 1, 5);
    map.set('b', 2, 5);
    map.set('b', 3, 11);
    expect([map.get('a'), map.get('b')]).toEqual([1, undefined]);
  });

  it('is never more than its bounds allow, and the newest is always there', () => {
    const step = fc.record({ key: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'), weight: fc.nat(10) });
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        const map = new RecentlyUsed<number>(3, 15);
        for (const { key, weight } of steps) {
          map.set(key, weight, weight);
          expect(map.get(key)).toBe(weight);
          const left = ['a', 'b', 'c', 'd', 'e', 'f'].flatMap((other) => map.get(other) ?? []);
          expect(left.length).toBeLessThanOrEqual(3);
          expect(left.reduce((sum, each) => sum + each, 0)).toBeLessThanOrEqual(15);
        }
      }),
    );
  });
});
