import { afterEach, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { DEMO } from './support/processes.js';

type SetAside = Record<'environment' | 'kind' | 'identifier' | 'reason', string>;

let set: ServiceSet;
afterEach(() => set.dispose());

const setAside = async () => {
  const { ingestor } = await set.status('ingestor-1');
  return (ingestor?.['setAside'] as SetAside[] | undefined) ?? [];
};

it('A flag that the log does not take is set aside and shown, the rest flows, and it comes once it is smaller', async () => {
  set = await ServiceSet.start(undefined, 'max_payload: 65536');
  const admin = new Admin(set.controlPlane.url);
  const session = await SdkSession.signIn(set.gateways[0] ?? '');
  const served = (identifier: string) =>
    eventually(
      () => session.flagVersion(identifier),
      (version) => version === 1,
    );

  await admin.createLargeFlag('just-fits', 60_000);
  await served('just-fits');
  await admin.createLargeFlag('too-large', 70_000);
  await admin.createFlag('made-after');
  await served('made-after');
  const aside = await eventually(setAside, (seen) => seen.length === 2);
  expect(aside.map(({ environment }) => environment).toSorted()).toEqual([DEMO.dev.id, DEMO.prod.id]);
  for (const { kind, identifier, reason } of aside) {
    expect([kind, identifier]).toEqual(['flag', 'too-large']);
    expect(reason).toMatch(/has 7\d{4} bytes, and the log takes \d+ at most/);
  }
  expect(set.output('ingestor-1')).toMatch(/too-large .* It is set aside, and its last good state served/);
  expect(await session.flagVersion('too-large')).toBeUndefined();

  await admin.deleteFlag('too-large');
  await admin.createFlag('too-large');
  await served('too-large');
  expect(await eventually(setAside, (seen) => seen.length === 0)).toEqual([]);
});
