import { createParser } from 'eventsource-parser';

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

/** What the account stream says: a message, or that something came that cannot be read. */
export type StreamEvent = StreamMessage | { readonly unreadable: string };

export interface SaasClientOptions {
  /** For example `https://config.ff.harness.io/api/1.0`. */
  readonly baseUrl: string;
  /** Where evaluation counts go; the same as `baseUrl` if left out. */
  readonly metricsUrl?: string;
  readonly proxyKey: string;
  /** A stream without a byte for so long is dead. */
  readonly streamIdleTimeoutMs: number;
}

const AUTH_TIMEOUT_MS = 30_000;
const READ_TIMEOUT_MS = 60_000;
const POST_TIMEOUT_MS = 30_000;
const PAGE_SIZE = 10;
/** Characters of an answer; a page of ten environments with 5,000 flags each has fewer. */
const ANSWER_LIMIT = 256 * 1024 * 1024;
/** A message of the stream is some hundred bytes; what is longer than this is none. */
const MESSAGE_LIMIT_BYTES = 1024 * 1024;
const CLIENT_NAME = 'Proxy ff-relay';

/**
 * The calls that a relay makes upstream (protocol §2, U1 to U6, and §3). Stateless: whoever holds the session decides when
 * to take a new one. Every call throws UpstreamRefusal, UpstreamUnreachable or UnusableAnswer.
 */
export class SaasClient {
  constructor(private readonly options: SaasClientOptions) {}

  /** U1: a token for the proxy key. */
  async authenticate(signal: AbortSignal): Promise<Session> {
    const response = await this.send('POST /proxy/auth', '/proxy/auth', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ proxyKey: this.options.proxyKey }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(AUTH_TIMEOUT_MS)]),
    });
    const token = authTokenIn(await this.body(response));
    return { token, ...claimsIn(token) };
  }

  /** U2: the configuration, page by page; of one environment, if it is named. */
  async *configPages(session: Session, signal: AbortSignal, environment?: string): AsyncIterable<ConfigPage> {
    for (let pageNumber = 0, pageCount = 1; pageNumber < pageCount; pageNumber++) {
      const query = {
        key: this.options.proxyKey,
        pageNumber: String(pageNumber),
        pageSize: String(PAGE_SIZE),
        ...(environment && { environment }),
      };
      const page = configPageIn(await this.read('/proxy/config', session, signal, query));
      pageCount = page.pageCount;
      if (pageNumber > 0 && page.environments.length === 0) {
        throw new UnusableAnswer(`page ${pageNumber} of ${pageCount} of the configuration is empty`);
      }
      yield page;
    }
  }

  /** U4: all flags of an environment. */
  async flags(session: Session, environment: string, signal: AbortSignal): Promise<CheckedList<Flag>> {
    const path = `/client/env/${encodeURIComponent(environment)}/feature-configs`;
    return flagsIn(await this.read(path, session, signal, {}, environment));
  }

  /** U5: all target groups of an environment. */
  async segments(session: Session, environment: string, signal: AbortSignal): Promise<CheckedList<Segment>> {
    const path = `/client/env/${encodeURIComponent(environment)}/target-segments`;
    return segmentsIn(await this.read(path, session, signal, { rules: 'v2' }, environment));
  }

  /**
   * U3: the account stream. Resolves once it is open. The events end when `signal` aborts; they throw
   * UpstreamUnreachable when the upstream ends the stream, cleanly or not, or is silent for too long.
   */
  async stream(session: Session, signal: AbortSignal): Promise<AsyncIterable<StreamEvent>> {
    const silence = new AbortController();
    const idleMs = this.options.streamIdleTimeoutMs;
    const watchdog = setTimeout(
      () => silence.abort(new Error(`no byte for ${idleMs / 1000} s`)),
      idleMs,
    ).unref();
    try {
      const response = await this.send('GET /stream', '/stream', {
        headers: { ...this.headers(session), 'api-key': this.options.proxyKey, accept: 'text/event-stream' },
        query: { cluster: session.cluster },
        signal: AbortSignal.any([signal, silence.signal]),
      });
      if (!response.body) throw new UnusableAnswer('GET /stream was answered without a body');
      return this.events(response.body, watchdog, signal);
    } catch (error) {
      clearTimeout(watchdog);
      throw error;
    }
  }

  /** U6: evaluation counts. Resolves once the upstream has taken them; when it throws UpstreamUnreachable, it may have. */
  async postMetrics(session: Session, report: MetricsReport, signal: AbortSignal): Promise<void> {
    const path = `/metrics/${encodeURIComponent(report.environment)}`;
    const response = await this.send(`POST ${path}`, path, {
      base: this.options.metricsUrl,
      method: 'POST',
      headers: {
        ...this.headers(session),
        'harness-environmentid': report.environment,
        'content-type': 'application/json',
      },
      query: { cluster: session.cluster },
      body: metricsBody(report),
      // Whatever success it tells: what is taken must not be sent again.
      accepts: (status) => status >= 200 && status < 300,
      signal: AbortSignal.any([signal, AbortSignal.timeout(POST_TIMEOUT_MS)]),
    });
    // The answer is read and not cancelled, so that the connection can be used again; that it came is all that matters.
    await response.arrayBuffer().catch(() => undefined);
  }

  private async *events(
    body: ReadableStream<Uint8Array>,
    watchdog: NodeJS.Timeout,
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
        watchdog.refresh();
        parser.feed(text.decode(chunk, { stream: true }));
        yield* events;
        events = [];
      }
    } catch (cause) {
      if (signal.aborted) return;
      throw new UpstreamUnreachable(`the stream broke: ${reasonOf(cause)}`, { cause });
    } finally {
      clearTimeout(watchdog);
    }
    throw new UpstreamUnreachable('the upstream ended the stream');
  }

  private async read(
    path: string,
    session: Session,
    signal: AbortSignal,
    query: Record<string, string>,
    environment?: string,
  ): Promise<unknown> {
    const response = await this.send(`GET ${path}`, path, {
      headers: { ...this.headers(session), ...(environment && { 'harness-environmentid': environment }) },
      query: { cluster: session.cluster, ...query },
      signal: AbortSignal.any([signal, AbortSignal.timeout(READ_TIMEOUT_MS)]),
    });
    return this.body(response);
  }

  private headers(session: Session): Record<string, string> {
    return {
      authorization: `Bearer ${session.token}`,
      'harness-sdk-info': CLIENT_NAME,
      ...(session.account && { 'harness-accountid': session.account }),
    };
  }

  private async send(what: string, path: string, { base, query, accepts, ...init }: Call): Promise<Response> {
    const url = `${base ?? this.options.baseUrl}${path}${query ? `?${new URLSearchParams(query).toString()}` : ''}`;
    let response: Response;
    try {
      // A redirect would take the keys to another host.
      response = await fetch(url, { ...init, redirect: 'manual' });
    } catch (cause) {
      throw new UpstreamUnreachable(`${what}: ${reasonOf(cause)}`, { cause });
    }
    if (accepts ? accepts(response.status) : response.status === 200) return response;
    await response.body?.cancel().catch(() => undefined);
    throw new UpstreamRefusal(response.status, what, retryAfterMs(response.headers.get('retry-after')));
  }

  private async body(response: Response): Promise<unknown> {
    const text = new TextDecoder();
    let body = '';
    try {
      for await (const chunk of response.body ?? []) {
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

interface Call extends RequestInit {
  readonly base?: string | undefined;
  readonly query?: Record<string, string>;
  /** Which statuses are a success; only 200, if left out. */
  readonly accepts?: (status: number) => boolean;
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

/** `fetch` hides the reason in the cause, which may be several errors (one for each address) without a message. */
function reasonOf(error: unknown): string {
  const { message = String(error), cause } = Object(error) as Partial<Error>;
  const { message: inner, code } = Object(cause) as Partial<NodeJS.ErrnoException>;
  return inner || code ? `${message} (${inner || code})` : message;
}

/** Seconds or a date (RFC 9110 §10.2.3). */
function retryAfterMs(header: string | null): number | undefined {
  if (!header) return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}
