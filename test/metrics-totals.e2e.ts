import { setTimeout as delay } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { ScriptedUpstream } from '../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag } from '../libs/domain/src/builders.suite.js';
import { eventually, SdkSession } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { type Entry, MetricsUpstream, type Sums, sumsOf } from './support/metrics.js';
import { hashOf, keyOf } from './support/upstream-world.js';

const EVALUATIONS = 1_000_000;
const SDKS = 50;
const POST = 500;
/** The one count of a post that no other has: how often it arrived, the whole post did. */
const MARKED = 1;
const FLAGS = 8;
const ENVIRONMENTS = Array.from(
  { length: 20 },
  (_, i) => `40000000-0000-4000-8000-${String(i).padStart(12, '0')}`,
);
const LANGUAGES = ['go', 'java', 'javascript', 'python'];

/** How a post came to its end: 200, refused, or broken off. After the others nobody knows whether it was taken. */
interface Posted {
  readonly marker: string;
  readonly environment: string;
  readonly entries: readonly Entry[];
  readonly accepted: boolean;
}

/** An SDK of one environment. What is not accepted it does not repeat: another post has another marker. */
class CountingSdk {
  private posts = 0;

  private constructor(
    private readonly number: number,
    private readonly gateways: readonly string[],
    private readonly environment: string,
    private readonly token: string,
  ) {}

  static async signIn(number: number, gateways: readonly string[]): Promise<CountingSdk> {
    const id = ENVIRONMENTS[number % ENVIRONMENTS.length] ?? '';
    const { token } = await SdkSession.signIn(gateways[number % 2] ?? '', { id, serverKey: keyOf(id) });
    return new CountingSdk(number, gateways, id, token);
  }

  async post(): Promise<Posted> {
    const n = this.posts++;
    const marker = `post-${this.number}-${n}`;
    const entries = [this.entry(marker, MARKED), ...this.usual(n)];
    // A balancer gives each connection to one of them.
    const gateway = this.gateways[(this.number + n) % this.gateways.length];
    const accepted = await fetch(`${gateway}/metrics/${this.environment}?cluster=1`, {
      method: 'POST',
      headers: { authorization: `Bearer ${this.token}` },
      body: JSON.stringify({ metricsData: entries, targetData: [{ identifier: `target-${n}`, name: 'T' }] }),
    }).then(
      async (response) => {
        await response.arrayBuffer();
        return response.status === 200;
      },
      () => false,
    );
    return { marker, environment: this.environment, entries, accepted };
  }

  private usual(n: number): Entry[] {
    const each = Math.floor((POST - MARKED) / FLAGS);
    return Array.from({ length: FLAGS }, (_, i) =>
      this.entry(`flag-${(n + i) % 12}`, i === 0 ? POST - MARKED - each * (FLAGS - 1) : each),
    );
  }

  private entry(flag: string, count: number): Entry {
    return {
      timestamp: Date.now(),
      count,
      metricsType: 'FFMETRICS',
      attributes: Object.entries({
        featureIdentifier: flag,
        variationIdentifier: this.number % 3 === 0 ? 'true' : 'false',
        SDK_TYPE: 'server',
        SDK_LANGUAGE: LANGUAGES[this.number % LANGUAGES.length] ?? '',
        SDK_VERSION: '1.0.0',
        target: 'global',
      }).map(([key, value]) => ({ key, value })),
    };
  }
}

const total = (sums: Sums) => Object.values(sums).reduce((sum, count) => sum + count, 0);

describe('A million evaluations of 50 SDKs and 20 environments, through two gateways and two forwarders (P7)', () => {
  let upstream: MetricsUpstream;
  let flags: ScriptedUpstream;
  let set: ServiceSet;
  let sdks: CountingSdk[];
  let posted: Posted[];

  beforeEach(async () => {
    posted = [];
    upstream = await MetricsUpstream.start();
    flags = await ScriptedUpstream.start(
      Object.fromEntries(
        ENVIRONMENTS.map((id) => [
          id,
          { flags: [aFlag('flag-0')], segments: [], apiKeys: [hashOf(keyOf(id))] },
        ]),
      ),
    );
    set = await ServiceSet.start(
      [
        'nats',
        'redis',
        'ingestor-1',
        'projector-1',
        'metrics-forwarder-1',
        'metrics-forwarder-2',
        'gateway-1',
        'gateway-2',
      ],
      '',
      { CLIENT_SERVICE: flags.url, METRIC_SERVICE: upstream.url, METRIC_POST_DURATION: '1' },
    );
    sdks = await Promise.all(Array.from({ length: SDKS }, (_, i) => CountingSdk.signIn(i, set.gateways)));
  });
  afterEach(async () => {
    await set.dispose();
    await upstream.stop();
    flags.close();
  });

  const accepted = () => posted.filter((post) => post.accepted);
  /** Posts until so many evaluations more are accepted. */
  const postMore = async (evaluations: number) => {
    let left = evaluations / POST;
    await Promise.all(
      sdks.map(async (sdk) => {
        while (left > 0) {
          left--;
          const post = await sdk.post();
          posted.push(post);
          if (post.accepted) continue;
          left++;
          await delay(100);
        }
      }),
    );
  };
  /** How often each post is upstream, by its marker. */
  const arrivals = () => {
    const seen = new Map<string, number>();
    for (const { attributes, count } of upstream.taken.flatMap(({ entries }) => entries)) {
      const flag = attributes.find(({ key }) => key === 'featureIdentifier')?.value ?? '';
      if (flag.startsWith('post-')) seen.set(flag, (seen.get(flag) ?? 0) + count);
    }
    return seen;
  };
  const allArrived = () =>
    eventually(
      () => {
        const seen = arrivals();
        return accepted().filter(({ marker }) => !seen.has(marker)).length;
      },
      (missing) => missing === 0,
    );
  const environmentSums = (
    posts: readonly { environment: string; entries: readonly Entry[] }[],
    of: string,
  ) => sumsOf(posts.filter(({ environment }) => environment === of));

  it('are there exactly once, when nothing goes wrong', async () => {
    await postMore(EVALUATIONS);
    await allArrived();
    expect(posted.every((post) => post.accepted)).toBe(true);
    expect(total(sumsOf(posted))).toBe(EVALUATIONS);
    for (const id of ENVIRONMENTS)
      expect(environmentSums(upstream.taken, id)).toEqual(environmentSums(posted, id));
    console.log(`${posted.length} posts of SDKs became ${upstream.taken.length} posts upstream`);
  });

  it('are all there, and no more than a batch for each environment and crash twice, whatever goes wrong', async () => {
    await postMore(EVALUATIONS * 0.2);

    upstream.answer = () => 500;
    await postMore(EVALUATIONS * 0.1);
    const refused = upstream.refused;
    await eventually(
      () => upstream.refused,
      (now) => now > refused + 5,
    );
    upstream.answer = () => 200;

    // Taken upstream, and its forwarder does not live to hear it.
    upstream.answer = () => 'hold';
    await postMore(EVALUATIONS * 0.1);
    await eventually(
      () => upstream.held,
      (held) => held > 0,
    );
    await set.stop('metrics-forwarder-1', 'SIGKILL');
    upstream.answer = () => 200;
    upstream.release();
    await set.start('metrics-forwarder-1');

    const untilNats = postMore(EVALUATIONS * 0.2);
    await set.stop('nats', 'SIGKILL');
    await delay(500);
    await set.start('nats');
    await untilNats;

    set.pause('gateway-2');
    set.pause('metrics-forwarder-2');
    const untilPaused = postMore(EVALUATIONS * 0.2);
    await delay(3000);
    set.resume('gateway-2');
    set.resume('metrics-forwarder-2');
    await untilPaused;

    const untilKilled = postMore(EVALUATIONS * 0.2);
    await set.stop('gateway-1', 'SIGKILL');
    await set.start('gateway-1');
    await untilKilled;
    await allArrived();
    // What nobody heard of may be on its way as well.
    await eventually(
      async () => {
        const { 'metrics-forwarder': forwarder } = await set.status('metrics-forwarder-2');
        return forwarder?.['backlog'] as { messages: number } | undefined;
      },
      (backlog) => backlog?.messages === 0,
    );

    const crashes = 2;
    const seen = arrivals();
    let twice = 0;
    for (const id of ENVIRONMENTS) {
      const posts = posted.filter(({ environment }) => environment === id);
      // A post arrives whole, however it was added up with others.
      const times = posts.flatMap((post) => Array.from({ length: seen.get(post.marker) ?? 0 }, () => post));
      expect(environmentSums(upstream.taken, id)).toEqual(sumsOf(times));
      for (const { marker, accepted: isAccepted } of posts) {
        if (isAccepted) expect(seen.get(marker)).toBeGreaterThanOrEqual(1);
      }
      const more = times.length - new Set(times).size;
      const largest = Math.max(...upstream.of(id).map((post) => markersIn(post.entries)));
      expect(more).toBeLessThanOrEqual(crashes * largest);
      twice += more;
    }
    expect(total(sumsOf(accepted()))).toBe(EVALUATIONS);
    const doubtful = posted.filter((post) => !post.accepted);
    console.log(
      `${accepted().length} posts accepted, ${doubtful.length} not, of which ${doubtful.filter(({ marker }) => seen.has(marker)).length} ` +
        `arrived as well; ${twice} posts arrived twice after ${crashes} crashes; ${upstream.taken.length} posts upstream`,
    );
  });
});

function markersIn(entries: readonly Entry[]): number {
  return entries.filter(({ attributes }) =>
    attributes.some(({ key, value }) => key === 'featureIdentifier' && value?.startsWith('post-')),
  ).length;
}
