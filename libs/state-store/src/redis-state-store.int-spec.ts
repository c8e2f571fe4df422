import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Redis } from 'ioredis';

import { type EnvironmentFact, fold, unknownEnvironment } from '#libs/domain';
import { StartupError } from '#libs/service';

import { RedisStateStore } from './redis-state-store.js';
import { stateStoreContract } from './state-store.suite.js';

/** A redis-server of a test. */
class Server {
  private constructor(
    private readonly process: ChildProcess,
    private readonly folder: string,
    readonly port: number,
    readonly client: Redis,
  ) {}

  static async start(...options: string[]): Promise<Server> {
    const folder = await mkdtemp(join(tmpdir(), 'ff-relay-redis-'));
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as { port: number };
    probe.close();
    const args = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', ...options];
    const server = spawn('redis-server', args, { stdio: 'ignore' });
    const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 50, maxRetriesPerRequest: null });
    client.on('error', () => undefined);
    await client.ping();
    return new Server(server, folder, port, client);
  }

  async stop(): Promise<void> {
    this.client.disconnect();
    this.process.kill('SIGTERM');
    await once(this.process, 'exit');
    await rm(this.folder, { recursive: true });
  }
}

let single: Server;
let cluster: Server;

beforeAll(async () => {
  single = await Server.start();
  cluster = await Server.start('--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1');
  await cluster.client.cluster('ADDSLOTSRANGE', 0, 16383);
  while (!(await cluster.client.cluster('INFO')).includes('cluster_state:ok')) await delay(50);
});
afterAll(async () => {
  await single.stop();
  await cluster.stop();
});

const storeAt = (address: string, flush: Redis) => async () => {
  const store = await RedisStateStore.open({ address, db: 0 });
  return {
    store,
    dispose: async () => {
      await store.close();
      await flush.flushall();
    },
  };
};

stateStoreContract('Redis', () => storeAt(`127.0.0.1:${single.port}`, single.client)());
stateStoreContract('Redis Cluster', () =>
  storeAt(`127.0.0.1:${cluster.port},127.0.0.1:${cluster.port}`, cluster.client)(),
);

describe('What Redis holds', () => {
  it('has the names and the JSON of the Go relay, and a position', async () => {
    const store = await RedisStateStore.open({ address: `redis://127.0.0.1:${single.port}`, db: 0 });
    const flag = {
      feature: 'dark-mode',
      project: 'demo',
      environment: 'dev',
      kind: 'boolean',
      state: 'on',
      variations: [],
      offVariation: 'false',
      defaultServe: { variation: 'true' },
      version: 3,
    } as const;
    const facts: EnvironmentFact[] = [
      { type: 'EnvironmentAdded', environment: 'E', account: 'demo' },
      { type: 'FlagPublished', environment: 'E', flag },
      { type: 'ApiKeyAdded', environment: 'E', apiKey: 'abc' },
    ];
    const state = fold(
      unknownEnvironment('E'),
      facts.map((fact, i) => ({ fact, sequence: i + 1 })),
    );
    await store.apply(state, facts, { epoch: 'e1', sequence: 3 });

    const list = JSON.stringify([flag]);
    const digest = (text: string) => JSON.stringify(createHash('sha256').update(text).digest('hex'));
    const names = (await single.client.keys('*')).toSorted();
    expect(
      Object.fromEntries(
        await Promise.all(
          names
            .filter((name) => name !== 'ff-relay-environments')
            .map(async (name) => [name, await single.client.get(name)]),
        ),
      ),
    ).toEqual({
      'auth-key-abc': '"E"',
      'env-E-api-configs': '["auth-key-abc"]',
      'env-E-feature-config-dark-mode': JSON.stringify(flag),
      'env-E-feature-configs': list,
      'env-E-feature-configs-latest': digest(list),
      'env-E-position': '{"epoch":"e1","sequence":3,"exists":true,"account":"demo"}',
      'env-E-segments': '[]',
      'env-E-segments-latest': digest('[]'),
    });
    expect(await single.client.smembers('ff-relay-environments')).toEqual(['E']);

    const gone: EnvironmentFact = { type: 'EnvironmentRemoved', environment: 'E' };
    await store.apply(fold(state, [{ fact: gone, sequence: 4 }]), [gone], { epoch: 'e1', sequence: 4 });
    expect((await single.client.keys('*')).toSorted()).toEqual(['env-E-position']);
    await store.close();
  });
});

describe('Opening the store', () => {
  it('fails with one message when nobody answers', async () => {
    await expect(RedisStateStore.open({ address: '127.0.0.1:1', db: 0 })).rejects.toThrow(StartupError);
  });

  it('takes credentials, and fails with one message when they are wrong', async () => {
    const guarded = await Server.start();
    await guarded.client.acl('SETUSER', 'relay', 'on', '>secret', '~*', '+@all');
    const address = `127.0.0.1:${guarded.port}`;
    const store = await RedisStateStore.open({ address, username: 'relay', password: 'secret', db: 0 });
    expect(await store.progress()).toBeUndefined();
    await store.close();
    await expect(
      RedisStateStore.open({ address, username: 'relay', password: 'wrong', db: 0 }),
    ).rejects.toThrow(/REDIS_PASSWORD/);
    await guarded.stop();
  });
});
