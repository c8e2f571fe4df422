import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import {
  type Bounds,
  type EventLog,
  type LoggedMessage,
  type NewMessage,
  type Taken,
  UnexpectedSequence,
  UnknownEpoch,
} from './index.js';

/** A log under test, and the means to close and open it again with what it holds. */
export interface LogUnderTest {
  open(metrics?: Bounds): Promise<EventLog>;
  dispose(): Promise<void>;
}

/** Not all at once: each has to be done within seconds, on a loaded machine too. */
export async function inWaves(count: number, work: (i: number) => Promise<unknown>): Promise<void> {
  const wave = 200;
  for (let from = 0; from < count; from += wave) {
    const length = Math.min(wave, count - from);
    await Promise.all(Array.from({ length }, (_, i) => work(from + i)));
  }
}

/** What every EventLog promises. */
export function eventLogContract(adapter: string, create: () => Promise<LogUnderTest>): void {
  describe(`An event log (${adapter})`, () => {
    let subject: LogUnderTest;
    let log: EventLog;
    let stop: AbortController;
    let ids = 0;

    beforeEach(async () => {
      subject = await create();
      log = await subject.open();
      stop = new AbortController();
    });
    afterEach(async () => {
      stop.abort();
      await log.close();
      await subject.dispose();
    });

    const reopen = async () => {
      await log.close();
      log = await subject.open();
    };
    const message = (on: string, body: string, more: Partial<NewMessage> = {}): NewMessage => ({
      subject: `ff.facts.v1.${on}`,
      id: `id-${++ids}`,
      body,
      ...more,
    });
    const append = (on: string, body: string, more?: Partial<NewMessage>) =>
      log.append('FF_FACTS', message(on, body, more));
    const bodies = (messages: readonly LoggedMessage[]) => messages.map(({ body }) => body);
    const all = async (portions: AsyncIterable<readonly LoggedMessage[]>) =>
      (await Array.fromAsync(portions)).flat();

    /** The first `count` bodies of a tail. */
    const first = async (count: number, portions: AsyncIterable<readonly LoggedMessage[]>) => {
      const seen: string[] = [];
      for await (const portion of portions) if (seen.push(...bodies(portion)) >= count) break;
      return seen;
    };

    describe('appending', () => {
      it('gives rising positions of one epoch', async () => {
        const a = await append('dev.flag.a', '1');
        const b = await append('dev.flag.b', '1');
        expect(b.sequence).toBeGreaterThan(a.sequence);
        expect(b.epoch).toBe(a.epoch);
        expect(await log.head('FF_FACTS')).toEqual(b);
      });

      it('keeps the order of calls that do not wait for each other', async () => {
        const positions = await Promise.all(
          Array.from({ length: 300 }, (_, i) => append('dev.flag.a', String(i))),
        );
        const sequences = positions.map(({ sequence }) => sequence);
        expect(sequences).toEqual(sequences.toSorted((a, b) => a - b));
        expect(new Set(sequences).size).toBe(300);
      });

      it('is done once for one id, however often it is called', async () => {
        const once = message('dev.flag.a', '1');
        const [one, two] = await Promise.all([log.append('FF_FACTS', once), log.append('FF_FACTS', once)]);
        await append('dev.flag.a', '2');
        expect(two).toEqual(one);
        expect(await log.append('FF_FACTS', once)).toEqual(one);
        expect(bodies(await all(log.history('FF_FACTS', once.subject)))).toEqual(['1', '2']);
      });

      it('treats a repeat as done although the subject has moved on', async () => {
        const once = message('dev.flag.a', '1', { expectedSequence: 0 });
        const position = await log.append('FF_FACTS', once);
        await append('dev.flag.a', '2');
        expect(await log.append('FF_FACTS', once)).toEqual(position);
      });

      it('is refused when the subject is not where the writer thinks', async () => {
        const { sequence } = await append('dev.flag.a', '1', { expectedSequence: 0 });
        await append('dev.flag.other', 'x', { expectedSequence: 0 });
        await append('dev.flag.a', '2', { expectedSequence: sequence });
        await expect(append('dev.flag.a', 'late', { expectedSequence: sequence })).rejects.toThrow(
          UnexpectedSequence,
        );
        await expect(append('dev.flag.a', 'late', { expectedSequence: 0 })).rejects.toThrow(
          UnexpectedSequence,
        );
        expect(bodies(await all(log.history('FF_FACTS', 'ff.facts.v1.dev.flag.a')))).toEqual(['1', '2']);
      });

      it('lets one of many writers that expect the same go first, and refuses the rest', async () => {
        const writers = await Promise.allSettled(
          Array.from({ length: 20 }, (_, i) => append('dev.flag.a', String(i), { expectedSequence: 0 })),
        );
        expect(writers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      });

      it('carries any text', async () => {
        const body = JSON.stringify({ text: 'ü 🏁 \u2028 \\ "', long: 'x'.repeat(200_000) });
        await append('dev.flag.a', body);
        expect(bodies(await all(log.history('FF_FACTS', 'ff.facts.v1.dev.flag.a')))).toEqual([body]);
      });

      it('tells when it happened', async () => {
        const before = Date.now();
        await append('dev.flag.a', '1');
        const [logged] = await all(log.latest('FF_FACTS'));
        expect(logged?.time).toBeGreaterThanOrEqual(before);
        expect(logged?.time).toBeLessThanOrEqual(Date.now());
      });

      it('keeps streams apart', async () => {
        await append('dev.flag.a', 'fact');
        await log.append('FF_CHANGES', { subject: 'ff.changes.v1.dev.flag.a', id: 'n', body: 'notice' });
        expect(bodies(await all(log.latest('FF_FACTS')))).toEqual(['fact']);
        expect(bodies(await all(log.latest('FF_CHANGES')))).toEqual(['notice']);
      });
    });

    describe('reading the latest', () => {
      it('gives the last message of every subject, in the order of the log', async () => {
        for (const [on, body] of [
          ['a', '1'],
          ['b', '1'],
          ['a', '2'],
          ['c', '1'],
        ] as const)
          await append(`dev.flag.${on}`, body);
        const latest = await all(log.latest('FF_FACTS'));
        expect(latest.map((m) => [m.subject.at(-1), m.body])).toEqual([
          ['b', '1'],
          ['a', '2'],
          ['c', '1'],
        ]);
      });

      it('can be narrowed to the subjects of an environment', async () => {
        await append('dev.flag.a', 'dev');
        await append('dev2.flag.a', 'dev2');
        await append('prod.flag.a', 'prod');
        expect(bodies(await all(log.latest('FF_FACTS', 'ff.facts.v1.dev.')))).toEqual(['dev']);
      });

      it('reaches every one of thousands of subjects', async () => {
        await inWaves(3000, (i) => append(`dev.flag.f${i}`, String(i)));
        expect(await all(log.latest('FF_FACTS'))).toHaveLength(3000);
      });

      it('of nothing gives nothing', async () => {
        expect(await all(log.latest('FF_FACTS'))).toEqual([]);
        expect((await log.head('FF_FACTS')).sequence).toBe(0);
      });
    });

    describe('the history of a subject', () => {
      it('keeps the newest 64 facts, and the state of others that did not change', async () => {
        await append('dev.flag.quiet', 'still here');
        for (let i = 1; i <= 70; i++) await append('dev.flag.busy', String(i));
        const history = bodies(await all(log.history('FF_FACTS', 'ff.facts.v1.dev.flag.busy')));
        expect(history).toEqual(Array.from({ length: 64 }, (_, i) => String(i + 7)));
        expect(bodies(await all(log.latest('FF_FACTS')))).toEqual(['still here', '70']);
      });

      it('begins after what was dropped', async () => {
        expect((await log.beginning('FF_FACTS')).sequence).toBe(0);
        const { epoch } = await append('dev.flag.busy', '1');
        expect(await log.beginning('FF_FACTS')).toEqual({ epoch, sequence: 0 });
        for (let i = 2; i <= 70; i++) await append('dev.flag.busy', String(i));
        expect(await log.beginning('FF_FACTS')).toEqual({ epoch, sequence: 6 });
      });
    });

    describe('a tail', () => {
      it('reads what is there, then what comes', async () => {
        await append('dev.flag.a', '1');
        const seen = first(3, log.tail('FF_FACTS', undefined, stop.signal));
        await append('dev.flag.a', '2');
        await append('dev.flag.b', '3');
        expect(await seen).toEqual(['1', '2', '3']);
      });

      it('starts after the position that it is given', async () => {
        await append('dev.flag.a', '1');
        const position = await append('dev.flag.a', '2');
        await append('dev.flag.a', '3');
        expect(await first(1, log.tail('FF_FACTS', position, stop.signal))).toEqual(['3']);
      });

      it('misses nothing while many append', async () => {
        const seen = first(1000, log.tail('FF_FACTS', undefined, stop.signal));
        await Promise.all(Array.from({ length: 1000 }, (_, i) => append(`dev.flag.f${i % 30}`, String(i))));
        expect(await seen).toEqual(Array.from({ length: 1000 }, (_, i) => String(i)));
      });

      it('ends when it is told to', async () => {
        const seen = all(log.tail('FF_FACTS', undefined, stop.signal));
        await append('dev.flag.a', '1');
        stop.abort();
        expect((await seen).length).toBeLessThanOrEqual(1);
      });

      it('ends when the log is closed', async () => {
        const seen = all(log.tail('FF_FACTS', undefined, stop.signal));
        await log.close();
        expect(await seen).toEqual([]);
      });

      it('refuses a position of another log', async () => {
        const { sequence } = await append('dev.flag.a', '1');
        await expect(
          first(1, log.tail('FF_FACTS', { epoch: 'another', sequence }, stop.signal)),
        ).rejects.toThrow(UnknownEpoch);
      });

      it('refuses a position that the stream has not come to, since it has lost what was there', async () => {
        const { epoch, sequence } = await append('dev.flag.a', '1');
        await expect(
          first(1, log.tail('FF_FACTS', { epoch, sequence: sequence + 1 }, stop.signal)),
        ).rejects.toThrow(UnknownEpoch);
      });
    });

    describe('what is remembered', () => {
      it('is recalled by its name, the last of it, after a restart too', async () => {
        await log.remember('projector', { sequence: 1 });
        await log.remember('projector', { sequence: 2, epoch: 'ü' });
        await log.remember('up-stream_1', { connected: true });
        expect(await log.recall('projector')).toEqual({ sequence: 2, epoch: 'ü' });
        await reopen();
        expect(await log.recall('projector')).toEqual({ sequence: 2, epoch: 'ü' });
        expect(await log.recall('up-stream_1')).toEqual({ connected: true });
      });

      it('of a name that was never used is nothing', async () => {
        expect(await log.recall('projector')).toBeUndefined();
      });
    });

    describe('the queue', () => {
      const put = (body: string, id = body) =>
        log.append('FF_METRICS', { subject: 'ff.metrics.v1.dev', id, body });
      const putAll = (count: number) => inWaves(count, (i) => put(String(i)));
      const taker = (signal = stop.signal) => {
        const taking = log.take(signal)[Symbol.asyncIterator]();
        return async (): Promise<Taken> => {
          const { done, value } = await taking.next();
          if (done) throw new Error('there is nothing more to take');
          return value;
        };
      };
      const takeSome = async (count: number, next: () => Promise<Taken>) => {
        const taken: Taken[] = [];
        while (taken.length < count) taken.push(await next());
        return taken;
      };
      const numbers = (count: number) => Array.from({ length: count }, (_, i) => String(i));
      const inOrder = (taken: readonly { body: string }[]) =>
        taken.map(({ body }) => body).toSorted((a, b) => Number(a) - Number(b));

      it('hands out what is there, and what comes, about in the order in which it came', async () => {
        const before = Date.now();
        await put('0');
        const next = taker();
        const first = await next();
        expect(first).toMatchObject({ subject: 'ff.metrics.v1.dev', body: '0' });
        expect(first.time).toBeGreaterThanOrEqual(before);
        await put('1');
        await put('2');
        expect((await takeSome(2, next)).map(({ body }) => body)).toEqual(['1', '2']);
      });

      it('loses what is done, for good', async () => {
        await put('0');
        await (await taker()()).done();
        expect(await log.backlog()).toMatchObject({ messages: 0, bytes: 0, oldestMs: undefined });
        await reopen();
        await put('1');
        expect((await taker()()).body).toBe('1');
      });

      it('hands out again what was not done, after a restart', async () => {
        await putAll(5);
        const [first] = await takeSome(3, taker());
        await first?.done();
        await reopen();
        expect(inOrder(await takeSome(4, taker()))).toEqual(['1', '2', '3', '4']);
      });

      it('hands out what was given back, and no sooner than was asked', async () => {
        await put('0');
        const next = taker();
        const since = performance.now();
        // As fine as a random backoff is.
        await (await next()).back(500.12345678);
        await put('1');
        expect((await next()).body).toBe('1');
        const again = await next();
        expect(again.body).toBe('0');
        expect(performance.now() - since).toBeGreaterThanOrEqual(490);
        await again.back();
        expect((await next()).body).toBe('0');
      });

      it('leaves what is kept with its taker', async () => {
        await put('0');
        const mine = await taker()();
        await mine.keep();
        await put('1');
        expect((await taker()()).body).toBe('1');
        await mine.done();
        expect(await log.backlog()).toMatchObject({ messages: 1 });
      });

      it('keeps nothing with a taker that has done it or given it back', async () => {
        await put('0');
        await put('1');
        const [done, back] = await takeSome(2, taker());
        await done?.done();
        await back?.back();
        await expect(done?.keep()).rejects.toThrow('another taker');
        await expect(back?.keep()).rejects.toThrow('another taker');
      });

      it('never hands one message to two takers', async () => {
        await putAll(600);
        const taken: Taken[] = [];
        const enough = new AbortController();
        const takeAll = async () => {
          for await (const message of log.take(enough.signal))
            if (taken.push(message) === 600) enough.abort();
        };
        await Promise.all([takeAll(), takeAll(), takeAll()]);
        expect(inOrder(taken)).toEqual(numbers(600));
        await Promise.all(taken.map((message) => message.done()));
        expect(await log.backlog()).toMatchObject({ messages: 0 });
      });

      it('hands no more than 2,000 messages to one taker, and more when some are done', async () => {
        await putAll(2100);
        const [one, other] = [taker(), taker()];
        const mine = await takeSome(2000, one);
        let more: Taken | undefined;
        const another = one().then((message) => (more = message));
        const rest = await takeSome(100, other);
        expect(more).toBeUndefined();
        expect(inOrder([...mine, ...rest])).toEqual(numbers(2100));
        await mine[0]?.done();
        await put('2100');
        expect((await another).body).toBe('2100');
      });

      it('gives to others what a taker that stops has not looked at', async () => {
        await putAll(10);
        const mine = new AbortController();
        const next = taker(mine.signal);
        const first = await next();
        mine.abort();
        await expect(next()).rejects.toThrow('nothing more');
        expect(inOrder(await takeSome(9, taker()))).toEqual(['1', '2', '3', '4', '5', '6', '7', '8', '9']);
        await first.done();
        expect(await log.backlog()).toMatchObject({ messages: 9 });
      });

      it('takes a message once for one id, when it is done already, too', async () => {
        await put('0', 'id');
        await put('0', 'id');
        expect(await log.backlog()).toMatchObject({ messages: 1 });
        await (await taker()()).done();
        await put('0', 'id');
        expect(await log.backlog()).toMatchObject({ messages: 0 });
      });

      it('tells what waits in it', async () => {
        expect(await log.backlog()).toMatchObject({ messages: 0, bytes: 0 });
        await put('x'.repeat(1000));
        await put('y'.repeat(1000));
        const { messages, bytes, oldestMs } = await log.backlog();
        expect(messages).toBe(2);
        expect(bytes).toBeGreaterThanOrEqual(2000);
        expect(oldestMs).toBeGreaterThanOrEqual(0);
      });

      it('drops the oldest when there is too much', async () => {
        await reopenWith({ keepForMs: 60_000, keepBytes: 10_000 });
        for (let i = 0; i < 20; i++) await put(`${i}`.padEnd(1000), String(i));
        const { messages, bytes, dropped } = await log.backlog();
        expect(bytes).toBeLessThanOrEqual(10_000);
        expect(messages).toBeGreaterThan(1);
        expect(dropped).toBe(20 - messages);
        const kept = await takeSome(messages, taker());
        expect(kept.map(({ body }) => body.trim())).toEqual(numbers(20).slice(-messages));
      });

      it('drops what is too old', async () => {
        await reopenWith({ keepForMs: 200, keepBytes: 10_000 });
        await put('0');
        while ((await log.backlog()).messages > 0);
        expect((await log.backlog()).dropped).toBe(1);
        await put('1');
        expect((await taker()()).body).toBe('1');
      });

      it('is left when the log is closed', async () => {
        const taking = Array.fromAsync(log.take(stop.signal));
        await log.close();
        expect(await taking).toEqual([]);
      });

      it('counts what it drops, also across restarts, and what is done is not dropped', async () => {
        await reopenWith({ keepForMs: 60_000, keepBytes: 10_000 });
        for (let i = 0; i < 20; i++) {
          await put(`${i}`.padEnd(1000), String(i));
          if (i === 2) await (await taker()()).done();
        }
        const { messages, dropped } = await log.backlog();
        expect(dropped).toBe(19 - messages);
        await reopenWith({ keepForMs: 60_000, keepBytes: 5000 });
        const after = await log.backlog();
        expect(after.messages).toBeLessThan(messages);
        expect(after.dropped).toBe(19 - after.messages);
      });

      const reopenWith = async (metrics: Bounds) => {
        await log.close();
        log = await subject.open(metrics);
      };
    });

    describe('what is parked', () => {
      const park = (environment: string, id: string, body = id) =>
        log.append('FF_METRICS_PARKED', { subject: `ff.parked.v1.${environment}.${id}`, id, body });
      const parked = async (prefix?: string) => bodies(await all(log.latest('FF_METRICS_PARKED', prefix)));

      it('stays until it is removed, after a restart too', async () => {
        await park('dev', '1');
        const second = await park('prod', '2');
        await park('dev', '3');
        expect(await parked('ff.parked.v1.dev.')).toEqual(['1', '3']);
        await log.remove('FF_METRICS_PARKED', second);
        await log.remove('FF_METRICS_PARKED', second);
        await reopen();
        expect(await parked()).toEqual(['1', '3']);
      });

      it('is counted, and is no part of the queue', async () => {
        await park('dev', '1', 'x'.repeat(1000));
        expect(await log.backlog()).toMatchObject({ messages: 0 });
        const { messages, bytes, oldestMs, dropped } = await log.backlog('FF_METRICS_PARKED');
        expect([messages, dropped]).toEqual([1, 0]);
        expect(bytes).toBeGreaterThanOrEqual(1000);
        expect(oldestMs).toBeGreaterThanOrEqual(0);
      });

      it('of another log is not removed', async () => {
        const { sequence } = await park('dev', '1');
        await log.remove('FF_METRICS_PARKED', { epoch: 'another', sequence });
        expect(await parked()).toEqual(['1']);
      });
    });

    it('is reachable while it is open', () => {
      expect(log.reachable).toBe(true);
    });

    it('holds what it held after it was closed and opened again', async () => {
      const position = await append('dev.flag.a', '1');
      await reopen();
      expect(await log.head('FF_FACTS')).toEqual(position);
      const next = await append('dev.flag.a', '2', { expectedSequence: position.sequence });
      expect(next.epoch).toBe(position.epoch);
      expect(bodies(await all(log.history('FF_FACTS', 'ff.facts.v1.dev.flag.a')))).toEqual(['1', '2']);
    });
  });
}
