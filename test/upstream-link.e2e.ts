import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import {
  type Answer,
  body,
  page,
  refusal,
  ScriptedUpstream,
  type UpstreamEnvironment,
} from '../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag, aSegment } from '../libs/domain/src/builders.suite.js';

import { eventually, SdkSession } from './support/clients.js';
import { FaultLink } from './support/fault-link.js';
import { endsOf, QUICK, type QuickRelay, startQuickRelay } from './support/quick-relay.js';
import { hashOf, keyOf } from './support/upstream-world.js';

const HOUR_MS = 3_600_000;
const IDS = ['dev', 'prod', 'test'];

const anEnvironment = (id: string): UpstreamEnvironment => ({
  flags: [aFlag('banner'), aFlag('dark-mode')],
  segments: [aSegment('beta')],
  apiKeys: [hashOf(keyOf(id))],
});
const account = (...ids: string[]) => Object.fromEntries(ids.map((id) => [id, anEnvironment(id)]));

let folder: string;
let upstream: ScriptedUpstream;
let other: ScriptedUpstream | undefined;
let link: FaultLink;
let heartbeat: NodeJS.Timeout;
let relays: Promise<QuickRelay>[];
let said: string[];

beforeEach(async () => {
  Logger.overrideLogger(false);
  folder = await mkdtemp(join(tmpdir(), 'ff-relay-link-'));
  upstream = await ScriptedUpstream.start(account(...IDS));
  upstream.environmentsPerPage = 1;
  link = await FaultLink.to(upstream.url);
  heartbeat = setInterval(() => upstream.say(':\n\n'), QUICK.heartbeatMs);
  relays = [];
  said = [];
});
afterEach(async () => {
  clearInterval(heartbeat);
  for (const relay of relays) await (await relay).stop();
  await link.close();
  upstream.close();
  other?.close();
  other = undefined;
  await rm(folder, { recursive: true });
});

const start = (options: Partial<typeof QUICK> = {}) => {
  const relay = startQuickRelay(folder, link.url, (line) => said.push(line), options);
  relays.push(relay);
  return relay;
};
/** A relay that serves the account and listens, and asks for nothing more by itself. */
const listening = async (options: Partial<typeof QUICK> = {}) => {
  const relay = await start({ reconcileIntervalMs: HOUR_MS, ...options });
  await eventually(
    () => upstream.openStreams,
    (open) => open === 1,
  );
  await compared(relay);
  upstream.asked.length = 0;
  return relay;
};
/** Resolves when the account has been compared once more, or for the first time. */
const compared = async ({ status }: QuickRelay, since?: number) => {
  await eventually(
    () => status.lastAgreedMs,
    (agreed) => agreed !== undefined && agreed !== since,
  );
};

/** A new version of a flag upstream, of which nobody is told. */
const change = (version: number, id = 'dev', feature = 'dark-mode') => {
  const environment = upstream.environment(id);
  const flags = environment.flags.filter((flag) => flag.feature !== feature);
  upstream.environments[id] = { ...environment, flags: [...flags, aFlag(feature, { version, state: 'on' })] };
};
const tell = (version: number, id = 'dev', identifier = 'dark-mode') =>
  upstream.tell({ domain: 'flag', event: 'patch', identifier, version, environment: id });
const tellProxy = (event: string, fields: object = {}) =>
  upstream.tell({ domain: 'proxy', event, ...fields });

const signIn = ({ url }: QuickRelay, id = 'dev') => SdkSession.signIn(url, { id, serverKey: keyOf(id) });
const isLetIn = async (relay: QuickRelay, id = 'dev') =>
  (await (await signIn(relay, id)).get('feature-configs')).status === 200;
const becomesLetIn = (relay: QuickRelay, id: string, expected: boolean) =>
  eventually(
    () => isLetIn(relay, id),
    (letIn) => letIn === expected,
  );
const serves = async (relay: QuickRelay, version: number, id = 'dev', feature = 'dark-mode') => {
  await eventually(
    async () => (await signIn(relay, id)).flagVersion(feature),
    (served) => served === version,
  );
};

describe('Relays in one process', () => {
  it('say each what happens to it, to whoever started it', async () => {
    other = await ScriptedUpstream.start(account('dev'));
    const otherSaid: string[] = [];
    const refused = (lines: readonly string[]) =>
      eventually(
        () => lines.filter((line) => line.includes('could not be compared')),
        (seen) => seen.length > 0,
      );
    await listening();
    other.next('config', refusal(502));
    const otherFolder = join(folder, 'other');
    const otherRelay = startQuickRelay(otherFolder, other.url, (line) => otherSaid.push(line));
    relays.push(otherRelay);
    await otherRelay;
    upstream.next('config', refusal(501));
    upstream.say('data: garbage\n\n');
    expect((await refused(said)).join()).toContain('answered with 501');
    expect((await refused(otherSaid)).join()).toContain('answered with 502');
    expect([said.join().includes('502'), otherSaid.join().includes('501')]).toEqual([false, false]);
  });
});

describe('A change', () => {
  it('that falls between the stream and the first read of the account is not missed', async () => {
    const reading = upstream.hold('config', body(page(account('dev'))));
    upstream.environments = account('dev');
    const starting = start({ reconcileIntervalMs: HOUR_MS });
    await reading.arrived;
    expect(upstream.openStreams).toBe(1);
    change(2);
    tell(2);
    reading.release();
    await serves(await starting, 2);
  });

  it('of which the message is lost is found by the comparison', async () => {
    const relay = await listening({ reconcileIntervalMs: QUICK.reconcileIntervalMs });
    const lost: string[] = [];
    link.onMessage = (data) => {
      lost.push(data);
      return 'lost';
    };
    change(2);
    tell(2);
    await serves(relay, 2);
    expect(lost).toHaveLength(1);
  });

  it('that is told before it can be read is read again until it shows', async () => {
    const relay = await listening();
    upstream.next('flags dev', ...[1, 2, 3].map(() => body([aFlag('banner'), aFlag('dark-mode')])));
    change(2);
    tell(2);
    await serves(relay, 2);
    expect(upstream.timesAsked('flags dev')).toBe(4);
  });

  it('is told of a hundred times in a row, and costs two reads of each kind at most', async () => {
    const relay = await listening();
    const reading = upstream.hold('flags dev');
    const other = upstream.hold('segments dev');
    for (let version = 2; version <= 101; version++) {
      change(version);
      tell(version);
      upstream.tell({
        domain: 'target-segment',
        event: 'patch',
        identifier: 'beta',
        version: 1,
        environment: 'dev',
      });
    }
    await Promise.all([reading.arrived, other.arrived]);
    reading.release();
    other.release();
    await serves(relay, 101);
    expect(upstream.timesAsked('flags dev')).toBeLessThanOrEqual(2);
    expect(upstream.timesAsked('segments dev')).toBeLessThanOrEqual(2);
    expect(upstream.timesAsked('config dev')).toBe(0);
  });

  it('reaches an environment while the reads of another hang', async () => {
    const relay = await listening({ readTimeoutMs: HOUR_MS });
    const hanging = upstream.hold('flags dev');
    change(2);
    tell(2);
    await hanging.arrived;
    change(2, 'prod');
    tell(2, 'prod');
    await serves(relay, 2, 'prod');
    expect(await (await signIn(relay)).flagVersion('dark-mode')).toBe(1);
    hanging.release();
    await serves(relay, 2);
  });

  it.each([
    ['is refused', { answer: 503, headers: { 'retry-after': '3' } }],
    ['is refused with a token that was good', { answer: 401 }],
    ['is a page of somebody else', { answer: 200, body: '<html>Sign in</html>' }],
    ['is empty', { answer: 200 }],
    ['is cut by a reset', { part: 0.5, how: 'reset' }],
    ['ends in the middle', { part: 0.5, how: 'end' }],
    ['never comes', { silentMs: HOUR_MS }],
  ] as const)('is read again until the answer is good, when it %s', async (_, fault) => {
    const relay = await listening();
    let faults = 3;
    link.onCall = (name) => (name === 'flags' && faults-- > 0 ? fault : undefined);
    change(2);
    tell(2);
    await serves(relay, 2);
    expect(faults).toBeLessThan(1);
  });
});

describe('A stream', () => {
  const replaced = async (relay: QuickRelay) => {
    await eventually(
      () => upstream.timesAsked('stream'),
      (times) => times > 0,
    );
    await eventually(
      () => relay.status.streamStatus.state,
      (state) => state === 'CONNECTED',
    );
    expect(upstream.timesAsked('auth')).toBeGreaterThan(0);
    change(3);
    tell(3);
    await serves(relay, 3);
  };

  it.each(['silence', 'end', 'reset'] as const)(
    'that is over (by a %s) is replaced by one with a new token, and what changed meanwhile is found',
    async (how) => {
      const relay = await listening();
      link.endStreams(how);
      change(2);
      tell(2);
      await serves(relay, 2);
      await replaced(relay);
    },
  );

  it('that ends as its token was revoked, and is refused first, is replaced by one with a new token', async () => {
    const relay = await listening();
    let refusals = 3;
    link.onCall = (name) => (name === 'stream' && refusals-- > 0 ? { answer: 401 } : undefined);
    upstream.revokeTokens();
    upstream.endStreams();
    change(2);
    await serves(relay, 2);
    await replaced(relay);
  });
});

describe('Nothing is removed', () => {
  const one = (id: string, counts: object) => body(page(account(id), counts));
  const three = { itemCount: 3, pageCount: 3 };

  it.each<[string, readonly Answer[]]>([
    ['an empty account', [body({ itemCount: 0, pageCount: 0, environments: [] })]],
    ['a page that is missing', [one('dev', three), body({ ...three, environments: [] })]],
    [
      'an environment twice, and another not at all',
      [one('dev', three), one('dev', three), one('prod', three)],
    ],
    ['fewer environments than it says', [one('dev', { itemCount: 3, pageCount: 1 })]],
    ['fewer environments while it is read', [one('dev', three), one('test', { itemCount: 2, pageCount: 2 })]],
    ['401', [refusal(401), refusal(401)]],
    ['403', [refusal(403), refusal(403)]],
    ['404', [refusal(404)]],
    ['500', [refusal(500)]],
    ['503', [refusal(503)]],
    [
      'lists that are absent',
      [body({ itemCount: 3, pageCount: 1, environments: IDS.map((id) => ({ id })) })],
    ],
  ])('by an answer for the account with %s, again and again', async (_, answers) => {
    const relay = await listening({ reconcileIntervalMs: QUICK.reconcileIntervalMs });
    const before = await endsOf(relay);
    const since = relay.status.lastAgreedMs;
    for (let time = 0; time < 4; time++) upstream.next('config', ...answers);
    await eventually(
      () => upstream.timesAsked('config'),
      (times) => times > 4 * answers.length,
    );
    await compared(relay, since);
    expect(await endsOf(relay)).toEqual(before);
  });

  it('by an answer for the account that is cut, again and again', async () => {
    const relay = await listening({ reconcileIntervalMs: QUICK.reconcileIntervalMs });
    const before = await endsOf(relay);
    let cuts = 6;
    link.onCall = (name) =>
      name === 'config' && cuts-- > 0 ? { part: 0.7, how: cuts % 2 === 0 ? 'end' : 'reset' } : undefined;
    await eventually(
      () => cuts,
      (left) => left < 0,
    );
    await compared(relay, relay.status.lastAgreedMs);
    expect(await endsOf(relay)).toEqual(before);
  });
});

describe('Two complete reads that agree', () => {
  it('remove an environment, a flag and an SDK key of which nobody was told', async () => {
    const relay = await listening({ reconcileIntervalMs: QUICK.reconcileIntervalMs });
    const { dev, prod } = account('dev', 'prod');
    upstream.environments = {
      dev: { ...dev!, flags: [aFlag('banner')] },
      prod: { ...prod!, apiKeys: [] },
    };
    await becomesLetIn(relay, 'test', false);
    await becomesLetIn(relay, 'prod', false);
    const session = await signIn(relay);
    await eventually(
      () => session.flagVersion('dark-mode'),
      (version) => version === undefined,
    );
    expect(await session.flagVersion('banner')).toBe(1);
  });
});

describe('What SDKs may read', () => {
  it('comes and goes with environments and SDK keys, as the upstream says it', async () => {
    const relay = await listening();
    upstream.environments = account(...IDS, 'new');
    expect(await isLetIn(relay, 'new')).toBe(false);
    tellProxy('environmentsAdded', { environments: ['new'] });
    await becomesLetIn(relay, 'new', true);

    const apiKey = hashOf(keyOf('new'));
    upstream.environment('new').apiKeys = [];
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    tellProxy('apiKeyRemoved', { environments: ['new'], apiKey });
    await becomesLetIn(relay, 'new', false);
    upstream.environment('new').apiKeys = [apiKey];
    tellProxy('apiKeyAdded', { environments: ['new'], apiKey });
    await becomesLetIn(relay, 'new', true);

    upstream.environments = account(...IDS);
    tellProxy('environmentsRemoved', { environments: ['new'] });
    await becomesLetIn(relay, 'new', false);
    expect(await isLetIn(relay)).toBe(true);
  });

  it('is nothing once the proxy key is deleted', async () => {
    const relay = await listening();
    link.onCall = () => ({ answer: 401 });
    tellProxy('proxyKeyDeleted', { identifier: 'a-key' });
    for (const id of IDS) await becomesLetIn(relay, id, false);
  });

  it('stays when the proxy key is deleted and it is to be kept', async () => {
    const relay = await listening({ keepServingOnKeyDeletion: true });
    const before = await endsOf(relay);
    tellProxy('proxyKeyDeleted', { identifier: 'a-key' });
    await eventually(
      () => said,
      (lines) => lines.some((line) => line.includes('KEEP_SERVING_ON_KEY_DELETION')),
    );
    change(2, 'prod');
    tell(2, 'prod');
    await serves(relay, 2, 'prod');
    expect(await isLetIn(relay)).toBe(true);
    expect((await endsOf(relay))[0]?.sequence).toBe((before[0]?.sequence ?? 0) + 1);
  });
});
