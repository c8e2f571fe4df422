import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';

import type { Taken } from './event-log.js';
import { Hand, type Offer } from './hand.js';

describe('The hand of a taker', () => {
  let told: string[];
  let hand: Hand;
  let end: AbortController;
  beforeEach(() => {
    jest.useFakeTimers();
    told = [];
    hand = new Hand();
    end = new AbortController();
  });
  afterEach(() => {
    jest.restoreAllMocks();
    jest.useRealTimers();
  });

  const offer = (body: string): Offer => ({
    subject: 's',
    body,
    time: 0,
    done: async () => void told.push(`${body} done`),
    back: async (delayMs) => void told.push(`${body} back in ${delayMs}`),
    keep: async () => undefined,
    lapse: () => void told.push(`${body} lapsed`),
  });
  /** What the taker gets of these. */
  const take = (...offers: Offer[]) => {
    async function* arrivals() {
      for (const offered of offers) hand.hold(offered);
      yield offers;
    }
    const taking = hand.handOut(arrivals(), end.signal)[Symbol.asyncIterator]();
    return async (): Promise<Taken | undefined> => (await taking.next()).value;
  };

  it('loses a message about which nothing is said for 30 s', async () => {
    const next = take(offer('a'));
    const taken = await next();
    jest.advanceTimersByTime(29_999);
    expect(told).toEqual([]);
    jest.advanceTimersByTime(1);
    expect(told).toEqual(['a lapsed']);
    await taken?.back();
    expect(told).toEqual(['a lapsed']);
  });

  it('has a message for another 30 s from when it says that it is at it', async () => {
    const next = take(offer('a'));
    const taken = await next();
    jest.advanceTimersByTime(20_000);
    await taken?.keep();
    jest.advanceTimersByTime(29_999);
    expect(told).toEqual([]);
    await taken?.done();
    jest.advanceTimersByTime(60_000);
    expect(told).toEqual(['a done']);
  });

  it('has none any more of which the log hears too late that it is at it', async () => {
    const answer = Promise.withResolvers<void>();
    const next = take({ ...offer('a'), keep: () => answer.promise });
    const taken = await next();
    jest.advanceTimersByTime(20_000);
    const kept = taken?.keep();
    jest.advanceTimersByTime(10_000);
    answer.resolve();
    await expect(kept).rejects.toThrow('another taker');
    expect(told).toEqual(['a lapsed']);
  });

  it('has a message no longer than from when it asked, though the answer took its time', async () => {
    const answer = Promise.withResolvers<void>();
    const next = take({ ...offer('a'), keep: () => answer.promise });
    const taken = await next();
    const kept = taken?.keep();
    jest.advanceTimersByTime(5000);
    answer.resolve();
    await kept;
    jest.advanceTimersByTime(25_000);
    expect(told).toEqual(['a lapsed']);
  });

  it('knows what it lost while the process stood still, before any timer does', async () => {
    const next = take(offer('a'), offer('b'));
    const taken = await next();
    jest.spyOn(performance, 'now').mockReturnValue(performance.now() + 30_000);
    await expect(taken?.keep()).rejects.toThrow('another taker');
    await taken?.back();
    expect(await next()).toBeUndefined();
    expect(told).toEqual([]);
  });

  it('does not show what it lost before anybody looked', async () => {
    const next = take(offer('a'), offer('b'));
    await (await next())?.done();
    jest.advanceTimersByTime(30_000);
    expect(await next()).toBeUndefined();
    expect(told).toEqual(['a done', 'b lapsed']);
  });

  it('gives back what nobody looked at when it is the end, and leaves the rest to the taker', async () => {
    const next = take(offer('a'), offer('b'), offer('c'));
    const taken = await next();
    end.abort();
    expect(await next()).toBeUndefined();
    expect(told).toEqual(['b back in 0', 'c back in 0']);
    await taken?.back(5);
    expect(told.at(-1)).toBe('a back in 5');
  });

  it('gives back everything when it is emptied', async () => {
    await take(offer('a'), offer('b'))();
    hand.whenEmpty(() => told.push('empty'));
    await hand.giveBack();
    expect(told.toSorted()).toEqual(['a back in 0', 'b back in 0', 'empty']);
  });

  it('is full with 64 MiB, and has room again when some are gone', async () => {
    const mebibyte = 1024 * 1024;
    const large = Array.from({ length: 64 }, (_, i) => offer(String(i).padEnd(mebibyte)));
    const next = take(...large);
    const taken = await next();
    expect(hand.full).toBe(true);
    expect(hand.roomFor(mebibyte)).toBe(0);
    const room = hand.untilRoom(end.signal);
    await taken?.done();
    await room;
    expect(hand.roomFor(mebibyte)).toBe(1);
    expect(hand.roomFor(mebibyte / 2)).toBe(2);
  });
});
