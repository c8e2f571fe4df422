import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import {
  apiKeysOf,
  type EnvironmentState,
  factIn,
  type Flag,
  flagsOf,
  type Segment,
  segmentsOf,
} from '#libs/domain';
import { foldLog, statesIn } from '#libs/projection';

import { Chance } from './chance.js';
import { eventually, SdkSession } from './clients.js';
import { type CallFault, FaultLink, type MessageFault } from './fault-link.js';
import { endsOf, QUICK, type QuickRelay, startQuickRelay } from './quick-relay.js';
import { VersionsSeen } from './versions-seen.js';
import { SmallSdk } from './small-sdk.js';
import { ENVIRONMENTS, hashOf, keyOf, listed, type Lived, UpstreamWorld } from './upstream-world.js';

const CHANGES = 150;
export interface SoakOptions {
  readonly seed: number;
  /** By how much a read of the upstream may lag behind what it tells; 0 for not at all. */
  readonly lagMs: number;
  /** By when everybody must know, after the last fault. */
  readonly agreeWithinMs: number;
}

/**
 * One life of a relay at the hands of chance: anything changes upstream while anything happens to the link. When the
 * link heals, everybody must agree, and must have been told. Throws with what was done last if not.
 *
 * @returns the ms after which they agreed
 */
export async function soak({ seed, lagMs, agreeWithinMs }: SoakOptions): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'ff-relay-soak-'));
  const world = await UpstreamWorld.start(new Chance(seed * 2), QUICK.heartbeatMs);
  const link = await FaultLink.to(world.server.url);
  const chance = new Chance(seed * 2 + 1);
  const happened: string[] = [];
  const happens = (what: string) => void happened.push(`${Math.round(performance.now())} ${what}`);
  const relays: Promise<QuickRelay>[] = [];
  const sdks: SmallSdk[] = [];
  const start = () => {
    const relay = startQuickRelay(folder, link.url, happens);
    relays.push(relay);
    return relay;
  };
  const stop = async () => {
    await Promise.all(sdks.splice(0).map((sdk) => sdk.stop()));
    for (const relay of relays.splice(0)) await (await relay.catch(() => undefined))?.stop();
  };
  try {
    const lagsUntil = new Map<string, number>();
    link.onCall = (name) => {
      // A replica that lags does so for a while, and not all that is read comes from it.
      if (lagMs > 0 && chance.happens(0.1)) lagsUntil.set(name, Date.now() + 200);
      const fault = Date.now() < (lagsUntil.get(name) ?? 0) ? { staleMs: lagMs } : callFault(chance);
      if (fault) happens(`${name}: ${JSON.stringify(fault)}`);
      return fault;
    };
    link.onMessage = (data) => {
      const fault = messageFault(chance);
      if (fault) happens(`message ${JSON.stringify(fault)}: ${data.slice(9)}`);
      return fault;
    };
    const starting = start();
    let serving: QuickRelay | undefined;
    const listen = async () => {
      const { url } = (serving = await starting);
      sdks.push(...ENVIRONMENTS.map((id) => new SmallSdk(url, id)));
      for (const sdk of sdks) sdk.start();
    };
    const changeLeader = async () => {
      if (!serving) return;
      happens('another ingestor leads');
      await serving.changeLeader();
    };
    const listening = listen();
    listening.catch(() => undefined);
    for (let i = 0; i < CHANGES; i++) {
      world.change();
      if (chance.happens(0.02)) link.endStreams(chance.of(['reset', 'end', 'silence']) ?? 'end');
      if (chance.happens(0.02)) await changeLeader();
      await passes(chance.below(15));
    }
    await link.calm();
    happens('the link is sound');
    const soundAt = performance.now();

    const relay = await starting;
    await listening;
    await eventually(
      () => disagreement(relay, world, sdks),
      (difference) => difference === undefined,
      agreeWithinMs,
    );
    const agreedAfterMs = performance.now() - soundAt;
    happens('all agree');
    const wentBack = [...sdks.map(({ seen }) => seen), await seenInLog(relay)].flatMap(
      (seen) => seen.wentBack,
    );
    if (wentBack.length > 0) throw new Error(`somebody saw time go back: ${wentBack.join(', ')}`);

    const before = JSON.stringify(await endsOf(relay));
    await stop();
    const again = await start();
    await eventually(
      () => again.status.lastAgreedMs,
      (agreed) => agreed !== undefined,
      agreeWithinMs,
    );
    const after = JSON.stringify(await endsOf(again));
    if (after !== before)
      throw new Error(`a restart in which nothing changed wrote: ${before} became ${after}`);
    return agreedAfterMs;
  } catch (error) {
    const done = [...world.done.map((line) => `${line} (upstream)`), ...happened].toSorted(byTime);
    throw new Error(`seed ${seed}: ${String(error)}\nWhat was done last:\n${done.slice(-150).join('\n')}`, {
      cause: error,
    });
  } finally {
    await link.calm();
    await stop();
    await link.close();
    world.close();
    await rm(folder, { recursive: true, force: true });
  }
}

function callFault(chance: Chance): CallFault | undefined {
  if (chance.happens(0.7)) return undefined;
  const refused = (answer: number, headers = {}, body = '') => ({ answer, headers, body });
  return chance.of<() => CallFault>([
    () => 'reset',
    () => ({ part: chance.next(), how: 'reset' }),
    () => ({ part: chance.next(), how: 'end' }),
    () => ({ lateMs: chance.below(100) }),
    // Longer than a replica lags.
    () => ({ lateMs: chance.below(400) }),
    () => ({ silentMs: chance.below(200) }),
    () => refused(chance.of([500, 502, 503, 504]) ?? 500),
    () => refused(chance.of([401, 403, 404]) ?? 401),
    () => refused(429, { 'retry-after': String(chance.below(10)) }),
    () => refused(200, { 'content-type': 'text/html' }, '<html><body>Sign in to this network</body></html>'),
    () => refused(200),
    () =>
      refused(200, {}, chance.of(['[]', '{}', 'null', '{"itemCount":0,"pageCount":0,"environments":[]}'])),
  ])?.();
}

function messageFault(chance: Chance): MessageFault | undefined {
  if (chance.happens(0.75)) return undefined;
  return chance.of<() => MessageFault>([
    () => 'lost',
    () => 'lost',
    () => 'twice',
    () => ({ lateMs: chance.below(100) }),
    () => ({ lateMs: chance.below(100) }),
    () => ({
      after:
        chance.of(['data: {"event":', '<html>', 'data: [1]', 'event: *\ndata: {"event":"x","domain":"y"}']) ??
        '',
    }),
    () => 'reset',
    () => 'end',
    () => 'silence',
  ])?.();
}

/** Where somebody has something else than the upstream; undefined if nobody has. */
async function disagreement(
  relay: QuickRelay,
  world: UpstreamWorld,
  sdks: readonly SmallSdk[],
): Promise<string | undefined> {
  const upstream = world.environments;
  const places: [string, ReadonlyMap<string, EnvironmentState>][] = [
    ['the log', (await foldLog(relay.log)).states],
    ['the store', await statesIn(relay.store)],
  ];
  for (const [place, states] of places) {
    const there = [...states.values()].filter(({ exists }) => exists).map(({ id }) => id);
    const odd = [...new Set([...there, ...Object.keys(upstream)])].find(
      (id) => !there.includes(id) || !upstream[id],
    );
    if (odd) return `${place} ${there.includes(odd) ? 'still holds' : 'lacks'} ${odd}`;
    for (const [id, environment] of Object.entries(upstream)) {
      const state = states.get(id);
      const held = state && {
        flags: flagsOf(state),
        segments: segmentsOf(state),
        apiKeys: apiKeysOf(state),
      };
      const difference = differenceOf(JSON.stringify(held), JSON.stringify(listed(environment)));
      if (difference) return `${place} of ${id}: ${difference}`;
    }
  }
  for (const [i, id] of ENVIRONMENTS.entries()) {
    const environment = upstream[id];
    const isLetIn = environment?.apiKeys.includes(hashOf(keyOf(id))) === true;
    const sdk = sdks[i];
    if (!environment || !isLetIn) {
      if (sdk?.knows) return `the SDK of ${id} is still let in`;
      continue;
    }
    const { flags, segments } = listed(environment);
    const session = await SdkSession.signIn(relay.url, { id, serverKey: keyOf(id) });
    const told = { flags: JSON.stringify(flags), segments: JSON.stringify(segments) };
    const served = {
      flags: await session.flags(),
      segments: await (await session.get('target-segments?rules=v2')).text(),
    };
    const difference =
      differenceOf(JSON.stringify(served), JSON.stringify(told)) ??
      differenceOf(JSON.stringify(sdk?.knows), JSON.stringify(told));
    if (difference) return `what is served of ${id}, or what its SDK was told: ${difference}`;
  }
  return undefined;
}

/** Who reads every fact sees no other order. */
async function seenInLog({ log }: QuickRelay): Promise<VersionsSeen> {
  const seen = new VersionsSeen();
  const { sequence } = await log.head('FF_FACTS');
  for await (const messages of log.tail('FF_FACTS', undefined, new AbortController().signal)) {
    for (const { body } of messages) {
      const fact = factIn(body);
      if (fact.type === 'FlagPublished')
        seen.see(`log: ${fact.environment} ${fact.flag.feature}`, fact.flag as Flag & Lived);
      if (fact.type === 'SegmentPublished')
        seen.see(`log: ${fact.environment} ${fact.segment.identifier}`, fact.segment as Segment & Lived);
    }
    if ((messages.at(-1)?.position.sequence ?? 0) >= sequence) break;
  }
  return seen;
}

function differenceOf(has = 'nothing', upstream: string): string | undefined {
  if (has === upstream) return undefined;
  let at = 0;
  while (has[at] === upstream[at]) at++;
  const from = Math.max(0, at - 300);
  return `…${has.slice(from, at + 60)}… instead of …${upstream.slice(from, at + 60)}…`;
}

function byTime(a: string, b: string): number {
  return Number.parseInt(a) - Number.parseInt(b);
}

function passes(ms: number): Promise<void> {
  return delay(ms);
}
