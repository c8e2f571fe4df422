import { afterEach, beforeEach, expect, it } from '@jest/globals';

import { Admin, SdkSession } from './support/clients.js';
import { type Service, Workspace } from './support/processes.js';

let workspace: Workspace;
let controlPlane: Service;
let relay: Service;

beforeEach(async () => {
  workspace = new Workspace();
  controlPlane = await workspace.controlPlane(await workspace.folder());
  relay = await workspace.relay(await workspace.folder(), controlPlane.url);
});
afterEach(() => workspace.dispose());

it('Whoever is told of a version reads it at once, and never an older one: 1,000 times (P2, P3)', async () => {
  const names = Array.from({ length: 10 }, (_, i) => `flag-${i}`);
  const admin = new Admin(controlPlane.url);
  for (const name of names) await admin.createFlag(name);
  const session = await SdkSession.signIn(relay.url);
  const stop = new AbortController();
  const stream = await session.stream(stop.signal);

  const changes = (async () => {
    for (let i = 0; !stop.signal.aborted; i++)
      await admin.setState(names[i % names.length] ?? '', i % 2 ? 'on' : 'off');
  })();
  const read = new Map<string, number>();
  let events = 0;
  for await (const { identifier, version } of stream) {
    const found = (await session.flagVersion(identifier)) ?? 0;
    expect(found).toBeGreaterThanOrEqual(version);
    expect(found).toBeGreaterThanOrEqual(read.get(identifier) ?? 0);
    read.set(identifier, found);
    if (++events === 1000) break;
  }
  stop.abort();
  await changes;
  expect(events).toBe(1000);
}, 120_000);
