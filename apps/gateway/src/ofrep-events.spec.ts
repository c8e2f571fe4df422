import { once } from 'node:events';

import { afterEach, describe, expect, it } from '@jest/globals';

import type { Flag } from '#libs/domain';

import { cleanUp, keyOf, SECRET, serve, Wire } from './serving.suite.js';

const DEV = '10000000-0000-4000-8000-000000000001';
const PROD = '10000000-0000-4000-8000-000000000002';
const KEY = { 'x-api-key': keyOf(DEV) };
const FLAGS = '/ofrep/v1/evaluate/flags';
const anna = { context: { targetingKey: 'anna' } };

const aFlag = (feature: string, version = 3): Flag => ({
  project: 'demo',
  environment: 'dev',
  feature,
  state: 'on',
  kind: 'string',
  variations: [
    { identifier: 'on', value: `${version}` },
    { identifier: 'off', value: '0' },
  ],
  offVariation: 'off',
  defaultServe: { variation: 'on' },
  version,
});

describe('The event stream that OFREP names', () => {
  const flag = (version: number, feature = 'f') =>
    ({ type: 'FlagPublished', environment: DEV, flag: aFlag(feature, version) }) as const;
  type Served = Awaited<ReturnType<typeof serve>>;
  /** Unless a test wants it, a stream is not told of what was there before. */
  const started = (settings: NodeJS.ProcessEnv = {}) =>
    serve(
      [DEV, PROD].map((id) => ({ id, flags: [aFlag('f')] })),
      { STREAM_REPLAY: '0', ...settings },
    );
  const asked = (at: Served, headers: Record<string, string> = KEY) =>
    at.call('POST', FLAGS, headers, JSON.stringify(anna));
  const addressAt = async (at: Served, headers?: Record<string, string>) => {
    const { eventStreams } = (await asked(at, headers)).json() as {
      eventStreams: { endpoint: { requestUri: string } }[];
    };
    return eventStreams[0]?.endpoint.requestUri ?? '';
  };
  const open = async (at: Served, address: string, headers: Record<string, string> = {}) => {
    const wire = new Wire(Number(new URL(at.url).port));
    wire.send('GET', address, headers);
    await wire.until(':\n\n');
    return wire;
  };
  const REFETCH = /^event: message\n(?:id: (\S+)\n)?data: {"type":"refetchEvaluation"}\n\n$/;
  /** The ids of what it said. */
  const told = (wire: Wire) =>
    wire.chunks.flatMap((chunk) => {
      const [text, id = ''] = REFETCH.exec(chunk) ?? [];
      return text === undefined ? [] : [id];
    });
  const says = async (wire: Wire, times: number) => {
    while (told(wire).length < times) await once(wire.socket, 'data');
    return told(wire);
  };
  /** Until it has said what is so far into the log. */
  const saysUpTo = async (wire: Wire, sequence: number) => {
    const isThere = () => told(wire).at(-1)?.endsWith(`.${sequence}`);
    while (!isThere()) await once(wire.socket, 'data');
    return told(wire).at(-1) ?? '';
  };
  /** Where the notices of what is there at first end. */
  const BEGINNING = 6;
  afterEach(cleanUp);

  it('says that all flags are to be asked for again, after each change of its environment, and no more', async () => {
    const at = await started();
    const wire = await open(at, await addressAt(at));
    expect(wire.head).toContain('content-type: text/event-stream');
    expect(wire.head).toContain('access-control-allow-origin: *');
    const before = (await asked(at)).headers.get('etag') ?? '';
    await at.happens({ ...flag(9), environment: PROD });
    await at.happens(flag(4));
    await says(wire, 1);
    expect((await asked(at, { ...KEY, 'if-none-match': before })).status).toBe(200);
    await at.happens({ type: 'SegmentPublished', environment: DEV, segment: { identifier: 'g', name: 'G' } });
    await says(wire, 2);
    await at.happens({ type: 'FlagRemoved', environment: DEV, identifier: 'f', version: 5 });
    await says(wire, 3);
    expect(wire.chunks.filter((chunk) => chunk !== ':\n\n')).toHaveLength(3);
  });

  it('says so once of all that its reader missed, who names the last event that it heard', async () => {
    const at = await started();
    const address = await addressAt(at);
    const wire = await open(at, address);
    await at.happens(flag(4));
    const heard = await saysUpTo(wire, BEGINNING + 1);
    expect(heard).toMatch(/^[\w-]{8}\.\d+$/);
    await at.happens(...Array.from({ length: 50 }, (_, i) => flag(1, `flag-${i}`)));
    const last = await saysUpTo(wire, BEGINNING + 51);
    const again = await open(at, address, { 'last-event-id': heard });
    expect(await says(again, 1)).toEqual([last]);
    // Whoever heard that is told of the next change first.
    const level = await open(at, address, { 'last-event-id': last });
    await at.happens(flag(6));
    expect(await says(level, 1)).toEqual([await saysUpTo(wire, BEGINNING + 52)]);
  });

  it('says so to a reader who names none, if anything changed in the last minutes', async () => {
    const at = await started({ STREAM_REPLAY: '300' });
    const address = await addressAt(at);
    const wire = await open(at, address);
    await at.happens(flag(4));
    const last = await saysUpTo(wire, BEGINNING + 1);
    expect(await says(await open(at, address), 1)).toEqual([last]);
  });

  it('has an address that stays the same, on every gateway, and is another for another key', async () => {
    const [one, other] = [await started(), await started()];
    const address = await addressAt(one);
    expect(await addressAt(one)).toBe(address);
    expect(await addressAt(other)).toBe(address);
    expect(await addressAt(one, { authorization: `Bearer ${await one.signIn(DEV)}` })).toBe(address);
    expect(await addressAt(one, { 'x-api-key': keyOf(PROD) })).not.toBe(address);
    await open(other, address);
  });

  it('has another address, and all flags another tag, once the secret is another', async () => {
    const before = await started();
    const now = await started({ AUTH_SECRET: 'b'.repeat(32), AUTH_SECRET_PREVIOUS: SECRET });
    const address = await addressAt(before);
    expect(await addressAt(now)).not.toBe(address);
    await open(now, address);
    const tag = (await asked(before)).headers.get('etag') ?? '';
    expect((await asked(before, { ...KEY, 'if-none-match': tag })).status).toBe(304);
    expect((await asked(now, { ...KEY, 'if-none-match': tag })).status).toBe(200);
  });

  it('is opened by nothing else, and what opens it opens nothing else', async () => {
    const at = await started();
    const address = await addressAt(at);
    const token = address.split('=')[1] ?? '';
    const status = async (method: string, path: string, headers: Record<string, string> = {}) => {
      const answer = await at.call(
        method,
        path,
        headers,
        method === 'POST' ? JSON.stringify(anna) : undefined,
      );
      return answer.status;
    };
    const signedIn = await at.signIn(DEV);
    const wrong = [
      '',
      '?token=',
      '?token=x',
      `?token=${signedIn}`,
      `?token=${keyOf(DEV)}`,
      `?token=${token}x`,
    ];
    for (const query of [...wrong, `?token=${token}&token=x`]) {
      expect([query, await status('GET', `/ofrep/v1/events${query}`)]).toEqual([query, 401]);
    }
    expect(await status('GET', '/ofrep/v1/events', { authorization: `Bearer ${token}` })).toBe(401);
    const authorization = `Bearer ${token}`;
    expect(await status('GET', `/client/env/${DEV}/feature-configs`, { authorization })).toBe(401);
    expect(await status('GET', '/stream', { authorization, 'api-key': keyOf(DEV) })).toBe(401);
    expect(await status('POST', FLAGS, { authorization })).toBe(401);
    expect(await status('POST', address)).toBe(405);
  });

  it.each<[string, NodeJS.ProcessEnv]>([
    ['its key', {}],
    ['its key, with BYPASS_AUTH too', { BYPASS_AUTH: 'true' }],
  ])('ends with %s', async (_, settings) => {
    const at = await started(settings);
    const address = await addressAt(at);
    const wire = await open(at, address);
    const other = await open(at, await addressAt(at, { 'x-api-key': keyOf(PROD) }));
    await at.happens({ type: 'EnvironmentRemoved', environment: DEV });
    await wire.closed;
    expect((await at.call('GET', address)).status).toBe(401);
    await at.happens({ ...flag(9), environment: PROD });
    await says(other, 1);
  });

  it('counts among the streams, which have a limit', async () => {
    const at = await started({ MAX_STREAMS: '1' });
    const address = await addressAt(at);
    await open(at, address);
    const refused = await at.call('GET', address);
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '10']);
    const page = await at.telemetry.page();
    expect(page).toContain(
      `ff_proxy_http_requests_total{url="/ofrep/v1/events",envID="${DEV}",code="200"} 1`,
    );
    expect(page).toContain(`ff_relay_streams{envID="${DEV}"} 1`);
  });
});
