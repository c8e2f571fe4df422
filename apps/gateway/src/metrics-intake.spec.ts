import { PassThrough, Readable } from 'node:stream';
import { finished } from 'node:stream/promises';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type MetricsReport, type Position, reportIn } from '#libs/domain';
import { type EventLog, MessageTooLarge, type NewMessage } from '#libs/event-log';
import { Telemetry } from '#libs/observability';

import { GatewayTelemetry } from './gateway-telemetry.js';
import { MetricsIntake, type MetricsIntakeOptions } from './metrics-intake.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const MIB = 1024 * 1024;

beforeAll(() => Logger.overrideLogger(false));
afterAll(() => Logger.overrideLogger(['log', 'warn', 'error']));

/** An intake, and what came into its log. */
function given(
  append: (message: NewMessage) => Promise<unknown> = async () => undefined,
  options: MetricsIntakeOptions = {},
) {
  const messages: NewMessage[] = [];
  const log: Pick<EventLog, 'append'> = {
    append: async (_, message) => {
      await append(message);
      messages.push(message);
      return {} as Position;
    },
  };
  const telemetry = new Telemetry();
  const intake = new MetricsIntake(
    log as EventLog,
    new GatewayTelemetry(telemetry, { environment: () => undefined }),
    options,
  );
  const reports = (): MetricsReport[] => messages.map(({ body }) => reportIn(body).report);
  return { intake, messages, reports, telemetry };
}

const entry = (flag: string) => ({
  timestamp: 1,
  count: 1,
  attributes: [
    { key: 'featureIdentifier', value: flag },
    { key: 'variationIdentifier', value: 'on' },
  ],
});
const bodyOf = (...flags: string[]) =>
  Readable.from([Buffer.from(JSON.stringify({ metricsData: flags.map(entry) }))]);
const refusedWith = (status: number) => expect.objectContaining({ status });

describe('The intake of counts', () => {
  it('is done when the log has every part, and each has an id of its own', async () => {
    const { intake, messages, reports } = given();
    const flags = Array.from({ length: 10_000 }, (_, i) => `flag-${i}`);
    await intake.take(DEV, bodyOf(...flags));
    expect(messages.length).toBeGreaterThan(2);
    expect(new Set(messages.map(({ id }) => id)).size).toBe(messages.length);
    expect(new Set(messages.map(({ subject }) => subject))).toEqual(new Set([`ff.metrics.v1.${DEV}`]));
    expect(messages.map(({ body }) => reportIn(body).id)).toEqual(messages.map(({ id }) => id));
    expect(reports().flatMap(({ counts }) => counts)).toHaveLength(10_000);
  });

  it('waits for the log', async () => {
    const flushed = Promise.withResolvers<void>();
    const { intake } = given(() => flushed.promise);
    let isDone = false;
    const taking = intake.take(DEV, bodyOf('a')).then(() => (isDone = true));
    await new Promise((done) => setImmediate(done));
    expect(isDone).toBe(false);
    flushed.resolve();
    await taking;
  });

  it('asks to come again when the log does not take all of it', async () => {
    let appends = 0;
    const { intake } = given(
      async () => {
        if (++appends > 1) throw new Error('the log is away');
      },
      { patienceMs: 0 },
    );
    const flags = Array.from({ length: 10_000 }, (_, i) => `flag-${i}`);
    await expect(intake.take(DEV, bodyOf(...flags))).rejects.toMatchObject({
      status: 503,
      headers: { 'retry-after': '5' },
    });
  });

  it.each<[string, string]>([
    ['no JSON', '{"metricsData":'],
    ['nothing', ''],
    ['no report', '[]'],
    ['entries of which none can be used', '{"metricsData":[{"count":-1}]}'],
    ['more objects than a report has', `{"metricsData":[${'{},'.repeat(2_000_000)}{}]}`],
    ['more than 32 MiB', `{"metricsData":[],"x":"${'x'.repeat(33 * MIB)}"}`],
  ])('refuses %s for good', async (_, text) => {
    const { intake, messages } = given();
    await expect(intake.take(DEV, Readable.from([Buffer.from(text)]))).rejects.toEqual(refusedWith(400));
    expect(messages).toEqual([]);
  });

  it('puts what comes at once into one message for each environment, added up', async () => {
    const { intake, messages, reports } = given();
    await Promise.all([
      ...Array.from({ length: 200 }, () => intake.take(DEV, bodyOf('a', 'b'))),
      ...Array.from({ length: 100 }, () => intake.take(PROD, bodyOf('a'))),
    ]);
    expect(messages).toHaveLength(2);
    const sums = reports().map(({ environment, counts }) => [
      environment,
      ...counts.map(({ count, attributes }) => [attributes['featureIdentifier'], count]),
    ]);
    expect(sums).toEqual([
      [DEV, ['a', 200], ['b', 200]],
      [PROD, ['a', 100]],
    ]);
  });

  it('gathers what comes while the log is at work, and loses none of it', async () => {
    const asked = Promise.withResolvers<void>();
    const free = Promise.withResolvers<void>();
    const { intake, reports } = given(() => {
      asked.resolve();
      return free.promise;
    });
    const first = intake.take(DEV, bodyOf('a'));
    await asked.promise;
    const bodies = Array.from({ length: 199 }, () => bodyOf('a'));
    const others = bodies.map((body) => intake.take(DEV, body));
    await Promise.all(bodies.map((body) => finished(body)));
    free.resolve();
    await Promise.all([first, ...others]);
    expect(reports().map(({ counts }) => counts.map(({ count }) => count))).toEqual([[1], [199]]);
  });

  it('tries again for a while, as the same message, when the log does not take it', async () => {
    const tried: string[] = [];
    const { intake, messages } = given(async ({ id }) => {
      if (tried.push(id) < 3) throw new Error('the log is away');
    });
    await intake.take(DEV, bodyOf('a'));
    expect(messages).toHaveLength(1);
    expect(new Set(tried).size).toBe(1);
  });

  it('refuses at once while the log is known to be away, and waits again once it was back', async () => {
    let isAway = true;
    let tries = 0;
    const { intake } = given(
      async () => {
        tries++;
        if (isAway) throw new Error('the log is away');
      },
      { patienceMs: 500 },
    );
    await expect(intake.take(DEV, bodyOf('a'))).rejects.toEqual(refusedWith(503));
    expect(tries).toBeGreaterThan(1);
    tries = 0;
    await expect(intake.take(DEV, bodyOf('a'))).rejects.toEqual(refusedWith(503));
    expect(tries).toBe(1);
    isAway = false;
    await intake.take(DEV, bodyOf('a'));
    isAway = true;
    tries = 0;
    await expect(intake.take(DEV, bodyOf('a'))).rejects.toEqual(refusedWith(503));
    expect(tries).toBeGreaterThan(1);
  });

  it('divides what is too large for this log', async () => {
    const { intake, reports } = given(async ({ body }) => {
      if (body.length > 2000) throw new MessageTooLarge('subject', body.length, 2000);
    });
    const flags = Array.from({ length: 1000 }, (_, i) => `flag-${i}`);
    await Promise.all([intake.take(DEV, bodyOf(...flags)), intake.take(DEV, bodyOf('one'))]);
    expect(reports().flatMap(({ counts }) => counts)).toHaveLength(1001);
  });

  it('refuses for good what the log will never take, and keeps what came with it', async () => {
    const { intake, reports } = given(async ({ body }) => {
      if (body.includes('a flag with a long name')) throw new MessageTooLarge('subject', 2, 1);
    });
    const answers = await Promise.allSettled([
      intake.take(DEV, bodyOf('a', 'a flag with a long name')),
      intake.take(DEV, bodyOf('b')),
    ]);
    expect(answers[0]).toMatchObject({ reason: { status: 400 } });
    const kept = reports().flatMap(({ counts }) =>
      counts.map(({ attributes }) => attributes['featureIdentifier']),
    );
    expect(new Set(kept)).toEqual(new Set(['a', 'b']));
  });

  it('asks to come again when one part is too large, and the log went away before another', async () => {
    const { intake } = given(
      async ({ body }) => {
        if (body.includes('a flag with a long name')) throw new MessageTooLarge('subject', 2, 1);
        throw new Error('the log is away');
      },
      { patienceMs: 0 },
    );
    await expect(intake.take(DEV, bodyOf('a flag with a long name', 'b'))).rejects.toEqual(refusedWith(503));
  });

  it('takes counts, drops them and counts that, when nothing is sent', async () => {
    const { intake, messages, telemetry } = given(undefined, { isKeeping: false });
    await intake.take(DEV, bodyOf('a', 'b'));
    await intake.take(DEV, bodyOf('a'));
    await expect(intake.take(DEV, Readable.from([Buffer.from('noise')]))).rejects.toEqual(refusedWith(400));
    expect(messages).toEqual([]);
    expect(await telemetry.page()).toContain('\nff_relay_metrics_unsent_evaluations_total 3\n');
    expect(intake.status()).toEqual({ countsAreDropped: true, unsentEvaluations: 3 });
    expect(given().intake.status()).toEqual({});
  });

  it('takes what says nothing, and leaves it at that', async () => {
    const { intake, messages } = given();
    await intake.take(DEV, Readable.from([Buffer.from('{"metricsData":[],"targetData":null}')]));
    expect(messages).toEqual([]);
  });

  it('holds 128 MiB of bodies that are on their way, and no more', async () => {
    const { intake } = given();
    const sending = Array.from({ length: 5 }, () => new PassThrough({ highWaterMark: 40 * MIB }));
    const taking = sending.map((body) => intake.take(DEV, body).catch((error: unknown) => error));
    for (const body of sending) body.write(Buffer.alloc(30 * MIB, 'x').fill('{"more":["', 0, 10));
    expect(await Promise.race(taking)).toEqual(refusedWith(503));

    // Those that were let in are read to their end, and leave room for others.
    for (const body of sending) body.end('"]}');
    const answers = await Promise.all(taking);
    expect(answers.filter((answer) => answer === undefined)).toHaveLength(4);
    await intake.take(DEV, bodyOf('a'));
  });

  it('gives up a body that breaks off', async () => {
    const { intake, messages } = given();
    const body = new PassThrough();
    body.write('{"metricsData":[');
    const taking = intake.take(DEV, body);
    body.destroy(new Error('aborted'));
    await expect(taking).rejects.toEqual(refusedWith(400));
    expect(messages).toEqual([]);
  });
});
