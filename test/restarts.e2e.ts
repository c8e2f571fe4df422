import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { EmbeddedEventLog } from '#libs/event-log';

import { Admin, eventually, SdkSession, upstreamFlags } from './support/clients.js';
import { DEMO, type Service, Workspace } from './support/processes.js';

describe('The relay', () => {
  let workspace: Workspace;
  let data: { controlPlane: string; relay: string };
  let controlPlane: Service;
  let relay: Service;
  let stop: AbortController;

  beforeEach(async () => {
    stop = new AbortController();
    workspace = new Workspace();
    data = { controlPlane: await workspace.folder(), relay: await workspace.folder() };
    controlPlane = await workspace.controlPlane(data.controlPlane);
    relay = await workspace.relay(data.relay, controlPlane.url);
  });
  afterEach(async () => {
    stop.abort();
    await workspace.dispose();
  });

  /** Where facts and notices end, in the log of a relay that is stopped. */
  const ends = async () => {
    const log = await EmbeddedEventLog.open(data.relay);
    const [facts, changes] = [await log.head('FF_FACTS'), await log.head('FF_CHANGES')];
    await log.close();
    return { facts, changes };
  };
  const health = async () =>
    (await (await fetch(`${relay.url}/health`)).json()) as Record<string, { state: string }>;

  it('starts without its upstream and serves what it knew (P9)', async () => {
    await new Admin(controlPlane.url).setState('dark-mode', 'off');
    const session = await SdkSession.signIn(relay.url);
    await eventually(
      () => session.flagVersion('dark-mode'),
      (version) => version === 2,
    );
    const before = await session.flags();

    await controlPlane.process.kill('SIGTERM');
    await relay.process.kill('SIGTERM');
    relay = await workspace.relay(data.relay, controlPlane.url, relay.port);

    expect(await (await SdkSession.signIn(relay.url)).flags()).toBe(before);
    // An SDK that was signed in before stays so.
    expect(await session.flags()).toBe(before);
    expect((await health())['streamStatus']?.state).not.toBe('CONNECTED');
  });

  it('tells nobody anything after a restart in which nothing changed (P6)', async () => {
    const told = await (await SdkSession.signIn(relay.url)).stream(stop.signal);
    await new Admin(controlPlane.url).setState('dark-mode', 'off');
    for await (const { identifier, version } of told) if (identifier === 'dark-mode' && version === 2) break;
    stop.abort();
    await relay.process.kill('SIGTERM');
    await controlPlane.process.kill('SIGTERM');
    const before = await ends();

    controlPlane = await workspace.controlPlane(data.controlPlane, controlPlane.port);
    relay = await workspace.relay(data.relay, controlPlane.url, relay.port);
    await eventually(health, ({ configStatus }) => configStatus?.state === 'SYNCED');
    await relay.process.kill('SIGTERM');

    expect(await ends()).toEqual(before);
  });

  it('catches up with what changed while it was away, and tells of it', async () => {
    await relay.process.kill('SIGKILL');
    const admin = new Admin(controlPlane.url);
    await admin.setState('dark-mode', 'off');
    await admin.createFlag('made-meanwhile');
    await admin.deleteFlag('banner-text');
    relay = await workspace.relay(data.relay, controlPlane.url, relay.port);

    const session = await SdkSession.signIn(relay.url);
    const upstream = await upstreamFlags(controlPlane.url);
    await eventually(
      () => session.flags(),
      (flags) => flags === upstream,
    );
    await relay.process.kill('SIGTERM');
    const log = await EmbeddedEventLog.open(data.relay);
    const notices = (
      await Array.fromAsync(log.latest('FF_CHANGES', `ff.changes.v1.${DEMO.dev.id}.flag.`))
    ).flat();
    await log.close();
    const told = notices.map(
      ({ body }) => (JSON.parse(body) as { data: { event: string; identifier: string } }).data,
    );
    expect(Object.fromEntries(told.map(({ identifier, event }) => [identifier, event]))).toMatchObject({
      'dark-mode': 'patch',
      'made-meanwhile': 'create',
      'banner-text': 'delete',
    });
  });

  it('equals its upstream byte for byte after a kill in the middle of 200 changes (P1, P4)', async () => {
    const admin = new Admin(controlPlane.url);
    const names = Array.from({ length: 200 }, (_, i) => `flag-${i}`);
    for (const name of names) await admin.createFlag(name);
    const session = await SdkSession.signIn(relay.url);
    await eventually(
      () => session.flagVersion('flag-199'),
      (version) => version === 1,
    );

    const seen = new Map<string, number>();
    const watching = (async () => {
      for await (const { identifier, version } of await session.stream(stop.signal))
        seen.set(identifier, version);
    })().catch(() => undefined);
    const left = [...names];
    const change = async () => {
      for (let name = left.shift(); name; name = left.shift()) await admin.setState(name, 'on');
    };
    const changing = Promise.all(Array.from({ length: 8 }, change));
    await eventually(
      () => seen.size,
      (told) => told >= 50,
    );
    await relay.process.kill('SIGKILL');
    await Promise.all([changing, watching]);

    // Nobody to ask: what SDKs were told of is in the log (P1).
    await controlPlane.process.kill('SIGTERM');
    relay = await workspace.relay(data.relay, controlPlane.url, relay.port);
    for (const [name, version] of seen)
      expect(await session.flagVersion(name)).toBeGreaterThanOrEqual(version);

    controlPlane = await workspace.controlPlane(data.controlPlane, controlPlane.port);
    const upstream = await upstreamFlags(controlPlane.url);
    await eventually(
      () => session.flags(),
      (flags) => flags === upstream,
    );
    expect(upstream.match(/"version":2/g)?.length).toBeGreaterThanOrEqual(200);
  });
});
