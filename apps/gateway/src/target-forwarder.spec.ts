import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type SignedInTarget, UpstreamRefusal, UpstreamUnreachable } from '#libs/saas-client';

import { TargetForwarder } from './target-forwarder.js';

const KEY = 'an-sdk-key';
const lines: string[] = [];
beforeEach(() => {
  lines.length = 0;
  const note = (line: unknown) => void lines.push(String(line));
  Logger.overrideLogger({ log: note, warn: note, error: note });
});
const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
  Logger.overrideLogger(['log', 'warn', 'error']);
});

const anna = (more: Partial<SignedInTarget> = {}): SignedInTarget => ({
  identifier: 'anna',
  name: 'Anna',
  ...more,
});
const numbered = (count: number, more: Partial<SignedInTarget> = {}) =>
  Array.from({ length: count }, (_, i) => anna({ ...more, identifier: `anna-${i}` }));

type Call = { readonly key: string; readonly target: SignedInTarget; readonly signal: AbortSignal };

/** A forwarder to an upstream that answers as the test says. */
function given(answer: (call: Call) => Promise<void> | void = () => undefined) {
  const calls: Call[] = [];
  const clock = { now: 1000 };
  let underWay = 0;
  let mostAtOnce = 0;
  const saas = {
    registerTarget: async (key: string, target: SignedInTarget, signal: AbortSignal) => {
      const call = { key, target, signal };
      calls.push(call);
      mostAtOnce = Math.max(mostAtOnce, ++underWay);
      try {
        await answer(call);
      } finally {
        underWay--;
      }
    },
  };
  const waits: number[] = [];
  const backoff = (failures: number, _random: number, askedMs = 0) => {
    waits.push(askedMs || failures);
    return 0;
  };
  const forwarder = new TargetForwarder(saas, backoff, () => clock.now);
  const settled = async () => {
    while (forwarder.status().waiting > 0) await new Promise((done) => setImmediate(done));
    return forwarder.status();
  };
  stops.push(() => forwarder.stop());
  return { forwarder, calls, clock, waits, settled, mostAtOnce: () => mostAtOnce };
}

/** An upstream that takes a call and does not answer it before it is told to. */
function holding() {
  const released = Promise.withResolvers<void>();
  const hold = ({ signal }: Call) =>
    Promise.race([
      released.promise,
      new Promise<void>((_, reject) =>
        signal.addEventListener('abort', () => reject(new UpstreamUnreachable('stopped'))),
      ),
    ]);
  return { hold, release: () => released.resolve() };
}

describe('The forwarder of targets', () => {
  it('tells of a target once, however often it signs in', async () => {
    const { forwarder, calls, settled } = given();
    for (let i = 0; i < 1000; i++) forwarder.offer(KEY, anna({ attributes: { plan: 'pro' } }));
    expect(await settled()).toEqual({ forwarded: 1, waiting: 0, dropped: 0 });
    for (let i = 0; i < 1000; i++) forwarder.offer(KEY, anna({ attributes: { plan: 'pro' } }));
    await settled();
    expect(calls).toMatchObject([{ key: KEY, target: anna({ attributes: { plan: 'pro' } }) }]);
  });

  it('tells of it again when it differs, or comes with another key, or after an hour', async () => {
    const { forwarder, calls, clock, settled } = given();
    forwarder.offer(KEY, anna());
    forwarder.offer(KEY, anna({ attributes: { plan: 'pro' } }));
    forwarder.offer('another-key', anna());
    await settled();
    expect(calls).toHaveLength(3);
    clock.now += 3_599_000;
    forwarder.offer(KEY, anna());
    await settled();
    expect(calls).toHaveLength(3);
    clock.now += 2000;
    forwarder.offer(KEY, anna());
    expect(await settled()).toEqual({ forwarded: 4, waiting: 0, dropped: 0 });
  });

  it('makes four calls at once, holds a thousand, drops and counts the rest, and says so once', async () => {
    const { hold, release } = holding();
    const { forwarder, calls, settled, mostAtOnce } = given(hold);
    for (const target of numbered(5000)) forwarder.offer(KEY, target);
    await new Promise((done) => setImmediate(done));
    expect(calls).toHaveLength(4);
    expect(forwarder.status()).toEqual({ forwarded: 0, waiting: 1000, dropped: 4000 });
    release();
    expect(await settled()).toEqual({ forwarded: 1000, waiting: 0, dropped: 4000 });
    expect(mostAtOnce()).toBe(4);
    expect(lines).toEqual([expect.stringContaining('dropped')]);
    // What was dropped is no known target.
    for (const target of numbered(5000).slice(4500)) forwarder.offer(KEY, target);
    expect(await settled()).toMatchObject({ forwarded: 1500 });
  });

  it('holds at most 8 MB of them', async () => {
    const { hold, release } = holding();
    const { forwarder, settled } = given(hold);
    for (const target of numbered(100, { attributes: { x: 'x'.repeat(500_000) } })) {
      forwarder.offer(KEY, target);
    }
    expect(forwarder.status()).toEqual({ forwarded: 0, waiting: 16, dropped: 84 });
    release();
    await settled();
  });

  it('tries a target again when time may heal what failed, with growing waits, or as it is asked', async () => {
    const failures = [
      new UpstreamUnreachable('no connection'),
      new UpstreamRefusal(503, 'POST /client/auth', 7000),
      new UpstreamRefusal(429, 'POST /client/auth', undefined),
    ];
    const { forwarder, calls, settled, waits } = given(() => {
      const failure = failures.shift();
      if (failure) throw failure;
    });
    forwarder.offer(KEY, anna());
    expect(await settled()).toEqual({ forwarded: 1, waiting: 0, dropped: 0 });
    expect(calls).toHaveLength(4);
    expect(waits).toEqual([1, 7000, 3]);
  });

  it('drops a target after four tries, says that once for all of them, and takes it when it comes again', async () => {
    const upstream = { isAway: true };
    const { forwarder, calls, settled } = given(() => {
      if (upstream.isAway) throw new UpstreamUnreachable('POST /client/auth: no connection');
    });
    for (const target of numbered(50)) forwarder.offer(KEY, target);
    expect(await settled()).toEqual({ forwarded: 0, waiting: 0, dropped: 50 });
    expect(calls).toHaveLength(200);
    expect(lines).toEqual([expect.stringContaining('no connection')]);
    upstream.isAway = false;
    for (const target of numbered(50)) forwarder.offer(KEY, target);
    expect(await settled()).toEqual({ forwarded: 50, waiting: 0, dropped: 50 });
    expect(lines.slice(1)).toEqual(['The upstream takes targets again']);
  });

  it('drops what is refused for good at once, and says each answer once', async () => {
    const { forwarder, calls, settled } = given(({ target }) => {
      if (target.identifier !== 'anna') throw new UpstreamRefusal(400, 'POST /client/auth', undefined);
    });
    for (const target of [...numbered(20), anna(), ...numbered(20)]) forwarder.offer(KEY, target);
    expect(await settled()).toEqual({ forwarded: 1, waiting: 0, dropped: 20 });
    expect(calls).toHaveLength(21);
    expect(lines).toEqual([expect.stringContaining('400')]);
  });

  it('never shows a key', async () => {
    const answers = [
      new UpstreamUnreachable('away'),
      new UpstreamRefusal(401, 'POST /client/auth', undefined),
    ];
    const { forwarder, settled } = given(() => {
      const answer = answers.shift();
      if (answer) throw answer;
    });
    forwarder.offer(KEY, anna());
    await settled();
    expect(lines).toHaveLength(2);
    expect(lines.join()).not.toContain(KEY);
    expect(JSON.stringify(forwarder.status())).not.toContain(KEY);
  });

  it('stops within a moment although nobody answers, and takes nothing more', async () => {
    jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] });
    try {
      const { hold } = holding();
      const { forwarder, calls, settled } = given(hold);
      for (const target of numbered(10)) forwarder.offer(KEY, target);
      const stopped = forwarder.stop();
      await jest.advanceTimersByTimeAsync(500);
      await stopped;
      expect(await settled()).toEqual({ forwarded: 0, waiting: 0, dropped: 10 });
      expect(calls).toHaveLength(4);
      forwarder.offer(KEY, anna());
      expect(forwarder.status()).toMatchObject({ waiting: 0, dropped: 11 });
    } finally {
      jest.useRealTimers();
    }
  });

  it('that stops waits for what is told in that moment', async () => {
    const { hold, release } = holding();
    const { forwarder } = given(hold);
    forwarder.offer(KEY, anna());
    const stopped = forwarder.stop();
    release();
    await stopped;
    expect(forwarder.status()).toEqual({ forwarded: 1, waiting: 0, dropped: 0 });
  });
});
