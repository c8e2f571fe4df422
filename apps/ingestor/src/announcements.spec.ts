import { describe, expect, it } from '@jest/globals';

import { Announcements, LAGGING_READS } from './announcements.js';

const SECOND_MS = 1000;
/** 1 s, 2 s, 4 s, … */
const doubling = (lags: number) => SECOND_MS * 2 ** (lags - 1);

const identifiers = (announcements: readonly { readonly identifier: string }[]) =>
  announcements.map(({ identifier }) => identifier);

describe('What was announced', () => {
  it('is waited for at its highest version, since the first', () => {
    const announced = new Announcements(doubling);
    for (const [now, version] of [2, 5, 3].entries()) announced.add('a', version, now);
    expect(announced.all).toMatchObject([{ identifier: 'a', version: 5, since: 0 }]);
  });

  it('is bounded', () => {
    const announced = new Announcements(doubling);
    const added = Array.from({ length: 1001 }, (_, i) => announced.add(`flag-${i}`, 1, 0));
    expect(added.indexOf(false)).toBe(1000);
    expect(announced.add('flag-7', 2, 0)).toBe(true);
  });

  it('and lacks in one read after the other is looked for at longer and longer distances, and then given up', () => {
    const announced = new Announcements(doubling);
    announced.add('a', 2, 0);
    const waits: number[] = [];
    let now = 0;
    for (let read = 1; read < LAGGING_READS; read++) {
      const { waitMs = 0, givenUp } = announced.lag(announced.all, now);
      expect(givenUp).toEqual([]);
      waits.push(waitMs / SECOND_MS);
      now += waitMs;
    }
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 64]);
    const { givenUp, waitMs } = announced.lag(announced.all, now);
    expect([identifiers(givenUp), waitMs, announced.all]).toEqual([['a'], undefined, []]);
  });

  it('is not given up sooner for reads that others ask for', () => {
    const announced = new Announcements(doubling);
    announced.add('a', 2, 0);
    announced.lag(announced.all, 0);
    for (let now = 10; now < 500; now += 10) {
      announced.add(`other-${now}`, 1, now);
      const { counted } = announced.lag(announced.all, now);
      expect(identifiers(counted)).toEqual([`other-${now}`]);
      announced.delete(`other-${now}`);
    }
    expect(announced.lag(announced.all, 600)).toMatchObject({ counted: [{ lags: 2 }], waitMs: 2000 });
  });

  it('at a higher version begins anew', () => {
    const announced = new Announcements(doubling);
    announced.add('a', 2, 0);
    for (let now = 0; now < 3 * SECOND_MS; now += SECOND_MS) announced.lag(announced.all, now);
    announced.add('a', 3, 3 * SECOND_MS);
    expect(announced.lag(announced.all, 3 * SECOND_MS)).toMatchObject({
      counted: [{ lags: 1 }],
      waitMs: 1000,
    });
  });

  it('together is looked for together', () => {
    const announced = new Announcements(() => SECOND_MS * Math.random());
    for (let i = 0; i < 100; i++) announced.add(`flag-${i}`, 2, 0);
    expect(readsUntilGivenUp(announced, 0)).toBe(LAGGING_READS);
  });

  it('one shortly after the other is looked for together, too', () => {
    const announced = new Announcements((lags) => doubling(lags) * Math.random());
    for (let now = 0; now < SECOND_MS; now += 10) {
      announced.add(`flag-${now}`, 2, now);
      announced.lag(announced.all, now);
    }
    expect(readsUntilGivenUp(announced, SECOND_MS)).toBeLessThan(40);
  });
});

/** How many are made, each when the one before it says. */
function readsUntilGivenUp(announced: Announcements, from: number): number {
  let reads = 0;
  for (let now = from; announced.all.length > 0; reads++)
    now += announced.lag(announced.all, now).waitMs ?? 0;
  return reads;
}
