import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from '@harnessio/ff-nodejs-server-sdk';

import { Admin, eventually, SdkSession, ownMemory } from './support/clients.js';
import { type Deployment, DEPLOYMENTS } from './support/deployments.js';
import { DEMO } from './support/processes.js';

const CHANGES = 200;

describe.each(DEPLOYMENTS)('A stream of the relay as %s', (_name, deploy) => {
  let deployment: Deployment;
  let admin: Admin;
  let stop: AbortController;
  let client: Client | undefined;

  beforeEach(async () => {
    stop = new AbortController();
    deployment = await deploy();
    admin = new Admin(deployment.controlPlane.url);
  });
  afterEach(async () => {
    stop.abort();
    await deployment.dispose();
    client?.close();
    client = undefined;
  });

  it(`that breaks off all the time, and goes on at any gateway, misses none of ${CHANGES} changes (P5)`, async () => {
    const names = Array.from({ length: 20 }, (_, i) => `flag-${i}`);
    for (const name of names) await admin.createFlag(name);
    const sessions = await Promise.all(deployment.gateways.map((gateway) => SdkSession.signIn(gateway)));
    const newest = new Map<string, number>();
    let lastEventId: string | undefined;
    let connections = 0;
    /** Listens until so many events came, or what is awaited did; then hangs up. */
    const listen = async (events: number, until: () => boolean) => {
      const connection = new AbortController();
      const signal = AbortSignal.any([connection.signal, stop.signal]);
      const session = sessions[connections++ % sessions.length];
      let left = events;
      for await (const { id, identifier, version } of (await session?.stream(signal, lastEventId)) ?? []) {
        if (id) lastEventId = id;
        newest.set(identifier, Math.max(version, newest.get(identifier) ?? 0));
        if (until() || --left === 0) break;
      }
      connection.abort();
    };

    await admin.createFlag('begin');
    await listen(Number.POSITIVE_INFINITY, () => newest.has('begin'));
    const [session] = sessions;
    const last = names.at(-1) ?? '';
    const before = await eventually(
      () => session?.flagVersion(last),
      (version) => version !== undefined,
    );
    const changing = (async () => {
      for (let i = 0; i < CHANGES; i++)
        await admin.setState(names[i % names.length] ?? '', Math.floor(i / names.length) % 2 ? 'off' : 'on');
      // What one read finds is told in the order of names: the last change must not be found together with the end.
      await eventually(
        () => session?.flagVersion(last),
        (version) => version === (before ?? 0) + CHANGES / names.length,
      );
      await admin.createFlag('end');
    })();
    changing.catch(() => stop.abort());
    while (!newest.has('end') && !stop.signal.aborted) {
      // One that breaks off within what it missed begins that anew: now and then one listens to all of it.
      await listen(connections % 5 === 4 ? 2 * names.length : 7, () => newest.has('end'));
    }
    await changing;

    // What is told after the last change is told too.
    const truth = new Map<string, number>();
    for (const name of names) truth.set(name, (await session?.flagVersion(name)) ?? 0);
    const stale = () => names.filter((name) => (newest.get(name) ?? 0) < (truth.get(name) ?? 0));
    expect([...truth.values()].every((version) => version > 5)).toBe(true);
    expect(stale()).toEqual([]);
    expect(connections).toBeGreaterThan(10);
  });

  it('of the Node SDK, after a restart in which a flag changed, tells of the change', async () => {
    const [url = ''] = deployment.gateways;
    client = new Client(DEMO.dev.serverKey, {
      baseUrl: url,
      eventsUrl: url,
      enableStream: true,
      pollInterval: 3_600_000,
      enableAnalytics: false,
      logger: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
      ...ownMemory(),
    });
    const sdk = client;
    const target = { identifier: 'anna', name: 'Anna', attributes: {} };
    const darkMode = () => sdk.boolVariation('dark-mode', target, true);
    await sdk.waitForInitialization();
    await admin.setState('dark-mode', 'off');
    await eventually(darkMode, (value) => !value);
    await admin.setState('dark-mode', 'on');
    await eventually(darkMode, (value) => value);

    // Nobody has a stream while the change is made and told.
    await deployment.restartGateway(async (another) => {
      await admin.setState('dark-mode', 'off');
      if (another === undefined) return;
      const session = await SdkSession.signIn(another);
      await eventually(
        () => session.flagVersion('dark-mode'),
        (version) => version === 4,
      );
    });
    // It fetches nothing when its stream is back: it must hear.
    await eventually(darkMode, (value) => !value);
  });
});
