import { afterEach, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { Redis } from 'ioredis';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { type Part, ServiceSet } from './support/deployments.js';
import { DEMO } from './support/processes.js';

let set: ServiceSet;
afterEach(() => set.dispose());

/** Every message of every stream, buckets included, with its subject. */
async function allOfNats(): Promise<string[]> {
  const connection = await connect({ servers: set.natsUrl });
  const found: string[] = [];
  const manager = await jetstreamManager(connection);
  for await (const { config, state } of manager.streams.list()) {
    // One that never held anything begins at 0, which is no message.
    for (let seq = Math.max(1, state.first_seq); seq <= state.last_seq; seq++) {
      const message = await manager.streams.getMessage(config.name, { seq });
      if (message) found.push(`${message.subject} ${message.string()}`);
    }
  }
  await connection.close();
  return found;
}

async function allOfRedis(): Promise<string[]> {
  const redis = new Redis(`redis://${set.redisAddress}`);
  const keys = await redis.keys('*');
  const values = await Promise.all(
    keys.map(async (key) =>
      (await redis.type(key)) === 'set' ? redis.smembers(key) : [await redis.get(key)],
    ),
  );
  redis.disconnect();
  return [...keys, ...values.flat().map(String)];
}

it('No proxy key, SDK key, token or secret is in Redis, in NATS, in a log line or in /status', async () => {
  const roles: Part[] = ['ingestor-1', 'projector-1', 'metrics-forwarder-1', 'gateway-1', 'gateway-2'];
  set = await ServiceSet.start();
  const [gateway = ''] = set.gateways;
  const session = await SdkSession.signIn(gateway);
  const client = await SdkSession.signIn(gateway, {
    id: DEMO.dev.id,
    serverKey: '20000000-0000-4000-8000-000000000002',
  });
  await session.flags();
  // Refused ones are logged most often.
  await fetch(`${gateway}/client/auth`, {
    method: 'POST',
    body: JSON.stringify({ apiKey: 'an-sdk-key-that-nobody-knows' }),
  });
  await fetch(`${gateway}/client/env/${DEMO.prod.id}/feature-configs`, {
    headers: { authorization: `Bearer ${session.token}` },
  });
  await new Admin(set.controlPlane.url).setState('dark-mode', 'off');
  await eventually(
    () => session.flagVersion('dark-mode'),
    (version) => version === 2,
  );
  await set.stop('control-plane');
  await eventually(
    () => set.output('ingestor-1'),
    (output) => output.includes('connecting again'),
  );
  // Counts that nobody takes stay in the log.
  const counts = {
    metricsData: [
      {
        timestamp: Date.now(),
        count: 3,
        metricsType: 'FFMETRICS',
        attributes: [
          { key: 'featureIdentifier', value: 'dark-mode' },
          { key: 'variationIdentifier', value: 'true' },
        ],
      },
    ],
  };
  const taken = await fetch(`${gateway}/metrics/${DEMO.dev.id}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${session.token}` },
    body: JSON.stringify(counts),
  });
  expect(taken.status).toBe(200);
  await eventually(allOfNats, (found) => found.some((message) => message.startsWith('ff.metrics.v1.')));

  const places = {
    Redis: await allOfRedis(),
    NATS: await allOfNats(),
    logs: roles.map((part) => set.output(part)),
    status: await Promise.all(roles.map(async (part) => JSON.stringify(await set.status(part)))),
  };
  const secrets = [
    DEMO.proxyKey,
    DEMO.dev.serverKey,
    DEMO.prod.serverKey,
    '20000000-0000-4000-8000-000000000002',
    'an-sdk-key-that-nobody-knows',
    'a secret that is long enough',
    session.token,
    client.token,
  ];
  for (const [place, texts] of Object.entries(places)) {
    expect(texts.length).toBeGreaterThan(0);
    for (const secret of secrets) {
      expect([place, secret, texts.filter((text) => text.includes(secret))]).toEqual([place, secret, []]);
    }
  }
});
