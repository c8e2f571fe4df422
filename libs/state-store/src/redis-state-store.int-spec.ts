import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { Redis } from 'ioredis';

import { type EnvironmentState, evolve, type Flag, flagsOf, unknownEnvironment } from '#libs/domain';

import {
  aFlag,
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  segmentPublished,
} from '../../domain/src/builders.suite.js';
import { RedisServer } from './redis-server.suite.js';
import { type RedisSettings, RedisStateStore } from './redis-state-store.js';
import { applied, stateOf, stateStoreContract } from './state-store.suite.js';

/** A node that met no other knows no address of its own to tell. */
const CLUSTER = ['--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1'];

let single: RedisServer;
let cluster: RedisServer;
/** What is not the store, on the single server and on the cluster. */
let client: Redis;
let clusterClient: Redis;

/** What the store logs, by level. */
const logged: { level: string; line: string }[] = [];
const linesAt = (level: string) => logged.filter((entry) => entry.level === level).map(({ line }) => line);
const note = (level: string) => (message: unknown) => void logged.push({ level, line: String(message) });

const clientOf = (server: RedisServer, options = {}) => new Redis(server.port, '127.0.0.1', options);
const eventually = async (holds: () => Promise<boolean> | boolean) => {
  while (!(await holds())) await delay(10);
};
const digestOf = (text: string) => JSON.stringify(createHash('sha256').update(text).digest('hex'));

const stores: RedisStateStore[] = [];
const open = async (settings: Partial<RedisSettings> & { address: string }) => {
  const store = await RedisStateStore.open({ db: 0, ...settings });
  stores.push(store);
  return store;
};
const servers: RedisServer[] = [];
const running = async (server: Promise<RedisServer>) => {
  servers.push(await server);
  return server;
};

beforeAll(async () => {
  Logger.overrideLogger({ log: note('log'), warn: note('warn'), error: note('error') });
  single = await RedisServer.start();
  client = clientOf(single);
  cluster = await RedisServer.start(...CLUSTER);
  clusterClient = clientOf(cluster);
  await clusterClient.cluster('ADDSLOTSRANGE', 0, 16383);
  await eventually(async () => (await clusterClient.cluster('INFO')).includes('cluster_state:ok'));
});
beforeEach(() => void logged.splice(0));
afterEach(async () => {
  await Promise.all(stores.splice(0).map((store) => store.close()));
  await Promise.all(servers.splice(0).map((server) => server.dispose()));
  await client.flushall();
  await clusterClient.flushall();
});
afterAll(async () => {
  client.disconnect();
  clusterClient.disconnect();
  await single.dispose();
  await cluster.dispose();
});

/** A store of its own for each test of the contract. */
const underTest =
  (settings: () => Partial<RedisSettings> & { address: string }, other: () => Redis) => async () => ({
    store: await open(settings()),
    flush: async () => void (await other().flushall()),
    dispose: async () => {},
  });

stateStoreContract(
  'Redis',
  underTest(
    () => ({ address: single.address }),
    () => client,
  ),
);
stateStoreContract(
  'Redis with a prefix',
  underTest(
    () => ({ address: single.address, prefix: 'replay*[1]:' }),
    () => client,
  ),
);
stateStoreContract(
  'Redis Cluster',
  underTest(
    () => ({ address: `${cluster.address},${cluster.address}` }),
    () => clusterClient,
  ),
);

const everything = async () =>
  Object.fromEntries(
    await Promise.all(
      (await client.keys('*'))
        .filter((key) => key !== 'ff-relay-environments')
        .toSorted()
        .map(async (key) => [key, await client.get(key)] as const),
    ),
  );

const full = stateOf('E', [
  environmentAdded('E'),
  flagPublished('a', 1, 'E'),
  flagPublished('b', 1, 'E'),
  segmentPublished('s', 1, 'E'),
  apiKeyAdded('abc', 'E'),
]);

describe('What Redis holds', () => {
  it('has the names and the JSON of the Go relay, and a position', async () => {
    const store = await open({ address: `redis://${single.address}` });
    const flag = aFlag('dark-mode', { version: 3 });
    const facts = [
      environmentAdded('E'),
      { type: 'FlagPublished', environment: 'E', flag } as const,
      apiKeyAdded('abc', 'E'),
    ];
    let state = unknownEnvironment('E');
    for (const fact of facts) state = await applied(store, state, fact);

    const list = JSON.stringify([flag]);
    const expected = {
      'auth-key-abc': '"E"',
      'env-E-api-configs': '["auth-key-abc"]',
      'env-E-feature-config-dark-mode': JSON.stringify(flag),
      'env-E-feature-configs': list,
      'env-E-feature-configs-latest': digestOf(list),
      'env-E-position': '{"epoch":"e1","sequence":3,"exists":true,"account":"demo"}',
      'env-E-segments': '[]',
      'env-E-segments-latest': digestOf('[]'),
    };
    expect(await everything()).toEqual(expected);
    expect(await client.smembers('ff-relay-environments')).toEqual(['E']);

    await store.replace(state, 'e1', { epoch: 'e1', sequence: 3 });
    expect(await everything()).toEqual(expected);

    await applied(store, state, environmentRemoved('E'));
    expect(Object.keys(await everything())).toEqual(['env-E-position']);
  });

  it('begins with the prefix, beside a set of keys without', async () => {
    const live = await open({ address: single.address });
    await live.replace(full, 'e1', undefined);
    const before = await everything();
    const beside = await open({ address: single.address, prefix: 'new-' });
    expect(await beside.environments()).toEqual([]);
    await beside.replace(full, 'e2', undefined);
    await beside.begin({ position: { epoch: 'e2', sequence: 5 }, complete: true, writer: 'w' });
    expect(await live.progress()).toBeUndefined();
    expect(await beside.holds(full, 'e2')).toBe(true);
    expect(await beside.sweep(new Map(), { epoch: 'e3', sequence: 1 })).toBe(10);
    expect(await client.keys('new-*')).toEqual(['new-ff-relay-progress']);
    await client.del('new-ff-relay-progress');
    expect(await everything()).toEqual(before);
  });

  it('never shows a list without its digest, nor an older one, while it is written', async () => {
    const store = await open({ address: single.address });
    const names = ['position', 'feature-configs', 'feature-configs-latest'].map((name) => `env-E-${name}`);
    const written = new AbortController();
    let newest = 0;
    const seen = new Set<number>();
    const reading = (async () => {
      while (!written.signal.aborted) {
        const [position, list, latest] = await client.mget(names);
        if (!position || !list) continue;
        const { sequence } = JSON.parse(position) as { sequence: number };
        expect(sequence).toBeGreaterThanOrEqual(newest);
        expect(latest).toBe(digestOf(list));
        const versions = (JSON.parse(list) as Flag[]).map(({ version }) => version ?? 0);
        expect(Math.max(...versions)).toBe(sequence);
        newest = sequence;
        seen.add(sequence);
      }
    })();
    let state = stateOf('E', [environmentAdded('E'), flagPublished('a', 2, 'E')]);
    await store.replace(state, 'e1', undefined);
    for (let version = 3; version < 600; version += 1) {
      const before = state;
      const fact = flagPublished(`flag-${version % 50}`, version, 'E');
      if (version % 3 > 0) state = await applied(store, before, fact);
      else {
        state = evolve(before, fact, version);
        expect(await store.replace(state, 'e1', { epoch: 'e1', sequence: before.sequence })).toBe(true);
      }
    }
    written.abort();
    await reading;
    expect(seen.size).toBeGreaterThan(50);
  });

  it('gets an index of SDK keys that a writer left behind, when the change is repeated', async () => {
    const store = await open({ address: single.address });
    const before = stateOf('E', [environmentAdded('E')]);
    await store.replace(before, 'e1', undefined);
    const fact = apiKeyAdded('abc', 'E');
    const after = await applied(store, before, fact);
    await client.del('auth-key-abc');
    expect(await store.apply({ before, facts: [fact], after }, 'e1')).toBe('held');
    expect(await store.environmentOf('abc')).toBe('E');

    const revoked = { type: 'ApiKeyRemoved', environment: 'E', apiKey: 'abc' } as const;
    const closed = await applied(store, after, revoked);
    await client.set('auth-key-abc', '"E"');
    expect(await store.apply({ before: after, facts: [revoked], after: closed }, 'e1')).toBe('held');
    expect(await store.environmentOf('abc')).toBeUndefined();
  });

  it('is held only if every key of it is as it was written', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    const keys = await everything();
    expect(Object.keys(keys)).toHaveLength(10);
    for (const [key, value] of Object.entries(keys)) {
      await client.del(key);
      expect([key, 'missing', await store.holds(full, 'e1')]).toEqual([key, 'missing', false]);
      await client.set(key, `${value} `);
      expect([key, 'altered', await store.holds(full, 'e1')]).toEqual([key, 'altered', false]);
      await client.del(key);
      await client.hset(key, 'of another', 'type');
      if (!key.startsWith('auth-key-')) {
        expect([key, 'replaced', await store.holds(full, 'e1')]).toEqual([key, 'replaced', false]);
      }
      await client.del(key);
      await client.set(key, value ?? '');
      expect(await store.holds(full, 'e1')).toBe(true);
    }
    await client.srem('ff-relay-environments', 'E');
    expect(await store.holds(full, 'e1')).toBe(false);

    const removed = evolve(full, environmentRemoved('E'), 6);
    await store.replace(removed, 'e1', { epoch: 'e1', sequence: 5 });
    expect(await store.holds(removed, 'e1')).toBe(true);
    await client.set('env-E-feature-configs', '[]');
    expect(await store.holds(removed, 'e1')).toBe(false);
  });

  it('is put right by a whole state, whatever is broken', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    const before = await everything();
    for (const key of Object.keys(before)) await client.set(key, '{broken');
    expect([...(await store.positions())]).toEqual([]);
    expect(await store.replace(full, 'e1', undefined)).toBe(true);
    expect(await everything()).toEqual(before);
    expect(await store.holds(full, 'e1')).toBe(true);
  });
});

describe('Sweeping', () => {
  /** A replica of the Go relay's keys in a Redis that several use. */
  const strangers = {
    'auth-key-other': '"other"',
    'auth-key-text': 'not JSON',
    'env-E-target-config-segment-x': '{}',
    'env-E-target-configs': '[]',
    'env-other-api-configs': '["auth-key-other"]',
    'env-other-feature-config-x-position': '{"feature":"x-position"}',
    'env-other-feature-configs': '[]',
    'env-other-target-config-a-position': '{}',
    'environment-E-position': '{}',
    'key-1-inventory': '{}',
  };
  const leftovers = {
    'auth-key-old': '"E"',
    'env-E-feature-config-old': '{}',
    'env-E-segment-old': '{}',
    'env-E-shadow-1234-feature-configs': '[]',
  };

  it('removes what is left of what the environment does not have, and nothing of others', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    await client.mset({ ...strangers, ...leftovers });
    await client.hset('env-E-segment-hash', 'of another', 'type');
    const states = new Map([['E', full]]);
    expect(await store.sweep(states, { epoch: 'e1', sequence: 5 })).toBe(4);
    await client.del('env-E-segment-hash');
    const left = await everything();
    expect(left).toMatchObject(strangers);
    for (const key of Object.keys(leftovers)) expect(left).not.toHaveProperty([key]);
    expect(await store.holds(full, 'e1')).toBe(true);
    expect(await store.sweep(states, { epoch: 'e1', sequence: 5 })).toBe(0);
  });

  it('removes the lists of a removed environment that the Go relay wrote again', async () => {
    const store = await open({ address: single.address });
    const removed = evolve(full, environmentRemoved('E'), 6);
    await store.replace(removed, 'e1', undefined);
    await client.mset({
      'env-E-feature-configs': '[]',
      'env-E-api-configs': '["auth-key-x"]',
      'auth-key-x': '"E"',
    });
    expect(await store.sweep(new Map([['E', removed]]), { epoch: 'e1', sequence: 6 })).toBe(3);
    expect(Object.keys(await everything())).toEqual(['env-E-position']);
  });

  it('finds an environment that only its position tells of', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    await client.del('ff-relay-environments');
    expect(await store.sweep(new Map(), { epoch: 'e1', sequence: 5 })).toBe(10);
    expect(await client.keys('*')).toEqual([]);
  });

  it('finds the SDK keys of an environment of which nothing else is left', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    await client.del(...(await client.keys('env-*')));
    expect(await store.sweep(new Map(), { epoch: 'e1', sequence: 5 })).toBe(1);
    expect(await store.environmentOf('abc')).toBeUndefined();
  });
});

describe('An environment of 5,000 flags of 4 KB', () => {
  const flags = (count: number, version: number) =>
    Array.from({ length: count }, (_, i) => ({
      type: 'FlagPublished' as const,
      environment: 'E',
      flag: aFlag(`flag-${i}`, { version, variations: [{ identifier: 'true', value: 'x'.repeat(4000) }] }),
    }));
  let large: EnvironmentState;
  let smaller: EnvironmentState;
  beforeAll(() => {
    large = stateOf('E', [environmentAdded('E'), ...flags(5000, 1)]);
    smaller = stateOf('E', [environmentAdded('E'), ...flags(3000, 2)], large);
  });

  it.each([
    ['a server', () => single.address],
    ['a cluster', () => `${cluster.address},${cluster.address}`],
  ])('is replaced, compared, swept and removed on %s', async (_, address) => {
    const store = await open({ address: address() });
    const at = (state: EnvironmentState) => ({ epoch: 'e1', sequence: state.sequence });
    expect(await store.replace(large, 'e1', undefined)).toBe(true);
    expect(await store.holds(large, 'e1')).toBe(true);
    expect(await store.sweep(new Map([['E', large]]), at(large))).toBe(0);
    expect(await store.replace(smaller, 'e1', at(large))).toBe(true);
    expect(await store.holds(smaller, 'e1')).toBe(true);
    expect(await store.flag('E', 'flag-4999')).toBeUndefined();
    expect(flagsOf((await store.environment('E'))?.state ?? large)).toHaveLength(3000);
    const removed = await applied(store, smaller, environmentRemoved('E'));
    expect(await store.holds(removed, 'e1')).toBe(true);
    expect(await store.sweep(new Map([['E', removed]]), at(removed))).toBe(0);
    expect(await store.replace(large, 'e2', at(removed))).toBe(true);
    expect(await store.sweep(new Map(), { epoch: 'e3', sequence: 1 })).toBe(5006);
  });

  it('that could not be put in place leaves the stored one as it was, and nothing for long', async () => {
    await client.acl('SETUSER', 'hindered', 'on', '>secret', '~*', '+@all', '-rename');
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    const before = await everything();
    const hindered = await open({ address: single.address, username: 'hindered', password: 'secret' });
    await expect(hindered.replace(large, 'e1', { epoch: 'e1', sequence: 5 })).rejects.toThrow(
      /user executing the script/,
    );
    await client.acl('DELUSER', 'hindered');

    expect(await store.holds(full, 'e1')).toBe(true);
    const left = (await client.keys('*')).filter(
      (key) => !(key in before) && key !== 'ff-relay-environments',
    );
    expect(left).toHaveLength(5005);
    const expiries = await Promise.all(left.map((key) => client.ttl(key)));
    expect(Math.min(...expiries)).toBeGreaterThan(3000);
    expect(Math.max(...expiries)).toBeLessThanOrEqual(3600);
    expect(await store.sweep(new Map([['E', full]]), { epoch: 'e1', sequence: 5 })).toBe(5005);
    expect(await everything()).toEqual(before);
  });

  it('is not put in place of what changed while it was written', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    const replacing = store.replace(large, 'e2', { epoch: 'e1', sequence: 5 });
    await eventually(async () => (await client.keys('env-E-shadow-*')).length > 0);
    const newer = await applied(store, full, flagPublished('a', 2, 'E'));
    expect(await replacing).toBe(false);
    expect(await store.holds(newer, 'e1')).toBe(true);
    expect(await client.keys('env-E-shadow-*')).toEqual([]);
  });

  it('that is in place does not expire', async () => {
    const store = await open({ address: single.address });
    await store.replace(full, 'e1', undefined);
    const expiries = await Promise.all((await client.keys('*')).map((key) => client.ttl(key)));
    expect(new Set(expiries)).toEqual(new Set([-1]));
  });
});

describe('A connection', () => {
  const works = async (store: RedisStateStore) => {
    await eventually(() => store.reachable);
    const [at] = (await store.positions()).values();
    await expect(store.replace(full, 'e1', at)).resolves.toBe(true);
    expect(await store.holds(full, 'e1')).toBe(true);
  };
  /** Waits for attempts to connect, and refuses each. */
  const attemptsAt = async ({ port }: RedisServer, count: number) => {
    let attempts = 0;
    const gate = createServer((socket) => {
      attempts += 1;
      socket.destroy();
    }).listen(port, '127.0.0.1');
    await eventually(() => attempts >= count);
    gate.close();
    await once(gate, 'close');
  };
  const fails = async (store: RedisStateStore) => {
    expect(store.reachable).toBe(false);
    const answers = await Promise.allSettled([
      store.apply({ before: unknownEnvironment('E'), facts: [], after: full }, 'e1'),
      store.replace(full, 'e1', undefined),
      store.holds(full, 'e1'),
      store.sweep(new Map(), { epoch: 'e1', sequence: 1 }),
      store.positions(),
      store.begin({ position: { epoch: 'e1', sequence: 1 }, complete: true, writer: 'w' }),
      store.advance({ position: { epoch: 'e1', sequence: 1 }, complete: true, writer: 'w' }),
      store.progress(),
      store.environments(),
      store.environment('E'),
      store.flag('E', 'a'),
      store.segment('E', 's'),
      store.environmentOf('abc'),
    ]);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set(['rejected']));
  };

  it('follows the Sentinels to the replica that takes over', async () => {
    const master = await running(RedisServer.start());
    const replica = await running(RedisServer.start('--replicaof', '127.0.0.1', String(master.port)));
    const [onMaster, onReplica] = [clientOf(master), clientOf(replica)];
    onMaster.on('error', () => undefined);
    await eventually(async () => (await onReplica.info('replication')).includes('master_link_status:up'));
    const sentinel = await running(
      RedisServer.sentinel(
        `sentinel monitor main 127.0.0.1 ${master.port} 1`,
        'sentinel down-after-milliseconds main 300',
        'sentinel failover-timeout main 2000',
      ),
    );
    const onSentinel = clientOf(sentinel, { enableReadyCheck: false });
    await eventually(
      async () => ((await onSentinel.call('SENTINEL', 'REPLICAS', 'main')) as unknown[]).length > 0,
    );

    const store = await open({ address: `sentinel://127.0.0.1:1,${sentinel.address}/main` });
    let state = stateOf('E', [environmentAdded('E')]);
    expect(await store.replace(state, 'e1', undefined)).toBe(true);
    await onMaster.wait(1, 0);
    onMaster.disconnect();
    await master.stop('SIGKILL');
    await eventually(async () => {
      const [at] = await store
        .positions()
        .catch(() => new Map())
        .then((positions) => positions.values());
      if (!at) return false;
      state = await applied(store, state, flagPublished('a', 1, 'E'));
      return true;
    });
    expect(await onReplica.get('env-E-position')).toContain('"sequence":2');
    expect(await store.holds(state, 'e1')).toBe(true);
    expect(linesAt('error')).toHaveLength(1);
    expect(linesAt('log')).toHaveLength(1);
    onReplica.disconnect();
    onSentinel.disconnect();
  });

  it.each([
    ['a server', 'ECONNREFUSED', (address: string) => address, []],
    ['a cluster', 'closed', (address: string) => `${address},${address}`, CLUSTER],
  ])('to %s that is not there yet is made once it is', async (kind, reason, addressOf, options) => {
    const server = await running(RedisServer.absent(...options));
    const store = await open({ address: addressOf(server.address) });
    await eventually(() => linesAt('error').length > 0);
    await fails(store);
    await attemptsAt(server, 3);
    expect(linesAt('error')).toEqual([
      expect.stringMatching(`cannot be reached: .*${reason}.*REDIS_ADDRESS.*REDIS_USERNAME.*REDIS_PASSWORD`),
    ]);
    await server.start();
    if (kind === 'a cluster') {
      const admin = clientOf(server);
      await admin.cluster('ADDSLOTSRANGE', 0, 16383);
      admin.disconnect();
    }
    await works(store);
    expect(linesAt('error')).toHaveLength(1);
    expect(linesAt('log')).toEqual([expect.stringContaining('answers again')]);
  });

  it('is made again after the server was away, and told of once', async () => {
    const server = await running(RedisServer.start());
    const store = await open({ address: server.address });
    await works(store);
    expect(logged).toEqual([]);
    await server.stop('SIGKILL');
    await eventually(() => !store.reachable);
    await fails(store);
    await attemptsAt(server, 3);
    await server.start();
    await works(store);
    expect(linesAt('error')).toHaveLength(1);
    expect(linesAt('log')).toHaveLength(1);
  });

  it('to a server that says nothing is given up and made again', async () => {
    const server = await running(RedisServer.start());
    const store = await open({ address: server.address });
    await works(store);
    server.pause();
    await expect(store.positions()).rejects.toThrow(/timed out|timeout/i);
    await eventually(() => !store.reachable);
    server.resume();
    await works(store);
  });

  it('takes a user and a password, from settings or the address, and tells once when they are wrong', async () => {
    const server = await running(RedisServer.start('--requirepass', 'admin'));
    const admin = clientOf(server, { password: 'admin' });
    const address = server.address;
    const waiting = await open({ address, username: 'relay', password: 'top-s3cret' });
    await eventually(() => linesAt('error').length > 0);
    await fails(waiting);
    await expect(waiting.positions()).rejects.toThrow(/WRONGPASS/);
    await admin.acl('SETUSER', 'relay', 'on', '>top-s3cret', '~*', '+@all', '-info');
    await works(waiting);
    expect(linesAt('error')).toEqual([expect.stringMatching(/WRONGPASS.*REDIS_PASSWORD/)]);
    expect(JSON.stringify(logged)).not.toContain('s3cret');

    await works(await open({ address: `redis://relay:top-s3cret@${address}` }));
    await works(await open({ address: `redis://:admin@${address}` }));
    await works(await open({ address, password: 'admin' }));
    const without = await open({ address });
    await expect(without.positions()).rejects.toThrow(/NOAUTH/);
    admin.disconnect();
  });

  it('uses the database of the settings', async () => {
    const store = await open({ address: single.address, db: 3 });
    await works(store);
    expect(await client.dbsize()).toBe(0);
    expect(await store.environments()).toEqual(['E']);
  });

  it('says that the database of the settings is not there, and writes to no other', async () => {
    const server = await running(RedisServer.start('--databases', '2'));
    const store = await open({ address: server.address, db: 2 });
    await eventually(() => linesAt('error').length > 0);
    await fails(store);
    const fits = await open({ address: server.address, db: 1 });
    await works(fits);
    await fails(store);
    expect(linesAt('error')).toEqual([expect.stringMatching(/DB index is out of range.*REDIS_DB/)]);
    const admin = clientOf(server);
    expect(await admin.dbsize()).toBe(0);
    admin.disconnect();
  });

  it('warns of a server that may drop keys', async () => {
    const server = await running(RedisServer.start('--maxmemory-policy', 'allkeys-lru'));
    await open({ address: server.address });
    await eventually(() => linesAt('warn').length > 0);
    expect(linesAt('warn')).toEqual([expect.stringMatching(/allkeys-lru.*set maxmemory-policy noeviction/)]);
  });

  it('is closed at once, be there a server or not', async () => {
    const server = await running(RedisServer.absent());
    await (await open({ address: server.address })).close();
    const store = await open({ address: single.address });
    await store.close();
    await store.close();
    expect(store.reachable).toBe(false);
    await expect(store.positions()).rejects.toThrow(/cannot be reached/);
  });

  it('is encrypted where the address says so, and made only to a server that proves who it is', async () => {
    const server = await running(RedisServer.absent());
    const key = join(server.folder, 'key.pem');
    const certificate = join(server.folder, 'certificate.pem');
    const request =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost ' +
      `-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout ${key} -out ${certificate}`;
    execFileSync('openssl', request.split(' '), { stdio: 'ignore' });
    const files = `--tls-key-file ${key} --tls-cert-file ${certificate} --tls-ca-cert-file ${certificate}`;
    const { port } = server;
    const secured = await running(
      RedisServer.start(...`--tls-port ${port} --tls-auth-clients no ${files}`.split(' ')),
    );
    const stranger = await open({ address: `rediss://127.0.0.1:${port}` });
    await expect(stranger.positions()).rejects.toThrow(/self-signed certificate/);
    const known = getCACertificates('default');
    setDefaultCACertificates([...known, readFileSync(certificate, 'utf8')]);
    try {
      await works(await open({ address: `rediss://127.0.0.1:${port}` }));
      const inside = clientOf(secured);
      expect(await inside.dbsize()).toBeGreaterThan(0);
      inside.disconnect();
    } finally {
      setDefaultCACertificates(known);
    }
  });
});
