import { afterEach, describe, expect, it } from '@jest/globals';

import { Admin, SdkSession } from './support/clients.js';
import { type Deployment, DEPLOYMENTS, ServiceSet } from './support/deployments.js';
import { Link } from './support/link.js';
import { DEMO } from './support/processes.js';

const CHANGES = 1000;
const AT_ONCE = 20;

/** Reads at `reader` what each event of `teller` tells of, while flags change all the time. */
async function expectToldToBeReadable(
  { controlPlane }: Deployment,
  teller: string,
  reader: string,
): Promise<void> {
  const names = Array.from({ length: 10 }, (_, i) => `flag-${i}`);
  const admin = new Admin(controlPlane.url);
  for (const name of names) await admin.createFlag(name);
  const [told, read] = [await SdkSession.signIn(teller), await SdkSession.signIn(reader)];
  const stop = new AbortController();
  const stream = await told.stream(stop.signal);

  const changes = (async () => {
    for (let i = 0; !stop.signal.aborted; i++)
      await admin.setState(names[i % names.length] ?? '', i % 2 ? 'on' : 'off');
  })();
  const newest = new Map<string, number>();
  const look = async (identifier: string, version: number) => {
    const seenBefore = newest.get(identifier) ?? 0;
    const found = (await read.flagVersion(identifier)) ?? 0;
    expect(found).toBeGreaterThanOrEqual(Math.max(version, seenBefore));
    newest.set(identifier, Math.max(found, newest.get(identifier) ?? 0));
  };
  const looks: Promise<void>[] = [];
  for await (const { identifier, version } of stream) {
    looks.push(look(identifier, version));
    if (looks.length % AT_ONCE === 0) await Promise.all(looks);
    if (looks.length === CHANGES) break;
  }
  stop.abort();
  await Promise.all([changes, ...looks]);
}

describe('Whoever is told of a version reads it at once, and never an older one, 1,000 times (P2, P3)', () => {
  let deployment: Deployment;
  let link: Link | undefined;
  afterEach(async () => {
    await deployment.dispose();
    await link?.close();
  });

  it.each(DEPLOYMENTS)('from the gateway that told it: %s', async (_name, deploy) => {
    deployment = await deploy();
    const [gateway = ''] = deployment.gateways;
    await expectToldToBeReadable(deployment, gateway, gateway);
  });

  /** The log comes late to the second gateway. */
  const unequalGateways = async () => {
    const set = await ServiceSet.start();
    deployment = set;
    link = await Link.to(Number(new URL(set.natsUrl).port), 50);
    await set.stop('gateway-2');
    await set.start('gateway-2', { NATS_URL: `nats://127.0.0.1:${link.port}` });
    return set;
  };

  it('from another gateway, to which the log comes late', async () => {
    const set = await unequalGateways();
    await expectToldToBeReadable(set, set.gatewayUrl('gateway-1'), set.gatewayUrl('gateway-2'));
  });

  it('also as an OpenFeature provider, which is told by one gateway and asks another for all flags', async () => {
    const set = await unequalGateways();
    const admin = new Admin(set.controlPlane.url);
    /** The version of the flag, among all of them. */
    const readAtTheOther = async () => {
      const response = await fetch(`${set.gatewayUrl('gateway-2')}/ofrep/v1/evaluate/flags`, {
        method: 'POST',
        headers: { 'x-api-key': DEMO.dev.serverKey },
        body: JSON.stringify({ context: { targetingKey: 'anna' } }),
      });
      const { flags } = (await response.json()) as {
        flags: { key: string; metadata: { version: number } }[];
      };
      return flags.find(({ key }) => key === 'dark-mode')?.metadata.version ?? 0;
    };
    const session = await SdkSession.signIn(set.gatewayUrl('gateway-1'));
    const stop = new AbortController();
    const told = (await session.stream(stop.signal))[Symbol.asyncIterator]();
    const isTold = async (version: number): Promise<boolean> => {
      const { done, value } = await told.next();
      return !done && (value.version === version || isTold(version));
    };
    const before = await readAtTheOther();
    for (let version = before + 1; version <= before + 50; version++) {
      await admin.setState('dark-mode', version % 2 ? 'on' : 'off');
      expect(await isTold(version)).toBe(true);
      expect(await readAtTheOther()).toBe(version);
    }
    stop.abort();
  });
});
