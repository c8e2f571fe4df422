import { setTimeout as delay } from 'node:timers/promises';

import { createParser } from 'eventsource-parser';

import { DEMO, PATIENCE_MS } from './processes.js';

/** The upstream's admin API, as a person with a page or a script uses it. */
export class Admin {
  constructor(
    private readonly controlPlane: string,
    private readonly token = 'test',
  ) {}

  async setState(flag: string, state: 'on' | 'off', environment = 'dev'): Promise<void> {
    const instructions = [{ kind: 'setFeatureFlagState', parameters: { state } }];
    await this.send('PATCH', `/features/${flag}`, { instructions }, environment);
  }

  async createFlag(identifier: string): Promise<void> {
    await this.create(identifier, 'boolean', { true: 'true', false: 'false' });
  }

  /** A flag of text, with a variation of so many bytes. */
  async createLargeFlag(identifier: string, bytes: number): Promise<void> {
    await this.create(identifier, 'string', { true: 'x'.repeat(bytes), false: '' });
  }

  private async create(identifier: string, kind: string, values: Record<string, string>): Promise<void> {
    await this.send('POST', '/features', {
      identifier,
      name: identifier,
      project: 'demo',
      kind,
      permanent: false,
      variations: Object.entries(values).map(([of, value]) => ({ identifier: of, value })),
      defaultOnVariation: 'true',
      defaultOffVariation: 'false',
    });
  }

  async deleteFlag(identifier: string): Promise<void> {
    await this.send('DELETE', `/features/${identifier}`);
  }

  /** What the control plane counted, as `flag/variation` → total; by default of the last 24 hours. */
  async counts(environment: string, more: Record<string, string> = {}): Promise<Record<string, number>> {
    const text = await this.send('GET', '/metrics', undefined, environment, more);
    const { series } = JSON.parse(text) as {
      series: { flag: string; variation: string; total: number }[];
    };
    return Object.fromEntries(series.map(({ flag, variation, total }) => [`${flag}/${variation}`, total]));
  }

  private async send(
    method: string,
    path: string,
    body?: object,
    environment?: string,
    more?: Record<string, string>,
  ): Promise<string> {
    const query = new URLSearchParams({
      accountIdentifier: 'demo',
      orgIdentifier: 'demo',
      projectIdentifier: 'demo',
      ...(environment && { environmentIdentifier: environment }),
      ...more,
    });
    const response = await fetch(`${this.controlPlane}/cf/admin${path}?${query.toString()}`, {
      method,
      headers: { 'x-api-key': this.token, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text;
  }
}

export interface SdkEvent {
  readonly event: string;
  readonly domain: string;
  readonly identifier: string;
  readonly version: number;
  /** Where a stream may go on, with `Last-Event-ID`. */
  readonly id?: string | undefined;
}

/** What an SDK does on the wire, call by call. */
export class SdkSession {
  private constructor(
    private readonly relay: string,
    private readonly key: string,
    private readonly environment: string,
    readonly token: string,
  ) {}

  static async signIn(
    relay: string,
    { id, serverKey }: { id: string; serverKey: string } = DEMO.dev,
  ): Promise<SdkSession> {
    const response = await fetch(`${relay}/client/auth`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ apiKey: serverKey }),
    });
    const { authToken } = (await response.json()) as { authToken: string };
    return new SdkSession(relay, serverKey, id, authToken);
  }

  get(path: string): Promise<Response> {
    return fetch(`${this.relay}/client/env/${this.environment}/${path}`, {
      headers: { authorization: `Bearer ${this.token}` },
    });
  }

  async flags(): Promise<string> {
    return (await this.get('feature-configs')).text();
  }

  async flagVersion(identifier: string): Promise<number | undefined> {
    const response = await this.get(`feature-configs/${identifier}`);
    if (response.status === 404) return undefined;
    return ((await response.json()) as { version: number }).version;
  }

  /** The events of a stream that is open when this resolves; they end with the stream. */
  async stream(signal: AbortSignal, lastEventId?: string): Promise<AsyncIterable<SdkEvent>> {
    const response = await fetch(`${this.relay}/stream?cluster=1`, {
      headers: {
        authorization: `Bearer ${this.token}`,
        'api-key': this.key,
        accept: 'text/event-stream',
        ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
      },
      signal,
    });
    if (!response.body || response.status !== 200) throw new Error(`/stream answered ${response.status}`);
    const chunks = response.body.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
    const opening = await chunks.next();
    return events(opening.value ?? '', chunks, signal);
  }
}

/** The same without the creations of what was there: the first stream of a relay that begins may hear of it. */
export async function* without(
  there: readonly string[],
  events: AsyncIterable<SdkEvent>,
): AsyncGenerator<SdkEvent, undefined> {
  for await (const event of events)
    if (event.event !== 'create' || !there.includes(event.identifier)) yield event;
}

async function* events(
  opening: string,
  chunks: AsyncIterator<string>,
  signal: AbortSignal,
): AsyncIterable<SdkEvent> {
  let ready: SdkEvent[] = [];
  const parser = createParser({
    onEvent: ({ id, data }) => ready.push({ ...(JSON.parse(data) as SdkEvent), id }),
  });
  parser.feed(opening);
  try {
    for (;;) {
      yield* ready;
      ready = [];
      const { done, value } = await chunks.next();
      if (done) return;
      parser.feed(value);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

/** Waits until a condition holds. Throws with what was last seen when that takes too long. */
export async function eventually<T>(
  look: () => Promise<T> | T,
  holds: (seen: T) => boolean,
  withinMs = PATIENCE_MS,
): Promise<T> {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const seen = await look();
    if (holds(seen)) return seen;
    if (Date.now() > deadline) throw new Error(`it did not come about; last seen: ${JSON.stringify(seen)}`);
    await delay(20);
  }
}

/** The upstream's own list of an environment's flags, as bytes. */
export async function upstreamFlags(
  controlPlane: string,
  environment: string = DEMO.dev.id,
): Promise<string> {
  const auth = await fetch(`${controlPlane}/api/1.0/proxy/auth`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ proxyKey: DEMO.proxyKey }),
  });
  const { authToken } = (await auth.json()) as { authToken: string };
  const response = await fetch(
    `${controlPlane}/api/1.0/client/env/${environment}/feature-configs?cluster=1`,
    {
      headers: { authorization: `Bearer ${authToken}` },
    },
  );
  return response.text();
}

/** Options of a Harness Node SDK client: by default those of one process share one cache and one file. */
export function ownMemory() {
  const values = new Map<string, unknown>();
  function* keys() {
    for (const key of values.keys()) yield key;
  }
  return {
    cache: {
      get: (key: string) => values.get(key),
      set: (key: string, value: unknown) => void values.set(key, value),
      // What changes is read from the store again.
      delete: () => undefined,
      keys,
    },
    store: {
      get: async <T>(key: string) => values.get(key) as T,
      set: async (key: string, value: unknown) => values.set(key, value) && (true as const),
      del: async (key: string) => values.delete(key),
      keys: async () => keys(),
    },
  };
}
