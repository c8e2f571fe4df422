import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import fc from 'fast-check';

import {
  type MetricsReport,
  parkedBody,
  parkedIn,
  type ParkedReport,
  parkedSubject,
  type Position,
  reportBody,
  reportSubject,
} from '#libs/domain';
import { EmbeddedEventLog, EventLog, type NewMessage, type StreamName, type Taken } from '#libs/event-log';
import { Telemetry } from '#libs/observability';
import { SaasClient } from '#libs/saas-client';

import { MetricsForwarder, type MetricsForwarderOptions } from './metrics-forwarder.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const HOUR_MS = 3_600_000;
const NOON = Date.UTC(2026, 0, 1, 12);

/** The queue of the log, in memory, and what was answered for its messages. */
class Queue {
  readonly waiting: { subject: string; id: string; body: string }[] = [];
  /** Of all that is not done, in somebody's hands too. */
  readonly undone = new Set<string>();
  readonly done: string[] = [];
  readonly kept: string[] = [];
  /** Messages that may have been given to another taker. */
  readonly lost = new Set<string>();
  /** Messages that went back, with the delay; those that went back for less than a second come again at once. */
  readonly back: (readonly [id: string, delayMs: number])[] = [];
  /** What the next answers fail with. */
  failure: Error | undefined;
  takers = 0;
  private arrival = Promise.withResolvers<void>();
  private readonly seen = new Set<string>();

  readonly parked = new Map<string, ParkedReport>();
  parkingFails: Error | undefined;
  parkedReads = 0;
  /** What `backlog` says that the bounds cost, and that waits beside what is here. */
  dropped = 0;
  more = 0;

  async append(stream: StreamName, message: NewMessage): Promise<Position> {
    if (stream === 'FF_METRICS_PARKED') {
      if (this.parkingFails) throw this.parkingFails;
      this.parked.set(message.subject, parkedIn(message.body));
      return { epoch: 'e', sequence: this.parked.size };
    }
    if (!this.seen.has(message.id)) this.put(message);
    this.seen.add(message.id);
    return { epoch: 'e', sequence: this.seen.size };
  }

  /** Gives a message out, also when it was given out before. */
  put(message: NewMessage): void {
    this.waiting.push(message);
    this.undone.add(message.id);
    this.arrival.resolve();
    this.arrival = Promise.withResolvers();
  }

  async *take(signal: AbortSignal): AsyncIterable<Taken> {
    this.takers++;
    const aborted = once(signal, 'abort');
    while (!signal.aborted) {
      const message = this.waiting.shift();
      if (message) yield this.taken(message);
      else await Promise.race([this.arrival.promise, aborted]);
    }
  }

  async backlog(stream?: StreamName) {
    const messages = stream === 'FF_METRICS_PARKED' ? this.parked.size : this.undone.size + this.more;
    return { messages, bytes: 0, dropped: this.dropped };
  }

  /** All that is parked, in portions of one. */
  async *latest() {
    this.parkedReads++;
    for (const parked of this.parked.values()) yield [{ body: parkedBody(parked, NOON) }];
  }

  private taken(message: NewMessage): Taken {
    const { id, subject, body } = message;
    const answer = async (record: () => void) => {
      if (this.failure) throw this.failure;
      record();
    };
    return {
      subject,
      body,
      time: NOON,
      done: () =>
        answer(() => {
          this.done.push(id);
          this.undone.delete(id);
        }),
      keep: () =>
        answer(() => {
          if (this.lost.has(id)) throw new Error('it may be in the hands of another taker');
          this.kept.push(id);
        }),
      back: (delayMs = 0) =>
        answer(() => {
          this.back.push([id, delayMs]);
          if (delayMs < 1000) setTimeout(() => this.put(message), delayMs);
        }),
    };
  }
}

interface Post {
  readonly environment: string;
  readonly headers: IncomingHttpHeaders;
  readonly query: URLSearchParams;
  readonly bytes: number;
  readonly counts: readonly { flag: string; count: number }[];
  readonly targets: readonly unknown[];
}
/** A status, with headers; undefined for no answer at all. */
type Answer = number | readonly [status: number, headers: Record<string, string>] | undefined;

/** Takes tokens and counts as a test says. */
class Upstream {
  readonly posts: Post[] = [];
  /** What was answered with 200, by flag. */
  readonly taken = new Map<string, number>();
  signIns = 0;
  answer: (post: Post) => Answer | Promise<Answer> = () => 200;
  answerToSignIn: () => number = () => 200;
  private readonly server: Server;

  constructor() {
    this.server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const { pathname, searchParams } = new URL(request.url ?? '', 'http://host');
        const body = JSON.parse(Buffer.concat(chunks).toString());
        if (pathname === '/config/proxy/auth') {
          const claims = Buffer.from('{"account":"acme","cluster_identifier":"2"}').toString('base64url');
          const token = `e30.${claims}.token-${++this.signIns}`;
          response.writeHead(this.answerToSignIn()).end(JSON.stringify({ authToken: token }));
          return;
        }
        void this.take(
          {
            environment: pathname.replace('/events/metrics/', ''),
            headers: request.headers,
            query: searchParams,
            bytes: Buffer.concat(chunks).length,
            counts: body.metricsData.map(
              ({ count, attributes }: { count: number; attributes: { key: string; value: string }[] }) => ({
                flag: attributes.find(({ key }) => key === 'featureIdentifier')?.value,
                count,
              }),
            ),
            targets: body.targetData,
          },
          response,
        );
      });
    });
  }

  async start(): Promise<string> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    if (this.server.listening) await once(this.server.close(), 'close');
  }

  private async take(post: Post, response: ServerResponse): Promise<void> {
    this.posts.push(post);
    const answer = await this.answer(post);
    if (answer === undefined) return void response.destroy();
    const [status, headers] = typeof answer === 'number' ? [answer, {}] : answer;
    if (status === 200) {
      for (const { flag, count } of post.counts) this.taken.set(flag, (this.taken.get(flag) ?? 0) + count);
    }
    response.writeHead(status, headers).end('null');
  }
}

async function until(holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 120_000; !holds();) {
    if (Date.now() > deadline) throw new Error(`it did not come about: ${String(holds)}`);
    await delay(5);
  }
}

let upstream: Upstream;
let queue: Queue;
let telemetry: Telemetry;
let url: string;
let logged: string[];
let forwarders: MetricsForwarder[];
let ids: number;

beforeEach(async () => {
  logged = [];
  forwarders = [];
  ids = 0;
  const note = (message: unknown) => void logged.push(String(message));
  Logger.overrideLogger({ log: note, warn: note, error: note });
  queue = new Queue();
  telemetry = new Telemetry();
  upstream = new Upstream();
  url = await upstream.start();
});
afterEach(async () => {
  await Promise.all(forwarders.map((forwarder) => forwarder.stop()));
  await upstream.stop();
  jest.useRealTimers();
  Logger.overrideLogger(['log', 'warn', 'error']);
});

function start(
  options: Partial<MetricsForwarderOptions> = {},
  waitMs = 10,
  log = queue as unknown as EventLog,
): MetricsForwarder {
  const saas = new SaasClient({
    baseUrl: `${url}/config`,
    metricsUrl: `${url}/events`,
    proxyKey: { current: 'key' },
    streamIdleTimeoutMs: HOUR_MS,
  });
  const forwarder = new MetricsForwarder(
    log,
    saas,
    telemetry,
    { windowMs: 10, shutdownGraceMs: 5000, ...options },
    (_failures, _random, askedMs = 0) => Math.max(waitMs, askedMs),
  );
  forwarders.push(forwarder);
  forwarder.start();
  return forwarder;
}

const counted = (flag: string, count = 1, environment = DEV, more: Record<string, string> = {}) =>
  ({
    environment,
    counts: [
      { timestamp: NOON, count, attributes: { featureIdentifier: flag, variationIdentifier: 'on', ...more } },
    ],
    targets: [],
  }) satisfies MetricsReport;
/** Puts a report into the log. Returns the message's id. */
function report(of: MetricsReport): string {
  const id = `message-${++ids}`;
  void queue.append('FF_METRICS', messageOf(id, of));
  return id;
}
const messageOf = (id: string, of: MetricsReport) => ({
  subject: reportSubject(of),
  id,
  body: reportBody(of, { id, time: NOON }),
});

describe('What a forwarder shows to Prometheus', () => {
  it('counts posts of each environment by whether they were taken, and says what waits', async () => {
    upstream.answer = ({ environment }) => (environment === PROD ? 404 : 200);
    queue.dropped = 3;
    report(counted('a'));
    report(counted('a', 1, PROD));
    start();
    await until(() => queue.done.length === 2);
    const page = await telemetry.page();
    expect(page).toContain(`ff_proxy_metrics_forwarded{envID="${DEV}",error="false"} 1\n`);
    expect(page).toContain(`ff_proxy_metrics_forwarded{envID="${PROD}",error="true"} 1\n`);
    expect(page).toContain('\nff_relay_metrics_parked_total 1\n');
    expect(page).toContain('\nff_relay_metrics_dropped_messages_total{stream="FF_METRICS"} 3\n');
    expect(page).toMatch(/^ff_relay_metrics_waiting_messages \d$/m);
  });
});

describe('Counts', () => {
  it('are gathered, merged by environment and posted with a token, in the words of the protocol', async () => {
    report(counted('a', 2));
    report(counted('a', 3));
    report({
      ...counted('b', 5),
      targets: [{ identifier: 'anna', name: 'Anna', attributes: { plan: 'pro' } }],
    });
    report(counted('a', 7, PROD));
    const forwarder = start();
    await until(() => queue.done.length === 4);

    const inDev = upstream.posts.find(({ environment }) => environment === DEV);
    expect(upstream.posts).toHaveLength(2);
    expect(upstream.signIns).toBe(1);
    expect(inDev).toMatchObject({
      headers: {
        authorization: expect.stringMatching(/^Bearer e30\./),
        'harness-accountid': 'acme',
        'harness-environmentid': DEV,
        'content-type': 'application/json',
        connection: 'keep-alive',
      },
      counts: [
        { flag: 'a', count: 5 },
        { flag: 'b', count: 5 },
      ],
      targets: [{ identifier: 'anna', name: 'Anna', attributes: [{ key: 'plan', value: 'pro' }] }],
    });
    expect(inDev?.query.get('cluster')).toBe('2');
    expect(forwarder.status()).toMatchObject({
      ready: true,
      held: 0,
      unsentEvaluations: 0,
      lastPost: { evaluations: expect.any(Number) },
    });
  });

  it('are acknowledged when the upstream has taken them, and not before', async () => {
    const answer = Promise.withResolvers<Answer>();
    upstream.answer = () => answer.promise;
    const id = report(counted('a'));
    start();
    await until(() => upstream.posts.length === 1);
    expect(queue.done).toEqual([]);
    answer.resolve(200);
    await until(() => queue.done.length === 1);
    expect(queue.done).toEqual([id]);
  });

  it('that come to 1 MiB are posted at once', async () => {
    for (let i = 0; i < 5; i++) report(counted(`flag-${i}`, 1, DEV, { note: 'x'.repeat(256 * 1024) }));
    start({ windowMs: HOUR_MS });
    await until(() => queue.done.length === 4);
    expect(upstream.posts).toHaveLength(1);
  });

  it('of many messages are posted before the log stops giving out more', async () => {
    for (let i = 0; i < 600; i++) report(counted('a'));
    for (let i = 0; i < 400; i++) report(counted('a', 1, PROD));
    const forwarder = start({ windowMs: HOUR_MS });
    await until(() => queue.done.length === 600);
    expect(upstream.posts).toMatchObject([{ environment: DEV, counts: [{ flag: 'a', count: 600 }] }]);
    expect(forwarder.status()).toMatchObject({ held: 400 });
  });

  it('are kept from other forwarders while they wait', async () => {
    jest.useFakeTimers({
      doNotFake: ['setTimeout', 'setImmediate', 'nextTick', 'Date', 'queueMicrotask', 'performance'],
    });
    const id = report(counted('a'));
    const forwarder = start({ windowMs: HOUR_MS });
    await until(() => forwarder.status()['held'] === 1);
    jest.advanceTimersByTime(20_000);
    expect(queue.kept).toEqual([id, id]);
  });

  it('are dropped, and that is counted, when they are not to be gathered at all', async () => {
    report(counted('a', 40));
    report(counted('b', 2));
    const forwarder = start({ windowMs: 0 });
    await until(() => queue.done.length === 2);
    expect(forwarder.status()).toMatchObject({ isSending: false, unsentEvaluations: 42 });
    expect(await telemetry.page()).toContain('\nff_relay_metrics_unsent_evaluations_total 42\n');
    expect(logged.filter((line) => line.includes('METRIC_POST_DURATION is 0'))).toHaveLength(1);
    expect(upstream.posts).toEqual([]);
  });
});

describe('An upstream that does not take counts now', () => {
  it.each<[string, Answer]>([
    ['fails', 500],
    ['is overloaded', 429],
    ['refuses the token, and the next one too', 401],
    ['breaks off', undefined],
  ])('and %s gets them later, and other environments go on meanwhile', async (_, failure) => {
    let isWell = false;
    upstream.answer = ({ environment }) => (environment === DEV && !isWell ? failure : 200);
    report(counted('a', 2));
    report(counted('b', 3, PROD));
    const forwarder = start();
    await until(() => queue.back.length >= 3 && upstream.taken.get('b') === 3);
    report(counted('b', 4, PROD));
    await until(() => upstream.taken.get('b') === 7);
    expect(forwarder.status()).toMatchObject({
      waiting: [{ environment: DEV, failures: expect.any(Number) }],
    });

    isWell = true;
    await until(() => upstream.taken.get('a') === 2);
    await until(() => queue.done.length === 3);
    expect(forwarder.status()).toMatchObject({ waiting: [], held: 0 });
    expect(logged.filter((line) => line.includes('stay in the log'))).toHaveLength(1);
  });

  it('since it never answers, is given up in time, and other environments go on meanwhile', async () => {
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    const limits: number[] = [];
    const hurried = jest.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => {
      limits.push(ms);
      return timeout(500);
    });
    try {
      upstream.answer = ({ environment }) => (environment === DEV ? new Promise<Answer>(() => {}) : 200);
      report(counted('a', 2));
      start({}, HOUR_MS);
      await until(() => upstream.posts.length === 1);
      report(counted('b', 3, PROD));
      await until(() => upstream.taken.get('b') === 3);
      expect(queue.back).toEqual([]);
      await until(() => queue.back.length === 1);
      expect(queue.back).toEqual([['message-1', HOUR_MS]]);
      expect(Math.max(...limits)).toBe(30_000);
    } finally {
      hurried.mockRestore();
    }
  });

  it('is left alone for as long as it asks', async () => {
    upstream.answer = () => [503, { 'retry-after': '120' }];
    report(counted('a'));
    start();
    await until(() => queue.back.length === 1);
    expect(queue.back).toEqual([['message-1', 120_000]]);
  });

  it('is not asked for new tokens without an end, and nothing is parked when it gives none', async () => {
    upstream.answerToSignIn = () => 404;
    report(counted('a'));
    start({}, HOUR_MS);
    await until(() => queue.back.length === 1);
    expect(queue.back).toEqual([['message-1', HOUR_MS]]);
    expect(upstream.signIns).toBe(1);
    expect(queue.parked.size).toBe(0);
  });

  it('is not said to fail any more once it refuses for good', async () => {
    upstream.answer = () => (upstream.posts.length === 1 ? 500 : 404);
    report(counted('a'));
    const forwarder = start();
    await until(() => queue.done.length === 1);
    expect(queue.back.length).toBeGreaterThan(0);
    expect(forwarder.status()).toMatchObject({ waiting: [], parked: { last: { environment: DEV } } });
  });

  it.each<[string, number, number]>([
    ['nothing waits any more', 0, 5000],
    ['none of its counts has come again, since others have them', 1000, 65_000],
  ])('is not said to fail any more once %s', async (_, more, afterMs) => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance'] });
    upstream.answer = () => 500;
    queue.more = 1000;
    const id = report(counted('a'));
    const forwarder = start({}, 20_000);
    await until(() => {
      jest.advanceTimersByTime(10);
      return queue.back.length === 1;
    });
    await jest.advanceTimersByTimeAsync(20_000);
    expect(forwarder.status()).toMatchObject({ waiting: [{ environment: DEV, failures: 1 }] });
    queue.undone.delete(id);
    queue.more = more;
    await jest.advanceTimersByTimeAsync(afterMs);
    expect(forwarder.status()).toMatchObject({ waiting: [] });
  });

  it('gets what nobody tried later than all else that waits may be looked at', async () => {
    upstream.answer = () => 500;
    queue.more = 1_000_000;
    const forwarder = start({}, HOUR_MS);
    await until(() => forwarder.status()['backlog'] !== undefined);
    const tried = report(counted('a'));
    await until(() => queue.back.length === 1);
    const untried = report(counted('a'));
    await until(() => queue.back.length === 2);
    expect(queue.back).toEqual([
      [tried, HOUR_MS],
      [untried, expect.any(Number)],
    ]);
    expect(queue.back[1]?.[1]).toBeGreaterThan(HOUR_MS + 1_000_000);
  });

  it('does not keep others from theirs, though more of it waits than a forwarder takes, and before them', async () => {
    upstream.answer = ({ environment }) => (environment === DEV ? 500 : 200);
    const folder = await mkdtemp(join(tmpdir(), 'ff-relay-counts-'));
    const log = await EmbeddedEventLog.open(folder);
    const append = (count: number, environment: string) =>
      Promise.all(
        Array.from({ length: count }, () => {
          const of = counted('a', 1, environment);
          const message = messageOf(`message-${++ids}`, of);
          return log.append('FF_METRICS', message);
        }),
      );
    await append(3000, DEV);
    await append(100, PROD);
    start({}, HOUR_MS, log);
    await until(() => upstream.taken.get('a') === 100);
    await forwarders.pop()?.stop();
    await log.close();
    await rm(folder, { recursive: true });
  });
});

describe('A token that is refused', () => {
  it('is replaced, and the post is made again at once', async () => {
    upstream.answer = ({ headers }) => (headers.authorization?.endsWith('token-1') ? 401 : 200);
    report(counted('a', 2));
    start({}, HOUR_MS);
    await until(() => queue.done.length === 1);
    expect(upstream.signIns).toBe(2);
    expect(queue.back).toEqual([]);
  });
});

describe('Counts that the upstream finds too many', () => {
  it('are posted in halves', async () => {
    upstream.answer = ({ counts }) => (counts.length > 3 ? 413 : 200);
    for (let i = 0; i < 10; i++) report(counted(`flag-${i}`, i + 1));
    start({ windowMs: 50 });
    await until(() => queue.done.length === 10);
    expect([...upstream.taken.values()].reduce((a, b) => a + b)).toBe(55);
    expect(queue.back).toEqual([]);
  });

  it('in one message are posted in parts', async () => {
    upstream.answer = ({ counts, targets }) => (counts.length + targets.length > 2 ? 413 : 200);
    const counts = Array.from({ length: 9 }, (_, i) => counted(`flag-${i}`, i + 1).counts[0]!);
    const targets = Array.from({ length: 4 }, (_, i) => ({
      identifier: `t-${i}`,
      name: 't',
      attributes: {},
    }));
    const id = report({ environment: DEV, counts, targets });
    start();
    await until(() => queue.done.length === 1);
    expect(queue.done).toEqual([id]);
    expect([...upstream.taken.values()].reduce((a, b) => a + b, 0)).toBe(45);
    expect([queue.back, queue.undone.size, queue.parked.size]).toEqual([[], 0, 0]);
  });
});

describe('Counts that the upstream will not take', () => {
  const parked = () => [...queue.parked.values()];

  it('are parked alone with the reason, told of once, and the rest is posted', async () => {
    upstream.answer = ({ counts }) => (counts.some(({ flag }) => flag.startsWith('bad')) ? 400 : 200);
    for (const flag of ['a', 'b', 'bad', 'c', 'bad too', 'd']) report(counted(flag));
    const forwarder = start({ windowMs: 50 });
    await until(() => queue.done.length === 6);
    expect(queue.back).toEqual([]);
    expect(Object.fromEntries(upstream.taken)).toEqual({ a: 1, b: 1, c: 1, d: 1 });
    const reason = expect.stringContaining('was answered with 400');
    expect(parked().toSorted((a, b) => a.id.localeCompare(b.id))).toEqual([
      { id: 'message-3', environment: DEV, reason, report: counted('bad') },
      { id: 'message-5', environment: DEV, reason, report: counted('bad too') },
    ]);
    expect(forwarder.status()).toMatchObject({ held: 0, parked: { last: { environment: DEV, reason } } });
    expect(logged.filter((line) => line.includes('Parked'))).toHaveLength(1);
  });

  const several = (...flags: string[]) => ({
    ...counted('a'),
    counts: flags.flatMap((flag) => counted(flag).counts),
  });
  const refuseBad = ({ counts }: Post) => (counts.some(({ flag }) => flag.startsWith('bad')) ? 400 : 200);

  it.each([400, 413, 422])(
    'since the answer to one of many in a message is %d, are parked alone',
    async (status) => {
      upstream.answer = ({ counts }) => (counts.some(({ flag }) => flag === 'bad') ? status : 200);
      const good = Array.from({ length: 1000 }, (_, i) => `flag-${i}`);
      report(several(...good.with(700, 'bad')));
      start();
      await until(() => queue.done.length === 1);
      expect(parked()).toMatchObject([{ environment: DEV, report: counted('bad') }]);
      expect(upstream.taken.size).toBe(999);
      expect(upstream.posts.length).toBeLessThanOrEqual(1 + 2 * Math.log2(1024));
    },
  );

  it('though in many places among others, are parked, and nothing else', async () => {
    upstream.answer = refuseBad;
    const flags = Array.from({ length: 500 }, (_, i) => `${i % 9 === 0 || i < 40 ? 'bad' : 'flag'}-${i}`);
    for (let i = 0; i < 500; i += 10) report(several(...flags.slice(i, i + 10)));
    start({ windowMs: 50 });
    await until(() => queue.done.length === 50);
    const taken = flags.filter((flag) => flag.startsWith('flag'));
    expect([...upstream.taken.keys()].toSorted()).toEqual(taken.toSorted());
  });

  it('since it takes nothing, are parked as they came, after few posts', async () => {
    upstream.answer = () => 400;
    for (let i = 0; i < 200; i++) report(several(...Array.from({ length: 40 }, (_, k) => `flag-${i}-${k}`)));
    start({ windowMs: 50 });
    await until(() => queue.done.length === 200);
    expect(new Set(parked().map(({ id }) => id))).toEqual(new Set(queue.done));
    expect(upstream.posts.length).toBeLessThanOrEqual(64);
  });

  it('are found later when the upstream fails meanwhile, and what it took of their message is not posted again', async () => {
    upstream.answer = (post) => (upstream.posts.length === 3 ? 500 : refuseBad(post));
    const id = report(several('a', 'b', 'bad', 'c'));
    start();
    await until(() => queue.done.length === 2);
    expect(queue.done).toEqual([id, `${id}.rest`]);
    expect(Object.fromEntries(upstream.taken)).toEqual({ a: 1, b: 1, c: 1 });
    expect(parked()).toMatchObject([{ report: counted('bad') }]);
  });

  it('wait by themselves when they cannot be parked, also when the log does not hear of it at once', async () => {
    upstream.answer = refuseBad;
    queue.parkingFails = new Error('no room');
    const id = report(several('a', 'bad'));
    const away = jest.spyOn(queue, 'append').mockRejectedValueOnce(new Error('no room'));
    away.mockRejectedValueOnce(new Error('the log is away'));
    start();
    await until(() => queue.back.length === 1);
    expect(queue.back).toEqual([[`${id}.rest`, 60_000]]);
    expect(queue.done).toEqual([id]);
    expect(Object.fromEntries(upstream.taken)).toEqual({ a: 1 });
  });

  it.each([403, 404])('since the answer is %d, are parked together', async (status) => {
    upstream.answer = () => status;
    for (const flag of ['a', 'b', 'c']) report(counted(flag));
    start();
    await until(() => queue.done.length === 3);
    expect(parked()).toMatchObject([{ id: 'message-1' }, { id: 'message-2' }, { id: 'message-3' }]);
    expect(upstream.posts.length).toBeLessThanOrEqual(2);
  });

  it('since one count alone is too much for it, are parked', async () => {
    upstream.answer = ({ counts }) => (counts.some(({ flag }) => flag === 'huge') ? 413 : 200);
    report({ ...counted('a'), counts: ['a', 'huge', 'b'].flatMap((flag) => counted(flag).counts) });
    start();
    await until(() => parked().length === 1 && upstream.taken.size === 2);
    expect(parked()[0]?.report).toEqual(counted('huge'));
  });

  it('since nobody can read them, are parked, and others are not held up', async () => {
    queue.put({ subject: `ff.metrics.v1.${DEV}`, id: 'noise', body: 'noise' });
    queue.put({ subject: `ff.metrics.v1.${DEV}`, id: 'more noise', body: 'more noise' });
    report(counted('a'));
    start();
    await until(() => queue.done.length === 3);
    expect(parked()).toMatchObject([
      { environment: DEV, text: 'noise', reason: expect.stringContaining('not JSON') },
      { environment: DEV, text: 'more noise' },
    ]);
  });

  it('are told of by environment and reason, also those of before, and read again only when they change', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance'] });
    const put = (one: ParkedReport) => void queue.parked.set(parkedSubject(one), one);
    const park = (id: string, environment: string, reason: string) =>
      put({ id, environment, reason, report: counted('a', 3, environment) });
    const reasons = async (forwarder: MetricsForwarder) => {
      await jest.advanceTimersByTimeAsync(60_000);
      return (forwarder.status()['parked'] as { reasons: unknown }).reasons;
    };
    park('1', DEV, 'no');
    park('2', PROD, 'gone');
    park('3', PROD, 'gone');
    put({ id: '4', environment: PROD, reason: 'not JSON', text: 'noise' });
    const forwarder = start();
    expect(await reasons(forwarder)).toEqual([
      { environment: PROD, reason: 'gone', messages: 2, evaluations: 6 },
      { environment: DEV, reason: 'no', messages: 1, evaluations: 3 },
      { environment: PROD, reason: 'not JSON', messages: 1, evaluations: 0 },
    ]);
    expect(queue.parkedReads).toBe(1);
    for (let i = 0; i < 1100; i++) park(`many-${i}`, DEV, `reason ${i % 30}`);
    expect(await reasons(forwarder)).toHaveLength(20);
    expect(queue.parkedReads).toBe(2);
    queue.parked.clear();
    expect(await reasons(forwarder)).toEqual([]);
    expect(queue.parkedReads).toBe(2);
  });

  it('stay in the queue when they cannot be parked', async () => {
    upstream.answer = () => 400;
    queue.parkingFails = new Error('no room');
    report(counted('a'));
    start();
    await until(() => queue.back.length === 1);
    expect(queue.back).toEqual([['message-1', 60_000]]);
    expect(queue.done).toEqual([]);
    expect(logged.filter((line) => line.includes('cannot be parked: Error: no room'))).toHaveLength(1);
  });
});

describe('Sums', () => {
  const flag = fc.constantFrom('a', 'b', 'c', 'd', 'bad');
  const answer = fc.constantFrom<Answer>(200, 200, 500, 429, 413, 400, 401, undefined);

  it('are the same upstream and parked together, whatever is refused, split, merged, retried and given out again', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.tuple(flag, fc.integer({ min: 1, max: 9 })), { minLength: 1 }), {
          maxLength: 12,
        }),
        fc.array(answer, { maxLength: 12 }),
        fc.array(fc.nat(), { maxLength: 4 }),
        async (reports, answers, repeats) => {
          queue = new Queue();
          telemetry = new Telemetry();
          upstream.taken.clear();
          upstream.answer = ({ counts }) => {
            if (counts.length === 0) return 200;
            const next = answers.length > 0 ? answers.shift() : 200;
            return next === 200 && counts.some(({ flag: name }) => name === 'bad') ? 400 : next;
          };
          const wanted = new Map<string, number>();
          const messages = reports.map((counts) => {
            for (const [name, count] of counts) wanted.set(name, (wanted.get(name) ?? 0) + count);
            const of = {
              ...counted('a'),
              counts: counts.flatMap(([name, count]) => counted(name, count).counts),
            };
            return messageOf(report(of), of);
          });
          const forwarder = start({ windowMs: 2 }, 1);
          for (const repeat of repeats) {
            const message = messages[repeat % messages.length];
            if (message) queue.put(message);
          }
          const kept = () => {
            const parked = [...queue.parked.values()].flatMap(({ report: of }) => of?.counts ?? []);
            const all = new Map(upstream.taken);
            for (const { count, attributes } of parked) {
              const name = attributes['featureIdentifier'] ?? '';
              all.set(name, (all.get(name) ?? 0) + count);
            }
            return all;
          };
          const total = (sums: Map<string, number>) => [...sums.values()].reduce((a, b) => a + b, 0);
          await until(() => total(kept()) >= total(wanted));
          await forwarder.stop();
          expect(kept()).toEqual(wanted);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('A message that the log gives out again', () => {
  it('while it is held is counted once', async () => {
    const of = counted('a', 3);
    report(of);
    const forwarder = start({ windowMs: 100 });
    await until(() => forwarder.status()['held'] === 1);
    queue.put(messageOf('message-1', of));
    await until(() => queue.done.length === 1);
    expect(upstream.taken.get('a')).toBe(3);
    expect(queue.waiting).toEqual([]);
  });

  it('since it did not hear that it is done is acknowledged, and not posted again', async () => {
    const of = counted('a', 3);
    report(of);
    upstream.answer = () => {
      queue.failure = new Error('the log is away');
      return 200;
    };
    start();
    await until(() => upstream.taken.get('a') === 3);
    queue.failure = undefined;
    queue.put(messageOf('message-1', of));
    await until(() => queue.done.length === 1);
    expect(upstream.posts).toHaveLength(1);
  });
});

describe('Messages that may have been given to another forwarder', () => {
  it('are not posted with the others of their batch, and are when they come again', async () => {
    const id = report(counted('a', 2));
    report(counted('b', 3));
    queue.lost.add(id);
    const forwarder = start({ windowMs: 50 });
    await until(() => queue.done.length === 1);
    expect(Object.fromEntries(upstream.taken)).toEqual({ b: 3 });
    expect(forwarder.status()).toMatchObject({ held: 0 });
    queue.lost.clear();
    queue.put(messageOf(id, counted('a', 2)));
    await until(() => queue.done.length === 2);
    expect(Object.fromEntries(upstream.taken)).toEqual({ a: 2, b: 3 });
    expect(queue.back).toEqual([]);
  });

  it('are not posted while nobody can tell', async () => {
    report(counted('a', 2));
    const forwarder = start({ windowMs: HOUR_MS });
    await until(() => forwarder.status()['held'] === 1);
    queue.failure = new Error('the log is away');
    await forwarder.stop();
    expect(upstream.posts).toEqual([]);
  });

  it('while they are divided are left alone with what is left of them', async () => {
    const flags = ['a', 'b', 'bad', 'c'];
    const id = report({ ...counted('a'), counts: flags.flatMap((flag) => counted(flag).counts) });
    const other = report(counted('d'));
    upstream.answer = ({ counts }) => {
      if (counts.length === 2) queue.lost.add(id);
      return counts.some(({ flag }) => flag === 'bad') ? 400 : 200;
    };
    const forwarder = start({ windowMs: 50 });
    await until(() => queue.done.length === 1);
    await forwarder.stop();
    expect(Object.fromEntries(upstream.taken)).toEqual({ a: 1, b: 1, d: 1 });
    expect([queue.done, queue.back, queue.parked.size]).toEqual([[other], [], 0]);
  });
});

describe('A forwarder', () => {
  it('goes on when the log was away', async () => {
    const failing = jest.spyOn(queue, 'take').mockImplementationOnce(() => {
      throw new Error('the log is away');
    });
    report(counted('a'));
    start();
    await until(() => queue.done.length === 1);
    expect(failing).toHaveBeenCalledTimes(2);
  });

  it('that stops posts what it has gathered', async () => {
    for (let i = 0; i < 3; i++) report(counted('a'));
    const forwarder = start({ windowMs: HOUR_MS });
    await until(() => forwarder.status()['held'] === 3);
    await forwarder.stop();
    expect(upstream.taken.get('a')).toBe(3);
    expect(queue.done).toHaveLength(3);
  });

  it('that stops waits for the upstream only so long, and what is not taken goes back at once', async () => {
    upstream.answer = () => new Promise(() => undefined);
    for (let i = 0; i < 3; i++) report(counted('a'));
    const forwarder = start({ windowMs: HOUR_MS, shutdownGraceMs: 50 });
    await until(() => forwarder.status()['held'] === 3);
    await forwarder.stop();
    expect(queue.back.map(([, delayMs]) => delayMs)).toEqual([0, 0, 0]);
    expect(queue.done).toEqual([]);
  });
});
