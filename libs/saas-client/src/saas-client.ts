import { createParser } from 'eventsource-parser';
import type { RequestInit, Response } from 'undici';

import type { Flag, MetricsReport, Segment } from '#libs/domain';

import {
  authTokenIn,
  type CheckedList,
  claimsIn,
  type ConfigPage,
  configPageIn,
  flagsIn,
  json,
  segmentsIn,
  type StreamMessage,
  streamMessageIn,
  type TokenClaims,
  UnusableAnswer,
} from './payloads.js';
import { UpstreamLink } from './upstream-link.js';

/** The upstream answered, and not with what was asked for. */
export class UpstreamRefusal extends Error {
  override readonly name = 'UpstreamRefusal';
  constructor(
    readonly status: number,
    what: string,
    /** How long the upstream asks to wait before the next try. */
    readonly retryAfterMs: number | undefined,
  ) {
    const isProxyKey = what.endsWith('/proxy/auth') && [401, 403, 404].includes(status);
    super(`${what} was answered with ${status}${isProxyKey ? ': the upstream refuses PROXY_KEY' : ''}`);
  }
}

/** No answer, or none that ended: no connection, a timeout, a cut in the middle. */
export class UpstreamUnreachable extends Error {
  override readonly name = 'UpstreamUnreachable';
}

export interface Session extends TokenClaims {
  readonly token: string;
}

/** Somebody for whom an SDK asks what flags say, as the SDK told it at its sign-in. */
export interface SignedInTarget {
  readonly identifier: string;
  readonly name: string;
  readonly anonymous?: boolean | undefined;
  readonly attributes?: Readonly<Record<string, unknown>> | undefined;
}

/** What the account stream says: a message, or that something came that cannot be read. */
export type StreamEvent = StreamMessage | { readonly unreadable: string };

/** A call that ended, well or not. */
export interface UpstreamCall {
  /** Its path, with parameters by their names. */
  readonly route: Route;
  /** The environment that it was about, if about one. */
  readonly environment?: string | undefined;
  /**
   * The status of the answer; `unusable` if what came with it was, `unreachable` without an answer that ended, `aborted`
   * if the caller gave it up.
   */
  readonly code: number | 'unusable' | 'unreachable' | 'aborted';
  /** Until the answer had come; of the stream, until it was open. */
  readonly durationMs: number;
}

/** Is told of each call when it ended. Must not throw. */
export type CallObserver = (call: UpstreamCall) => void;

type Route =
  | '/proxy/auth'
  | '/client/auth'
  | '/proxy/config'
  | '/stream'
  | '/client/env/:environment/feature-configs'
  | '/client/env/:environment/target-segments'
  | '/metrics/:environment';

export interface SaasClientOptions {
  /** For example `https://config.ff.harness.io/api/1.0`. */
  readonly baseUrl: string;
  /** Where evaluation counts go; the same as `baseUrl` if left out. */
  readonly metricsUrl?: string;
  /** Asked for at each call: it may be replaced meanwhile. */
  readonly proxyKey: { readonly current: string };
  /** A stream without a byte for so long is dead. */
  readonly streamIdleTimeoutMs: number;
  /** How the upstream is reached; directly, and with what Node trusts, if left out. */
  readonly link?: UpstreamLink;
  readonly observe?: CallObserver;
  /** How long an answer may be silent; a minute if left out. */
  readonly readTimeoutMs?: number;
}

const AUTH_TIMEOUT_MS = 30_000;
/** A read without a byte for so long is given up; a large answer over a slow line is not. */
const READ_SILENCE_MS = 60_000;
const READ_TIMEOUT_MS = 600_000;
const POST_TIMEOUT_MS = 30_000;
const TARGET_TIMEOUT_MS = 10_000;
const PAGE_SIZE = 10;
/** Characters of an answer; a page of ten environments with 5,000 flags each has fewer. */
const ANSWER_LIMIT = 256 * 1024 * 1024;
/** A message of the stream is some hundred bytes; what is longer than this is none. */
const MESSAGE_LIMIT_BYTES = 1024 * 1024;
const CLIENT_NAME = 'Proxy ff-relay';

/**
 * The calls that a relay makes upstream (protocol §2, U1 to U7, and §3). Stateless: whoever holds the session decides when
 * to take a new one. Every call throws UpstreamRefusal, UpstreamUnreachable or UnusableAnswer.
 */
export class SaasClient {
  private readonly link: UpstreamLink;

  constructor(private readonly options: SaasClientOptions) {
    this.link = options.link ?? new UpstreamLink();
  }

  /** U1: a token for the proxy key. */
  async authenticate(signal: AbortSignal): Promise<Session> {
    const call = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ proxyKey: this.options.proxyKey.current }),
      signal,
      limit: AbortSignal.timeout(AUTH_TIMEOUT_MS),
    };
    return this.call('/proxy/auth', call, async (response) => {
      const token = authTokenIn(await this.body(response));
      return { token, ...claimsIn(token) };
    });
  }

  /** U2: the configuration, page by page; of one environment, if it is named. */
  async *configPages(session: Session, signal: AbortSignal, environment?: string): AsyncIterable<ConfigPage> {
    for (let pageNumber = 0, pageCount = 1; pageNumber < pageCount; pageNumber++) {
      const query = {
        key: this.options.proxyKey.current,
        pageNumber: String(pageNumber),
        pageSize: String(PAGE_SIZE),
        ...(environment && { environment }),
      };
      const page = await this.read('/proxy/config', configPageIn, session, signal, query, environment);
      pageCount = page.pageCount;
      if (pageNumber > 0 && page.environments.length === 0) {
        throw new UnusableAnswer(`page ${pageNumber} of ${pageCount} of the configuration is empty`);
      }
      yield page;
    }
  }

  /** U4: all flags of an environment. */
  flags(session: Session, environment: string, signal: AbortSignal): Promise<CheckedList<Flag>> {
    const route = '/client/env/:environment/feature-configs';
    return this.read(route, flagsIn, session, signal, {}, environment);
  }

  /** U5: all target groups of an environment. */
  segments(session: Session, environment: string, signal: AbortSignal): Promise<CheckedList<Segment>> {
    const route = '/client/env/:environment/target-segments';
    return this.read(route, segmentsIn, session, signal, { rules: 'v2' }, environment);
  }

  /**
   * U3: the account stream. Resolves once it is open. The events end when `signal` aborts; they throw
   * UpstreamUnreachable when the upstream ends the stream, cleanly or not, or is silent for too long.
   */
  async stream(session: Session, signal: AbortSignal): Promise<AsyncIterable<StreamEvent>> {
    const silence = new Silence(this.options.streamIdleTimeoutMs);
    const call = {
      headers: {
        ...this.headers(session),
        'api-key': this.options.proxyKey.current,
        accept: 'text/event-stream',
      },
      query: { cluster: session.cluster },
      signal,
      limit: silence.signal,
    };
    try {
      return await this.call('/stream', call, ({ body }) => {
        if (!body) throw new UnusableAnswer('GET /stream was answered without a body');
        return this.events(body, silence, signal);
      });
    } catch (error) {
      silence.end();
      throw error;
    }
  }

  /** U6: evaluation counts. Resolves once the upstream has taken them; when it throws UpstreamUnreachable, it may have. */
  async postMetrics(session: Session, report: MetricsReport, signal: AbortSignal): Promise<void> {
    const { environment } = report;
    const call = {
      base: this.options.metricsUrl,
      method: 'POST',
      headers: {
        ...this.headers(session),
        'harness-environmentid': environment,
        'content-type': 'application/json',
      },
      query: { cluster: session.cluster },
      body: metricsBody(report),
      // Whatever success it tells: what is taken must not be sent again.
      accepts: (status: number) => status >= 200 && status < 300,
      signal,
      limit: AbortSignal.timeout(POST_TIMEOUT_MS),
      environment,
    };
    await this.call('/metrics/:environment', call, async (response) => {
      // The answer is read and not cancelled, so that the connection can be used again; that it came is all that matters.
      await response.arrayBuffer().catch(() => undefined);
    });
  }

  /** U7: a target, so that the upstream lists it, as if its SDK had signed in there. It needs no session. */
  async registerTarget(apiKey: string, target: SignedInTarget, signal: AbortSignal): Promise<void> {
    const call = {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ apiKey, target }),
      accepts: (status: number) => status >= 200 && status < 300,
      signal,
      limit: AbortSignal.timeout(TARGET_TIMEOUT_MS),
    };
    // The token in the answer is of no use here.
    await this.call('/client/auth', call, async (response) => {
      await response.arrayBuffer().catch(() => undefined);
    });
  }

  private async *events(
    body: ReadableStream<Uint8Array>,
    silence: Silence,
    signal: AbortSignal,
  ): AsyncIterable<StreamEvent> {
    let events: StreamEvent[] = [];
    const parser = createParser({
      maxBufferSize: MESSAGE_LIMIT_BYTES,
      onEvent: ({ data }) => {
        if (data !== '') events.push(eventIn(data));
      },
      onError: (error) => {
        if (error.type === 'max-buffer-size-exceeded') throw error;
      },
    });
    const text = new TextDecoder();
    try {
      for await (const chunk of body) {
        silence.broken();
        parser.feed(text.decode(chunk, { stream: true }));
        yield* events;
        events = [];
      }
    } catch (cause) {
      if (signal.aborted) return;
      throw new UpstreamUnreachable(`the stream broke: ${reasonOf(cause)}`, { cause });
    } finally {
      silence.end();
    }
    throw new UpstreamUnreachable('the upstream ended the stream');
  }

  private read<Result>(
    route: Route,
    take: (answer: unknown) => Result,
    session: Session,
    signal: AbortSignal,
    query: Record<string, string>,
    environment?: string,
  ): Promise<Result> {
    const silence = new Silence(this.options.readTimeoutMs ?? READ_SILENCE_MS);
    const own = route.includes(':environment') && environment;
    const call = {
      headers: { ...this.headers(session), ...(own && { 'harness-environmentid': own }) },
      query: { cluster: session.cluster, ...query },
      signal,
      limit: AbortSignal.any([silence.signal, AbortSignal.timeout(READ_TIMEOUT_MS)]),
      environment,
    };
    return this.call(route, call, async (response) => take(await this.body(response, silence))).finally(() =>
      silence.end(),
    );
  }

  private headers(session: Session): Record<string, string> {
    return {
      authorization: `Bearer ${session.token}`,
      'harness-sdk-info': CLIENT_NAME,
      ...(session.account && { 'harness-accountid': session.account }),
    };
  }

  /** Makes a call, takes what it is answered with, and tells the observer of it. */
  private async call<Result>(
    route: Route,
    { signal, limit, environment, ...call }: Call,
    take: (response: Response) => Result | Promise<Result>,
  ): Promise<Result> {
    const startedAt = performance.now();
    const path = route.replace(':environment', encodeURIComponent(environment ?? ''));
    let code: UpstreamCall['code'] = 'unusable';
    try {
      const response = await this.send(path, { ...call, signal: AbortSignal.any([signal, limit]) });
      const result = await take(response);
      code = response.status;
      return result;
    } catch (error) {
      if (signal.aborted) code = 'aborted';
      else if (error instanceof UpstreamRefusal) code = error.status;
      else if (error instanceof UpstreamUnreachable) code = 'unreachable';
      throw error;
    } finally {
      this.options.observe?.({ route, environment, code, durationMs: performance.now() - startedAt });
    }
  }

  private async send(path: string, { base, query, accepts, ...init }: Sending): Promise<Response> {
    const what = `${init.method ?? 'GET'} ${path}`;
    const url = `${base ?? this.options.baseUrl}${path}${query ? `?${new URLSearchParams(query).toString()}` : ''}`;
    let response: Response;
    try {
      response = await this.link.fetch(url, init);
    } catch (cause) {
      throw new UpstreamUnreachable(`${what}: ${reasonOf(cause)}`, { cause });
    }
    if (accepts ? accepts(response.status) : response.status === 200) return response;
    await response.body?.cancel().catch(() => undefined);
    throw new UpstreamRefusal(response.status, what, retryAfterMs(response.headers.get('retry-after')));
  }

  private async body(response: Response, silence?: Silence): Promise<unknown> {
    const text = new TextDecoder();
    let body = '';
    try {
      for await (const chunk of response.body ?? []) {
        silence?.broken();
        body += text.decode(chunk, { stream: true });
        if (body.length > ANSWER_LIMIT) break;
      }
    } catch (cause) {
      throw new UpstreamUnreachable(`the answer broke off: ${reasonOf(cause)}`, { cause });
    }
    if (body.length > ANSWER_LIMIT)
      throw new UnusableAnswer(`an answer is longer than ${ANSWER_LIMIT} characters`);
    return json(body);
  }
}

interface Sending extends RequestInit {
  readonly base?: string | undefined;
  readonly query?: Record<string, string>;
  /** Which statuses are a success; only 200, if left out. */
  readonly accepts?: (status: number) => boolean;
}

/** Aborts when nothing was heard for so long. */
class Silence {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;

  constructor(mostMs: number) {
    const reason = new Error(`no byte for ${mostMs / 1000} s`);
    this.timer = setTimeout(() => this.controller.abort(reason), mostMs).unref();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  broken(): void {
    this.timer.refresh();
  }

  end(): void {
    clearTimeout(this.timer);
  }
}

interface Call extends Sending {
  /** Of whoever asks for it. */
  readonly signal: AbortSignal;
  /** Our own end of patience. */
  readonly limit: AbortSignal;
  /** What it is about; its place in the route, if that has one. */
  readonly environment?: string | undefined;
}

/** The Metrics of protocol §2.1. */
function metricsBody({ counts, targets }: MetricsReport): string {
  const pairs = (attributes: Readonly<Record<string, string>>) =>
    Object.entries(attributes).map(([key, value]) => ({ key, value }));
  return JSON.stringify({
    metricsData: counts.map(({ timestamp, count, attributes }) => ({
      timestamp,
      count,
      metricsType: 'FFMETRICS',
      attributes: pairs(attributes),
    })),
    targetData: targets.map(({ identifier, name, attributes }) => ({
      identifier,
      name,
      attributes: pairs(attributes),
    })),
  });
}

function eventIn(data: string): StreamEvent {
  try {
    return streamMessageIn(data);
  } catch (error) {
    return { unreadable: reasonOf(error) };
  }
}

/** `fetch` hides the reason in the last cause, which may be several errors (one for each address) without a message. */
function reasonOf(error: unknown): string {
  const { message = String(error), cause } = Object(error) as Partial<Error>;
  const { message: inner, code } = Object(lastCause(cause)) as Partial<NodeJS.ErrnoException>;
  return inner || code ? `${message} (${inner || code})` : message;
}

function lastCause(error: unknown): unknown {
  const { cause } = Object(error) as Partial<Error>;
  return cause == null ? error : lastCause(cause);
}

/** Seconds or a date (RFC 9110 §10.2.3). */
function retryAfterMs(header: string | null): number | undefined {
  if (!header) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}
