import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Counter, Histogram } from 'prom-client';

import { PROPAGATION_BUCKETS_S, type Telemetry, UNSENT_EVALUATIONS } from '#libs/observability';

import type { EnvironmentViews } from './environment-views.js';
import type { Reader } from './stream-events.js';

/** Seconds; reads of a loaded environment are far below the first. */
const REQUEST_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const LENGTH_BUCKETS = [100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 32 * 1024 * 1024];
/** A header may claim any length; no body is longer that is taken. */
const MOST_LENGTH = 32 * 1024 * 1024;

/** Whoever watches the relay asks these, more often than any SDK. */
const UNCOUNTED = new Set(['/health', '/metrics']);

/** Where streams are opened. */
const STREAMS: Readonly<Record<Reader, string>> = { harness: '/stream', openfeature: '/ofrep/v1/events' };

const SDK_TYPES = new Set(['server', 'client', 'mobile']);
/** In lower case: SDKs of one language differ in how they write it. */
const SDK_LANGUAGES = new Set([
  '.net',
  'android',
  'c++',
  'cpp',
  'dart',
  'dotnet',
  'elixir',
  'erlang',
  'flutter',
  'go',
  'ios',
  'java',
  'javascript',
  'kotlin',
  'nodejs',
  'php',
  'python',
  'react native',
  'ruby',
  'rust',
  'swift',
  'typescript',
]);
const VERSION = /^\d{1,4}\.\d{1,4}\.\d{1,4}$/;
/** Of one environment, all its SDKs together: a browser's key is known to everybody, and its versions may be anything. */
const MOST_VERSIONS = 50;
const OTHER = 'other';

const LET_GO = ['revoked', 'slow', 'unreadable', 'notices-lost', 'old', 'upstream-lost', 'stopping'] as const;
/** Why a stream ends that its reader did not end. */
export type LetGo = (typeof LET_GO)[number];

/**
 * What a gateway counts and measures, under the Go relay's names where the meaning is the same (protocol §4.5). Labels say
 * the route and not the path, and an environment only to those who were let into it.
 */
export class GatewayTelemetry {
  private readonly requests: Counter<'url' | 'envID' | 'code'>;
  private readonly durations: Histogram<'url'>;
  private readonly lengths: Histogram;
  private readonly sdks: Counter<'envID' | 'sdk_type' | 'sdk_version' | 'sdk_language'>;
  private readonly opened: Counter<'topic'>;
  private readonly published: Counter<'topic' | 'error'>;
  private readonly ended: Counter<'reason'>;
  private readonly propagation: Histogram;
  private readonly unanswered: Counter;
  private readonly unsent: Counter;
  private readonly versions = new Map<string, Set<string>>();
  /** By requests whose paths do not name it. */
  private readonly environments = new WeakMap<FastifyRequest, string>();

  constructor(
    private readonly telemetry: Telemetry,
    private readonly views: Pick<EnvironmentViews, 'environment'>,
  ) {
    this.requests = telemetry.counter('ff_proxy_http_requests_total', 'Requests of SDKs that were answered', [
      'url',
      'envID',
      'code',
    ]);
    this.durations = telemetry.histogram(
      'ff_proxy_http_requests_duration',
      'Seconds that requests of SDKs took, streams left out',
      REQUEST_BUCKETS_S,
      ['url'],
    );
    this.lengths = telemetry.histogram(
      'ff_http_requests_content_length_histogram',
      'Bytes of the bodies of requests, as their headers tell',
      LENGTH_BUCKETS,
    );
    this.sdks = telemetry.counter(
      'ff_proxy_sdk_usage',
      'Posts of evaluation counts, by the SDK that counted',
      ['envID', 'sdk_type', 'sdk_version', 'sdk_language'],
    );
    const producer = 'ff_proxy_primary_to_sdk_sse_producer';
    this.unanswered = telemetry.counter(
      'ff_relay_unanswerable_evaluations_total',
      'Evaluations that ended without a variation, since the flag is wrong',
    );
    this.unsent = telemetry.counter(...UNSENT_EVALUATIONS);
    this.opened = telemetry.counter(`${producer}_subscription_requests`, 'Streams that SDKs opened', [
      'topic',
    ]);
    this.published = telemetry.counter(
      `${producer}_messages_published`,
      'Notices, each counted once however many streams it was for; error is true when they could not be told',
      ['topic', 'error'],
    );
    this.ended = telemetry.counter(
      'ff_relay_streams_let_go_total',
      'Streams of SDKs that the gateway ended',
      ['reason'],
    );
    for (const reason of LET_GO) this.ended.inc({ reason }, 0);
    this.propagation = telemetry.histogram(
      'ff_relay_propagation_seconds',
      'From a fact in the log to its notice on the streams of SDKs',
      PROPAGATION_BUCKETS_S,
    );
  }

  /** Counts whatever the server answers. */
  watch(server: FastifyInstance): void {
    server.addHook('onResponse', (request, reply, done) => {
      this.answered(request, reply);
      done();
    });
  }

  /** A request was let into an environment that its path does not name. */
  letIn(request: FastifyRequest, environment: string): void {
    this.environments.set(request, environment);
  }

  /** Nothing is said any more of an environment that is gone: others come, and there would be no end to the series. */
  async forget(environment: string): Promise<void> {
    this.versions.delete(environment);
    for (const counter of [this.requests, this.sdks, this.opened, this.published] as Counter[]) {
      for (const { labels } of (await counter.get()).values) {
        if (labels['envID'] === environment || labels['topic'] === environment) counter.remove(labels);
      }
    }
  }

  showStreams(hub: {
    openStreamsByEnvironment(): Iterable<readonly [environment: string, streams: number]>;
  }): void {
    this.telemetry.gauge('ff_relay_streams', 'Streams of SDKs that are open', ['envID'], (set) => {
      for (const [envID, streams] of hub.openStreamsByEnvironment()) set(streams, { envID });
    });
  }

  /** An SDK opened a stream. Its request counts now: it ends hours later, or never. */
  streamOpened(environment: string, reader: Reader): void {
    this.opened.inc({ topic: environment });
    this.requests.inc({ url: STREAMS[reader], envID: environment, code: 200 });
  }

  streamLetGo(reason: LetGo): void {
    this.ended.inc({ reason });
  }

  /** @param factTime when its fact was written, if it has one and is not told late for another reason */
  noticeTold(environment: string, factTime: number | undefined): void {
    this.published.inc({ topic: environment, error: 'false' });
    // Clocks differ.
    if (factTime !== undefined) this.propagation.observe(Math.max(0, Date.now() - factTime) / 1000);
  }

  noticeFailed(environment: string): void {
    this.published.inc({ topic: environment, error: 'true' });
  }

  /** Counts each SDK that a post of evaluation counts names. @param attributes of counts */
  countsRead(environment: string, attributes: Iterable<Readonly<Record<string, string>>>): void {
    const named = [...attributes].flatMap((each) => sdkIn(each) ?? []);
    const sdks = named.map((sdk) => this.bounded(environment, sdk));
    for (const sdk of new Map(sdks.map((each) => [keyOf(each), each])).values()) {
      this.sdks.inc({ envID: environment, ...sdk });
    }
  }

  /** Evaluations that were taken and are sent nowhere. */
  countsDropped(evaluations: number): void {
    this.unsent.inc(evaluations);
  }

  /** A flag served no variation that it has. */
  unanswerable(): void {
    this.unanswered.inc();
  }

  private bounded(environment: string, sdk: Sdk): Sdk {
    const versions = this.versions.get(environment) ?? new Set();
    this.versions.set(environment, versions);
    if (versions.size < MOST_VERSIONS) versions.add(keyOf(sdk));
    return versions.has(keyOf(sdk)) ? sdk : { ...sdk, sdk_version: OTHER };
  }

  private answered(request: FastifyRequest, reply: FastifyReply): void {
    const { routeOptions, headers } = request;
    const { url = 'unmatched' } = routeOptions;
    const { statusCode } = reply;
    const isStream = url === STREAMS.harness || url === STREAMS.openfeature;
    if (UNCOUNTED.has(url) || (isStream && statusCode === 200)) return;
    this.requests.inc({ url, envID: this.admitted(request, statusCode), code: statusCode });
    this.durations.observe({ url }, reply.elapsedTime / 1000);
    const length = headers['content-length'];
    if (length !== undefined) this.lengths.observe(Math.min(Number(length), MOST_LENGTH));
  }

  /** The environment that a request was let into, if that is there. */
  private admitted(request: FastifyRequest, statusCode: number): string {
    const { environment } = (request.params ?? {}) as { environment?: string };
    const id = this.environments.get(request) ?? (statusCode === 401 ? undefined : environment);
    return id !== undefined && this.views.environment(id) ? id : '';
  }
}

interface Sdk {
  readonly sdk_type: string;
  readonly sdk_version: string;
  readonly sdk_language: string;
}

/** Undefined if it says nothing of itself. */
function sdkIn({ SDK_TYPE, SDK_VERSION, SDK_LANGUAGE }: Readonly<Record<string, string>>): Sdk | undefined {
  if (!SDK_TYPE && !SDK_VERSION && !SDK_LANGUAGE) return undefined;
  return {
    sdk_type: oneOf(SDK_TYPES, SDK_TYPE),
    sdk_version: SDK_VERSION && VERSION.test(SDK_VERSION) ? SDK_VERSION : OTHER,
    sdk_language: oneOf(SDK_LANGUAGES, SDK_LANGUAGE),
  };
}

function oneOf(known: ReadonlySet<string>, text = ''): string {
  const name = text.slice(0, 20).toLowerCase();
  return known.has(name) ? name : OTHER;
}

const keyOf = ({ sdk_type, sdk_version, sdk_language }: Sdk) => `${sdk_type} ${sdk_version} ${sdk_language}`;
