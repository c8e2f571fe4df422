import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import {
  type EventLog,
  type LoggedMessage,
  type NewMessage,
  UnexpectedSequence,
  UnknownEpoch,
} from './index.js';

/** A log under test, and the means to close and open it again with what it holds. */
export interface LogUnderTest {
  open(): Promise<EventLog>;
  dispose(): Promise<void>;
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
        await Promise.all(Array.from({ length: 3000 }, (_, i) => append(`dev.flag.f${i}`, String(i))));
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
