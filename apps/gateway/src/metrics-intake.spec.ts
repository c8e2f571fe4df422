import { PassThrough, Readable } from 'node:stream';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { type MetricsReport, type Position, reportIn } from '#libs/domain';
import { type EventLog, MessageTooLarge, type NewMessage } from '#libs/event-log';
import { Telemetry } from '#libs/observability';

import { GatewayTelemetry } from './gateway-telemetry.js';
import { MetricsIntake } from './metrics-intake.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const MIB = 1024 * 1024;

beforeAll(() => Logger.overrideLogger(false));
afterAll(() => Logger.overrideLogger(['log', 'warn', 'error']));

/** An intake, and what came into its log. */
function given(append: (message: NewMessage) => Promise<unknown> = async () => undefined) {
  const messages: NewMessage[] = [];
  const log: Pick<EventLog, 'append'> = {
    append: async (_, message) => {
      await append(message);
      messages.push(message);
      return {} as Position;
    },
  };
  const telemetry = new GatewayTelemetry(new Telemetry(), { environment: () => undefined });
  const intake = new MetricsIntake(log as EventLog, telemetry);
  const reports = (): MetricsReport[] => messages.map(({ body }) => reportIn(body).report);
  return { intake, messages, reports };
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
    const { intake } = given(async () => {
      if (++appends === 2) throw new Error('the log is away');
    });
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

  it('refuses for good what the log will never take', async () => {
    const { intake } = given(async () => {
      throw new MessageTooLarge('subject', 2, 1);
    });
    await expect(intake.take(DEV, bodyOf('a'))).rejects.toEqual(refusedWith(400));
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
    for (const body of sending) body.write(Buffer.alloc(30 * MIB, ' '));
    expect(await Promise.race(taking)).toEqual(refusedWith(503));

    // Those that were let in are read to their end, and leave room for others.
    for (const body of sending) body.end('{}');
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
