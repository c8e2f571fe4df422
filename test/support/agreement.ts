import { Redis } from 'ioredis';

import { flagsOf } from '#libs/domain';
import { foldLog } from '#libs/projection';

import { JetStreamEventLog } from '../../libs/event-log/src/jetstream-event-log.js';

import { eventually, SdkSession, upstreamFlags } from './clients.js';
import type { ServiceSet } from './deployments.js';
import { DEMO } from './processes.js';

/** The flags of the demo's environments, byte for byte, wherever they are kept. */
export async function expectAgreement(set: ServiceSet): Promise<void> {
  for (const environment of [DEMO.dev, DEMO.prod]) {
    const upstream = await upstreamFlags(set.controlPlane.url, environment.id);
    const looks: [string, () => Promise<string>][] = [
      ['the log', () => flagsInLog(set, environment.id)],
      ['Redis', () => flagsInRedis(set, environment.id)],
      ...set.gateways.map((gateway): [string, () => Promise<string>] => [
        gateway,
        async () => (await SdkSession.signIn(gateway, environment)).flags(),
      ]),
    ];
    for (const [where, look] of looks) {
      await eventually(
        async () => {
          const flags = await look().catch((error: unknown) => String(error));
          return flags === upstream ? 'the same' : `${where} says ${flags}, the upstream ${upstream}`;
        },
        (seen) => seen === 'the same',
      );
    }
  }
}

async function flagsInLog(set: ServiceSet, environment: string): Promise<string> {
  const log = await JetStreamEventLog.open({ servers: set.natsUrl, replicas: 1 });
  try {
    const state = (await foldLog(log)).states.get(environment);
    return JSON.stringify(state ? flagsOf(state) : []);
  } finally {
    await log.close();
  }
}

async function flagsInRedis(set: ServiceSet, environment: string): Promise<string> {
  const redis = new Redis(`redis://${set.redisAddress}`, { lazyConnect: true, retryStrategy: () => null });
  redis.on('error', () => undefined);
  try {
    await redis.connect();
    return (await redis.get(`env-${environment}-feature-configs`)) ?? '';
  } finally {
    redis.disconnect();
  }
}
