import { copyFile } from 'node:fs/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { Logger } from '@nestjs/common';
import { Redis } from 'ioredis';

import { expectAgreement } from './support/agreement.js';
import { Admin, eventually, type SdkEvent, SdkSession } from './support/clients.js';
import { type Part, ServiceSet } from './support/deployments.js';
import { Link } from './support/link.js';
import { DEMO } from './support/processes.js';

let set: ServiceSet;
let admin: Admin;
let stop: AbortController;

beforeEach(async () => {
  Logger.overrideLogger(false);
  stop = new AbortController();
  // What streams hear is what comes, and not what was before they opened.
  set = await ServiceSet.start(undefined, undefined, { STREAM_REPLAY: '0' });
  admin = new Admin(set.controlPlane.url);
  await admin.createFlag('a');
  await admin.setState('a', 'on');
  await expectAgreement(set);
});
afterEach(async () => {
  stop.abort();
  await set.dispose();
});

/** What the streams of all gateways say from now on. */
async function told(lastEventId?: string): Promise<SdkEvent[]> {
  const events: SdkEvent[] = [];
  for (const gateway of set.gateways) {
    const stream = await (await SdkSession.signIn(gateway)).stream(stop.signal, lastEventId);
    void (async () => {
      for await (const event of stream) events.push(event);
      if (!stop.signal.aborted) events.push({ event: 'ended', domain: '', identifier: gateway, version: 0 });
    })();
  }
  return events;
}

/** What was told, when one more change has been told everywhere. */
async function toldUntilNow(events: SdkEvent[]): Promise<string[]> {
  await admin.createFlag('the-last');
  await eventually(
    () => events.filter(({ identifier }) => identifier === 'the-last').length,
    (seen) => seen === set.gateways.length,
  );
  return events
    .filter(({ identifier }) => identifier !== 'the-last')
    .map(({ event, identifier, version }) => `${event} ${identifier} ${version}`);
}

async function inRedis<Result>(work: (redis: Redis) => Promise<Result>): Promise<Result> {
  const redis = new Redis(`redis://${set.redisAddress}`);
  try {
    return await work(redis);
  } finally {
    redis.disconnect();
  }
}

async function deleteStream(name: string): Promise<void> {
  const connection = await connect({ servers: set.natsUrl });
  await (await jetstreamManager(connection)).streams.delete(name);
  await connection.close();
}

const epochAt = async (part: Part, role: string) => {
  const { position } = (await set.status(part))[role] as { position?: { epoch: string } };
  return position?.epoch;
};
const newEpoch = (before: string | undefined) =>
  Promise.all(
    (['gateway-1', 'gateway-2'] as const).map((gateway) =>
      eventually(
        () => epochAt(gateway, 'gateway'),
        (epoch) => epoch !== undefined && epoch !== before,
      ),
    ),
  );
const redisIsLevel = () =>
  eventually(
    () =>
      inRedis(
        async (redis) => (await redis.exists('ff-relay-progress', `env-${DEMO.dev.id}-position`)) === 2,
      ),
    (there) => there,
  );

describe('When Redis loses what it held', () => {
  it('all of it, it is made again from the log, and SDKs hear nothing', async () => {
    const events = await told();
    await inRedis((redis) => redis.flushall());
    await redisIsLevel();
    await expectAgreement(set);
    expect(await toldUntilNow(events)).toEqual([]);
  });

  it('a part of it, that is made again too', async () => {
    await inRedis(async (redis) => redis.del(...(await redis.keys(`env-${DEMO.dev.id}-*`))));
    await redisIsLevel();
    await expectAgreement(set);
  });

  it('and comes back with an old copy, it is brought level, and SDKs hear nothing', async () => {
    const folder = await inRedis(async (redis) => {
      await redis.save();
      return (await redis.config('GET', 'dir'))[1] as string;
    });
    await copyFile(`${folder}/dump.rdb`, `${folder}/old.rdb`);
    await admin.createFlag('made-since');
    await admin.deleteFlag('banner-text');
    await admin.setState('a', 'off');
    await expectAgreement(set);

    const events = await told();
    await set.stop('redis', 'SIGKILL');
    await copyFile(`${folder}/old.rdb`, `${folder}/dump.rdb`);
    await set.start('redis');
    await expectAgreement(set);
    expect(await inRedis((redis) => redis.exists(`env-${DEMO.dev.id}-feature-config-banner-text`))).toBe(0);
    expect(set.output('projector-1')).toMatch(/[12] of 2 environments were replaced, \d+ entries removed/);
    expect(await toldUntilNow(events)).toEqual([]);
  });
});

describe('When the facts are lost', () => {
  /** A copy of the log is kept that lacks what happened then: a flag changed, and one more. */
  const keepTheLogAndGoOn = async () => {
    await set.stop('nats');
    await set.keepNatsData();
    await set.start('nats');
    await admin.setState('a', 'off');
    await admin.createFlag('made-since');
    await expectAgreement(set);
  };

  it('they are read from the upstream again, and SDKs hear nothing', async () => {
    const events = await told();
    const before = await epochAt('gateway-1', 'gateway');
    await deleteStream('FF_FACTS');
    await newEpoch(before);
    await expectAgreement(set);
    expect(await toldUntilNow(events)).toEqual([]);
  });

  it('together with Redis, the same', async () => {
    const events = await told();
    const before = await epochAt('gateway-1', 'gateway');
    await Promise.all([deleteStream('FF_FACTS'), inRedis((redis) => redis.flushall())]);
    await newEpoch(before);
    await redisIsLevel();
    await expectAgreement(set);
    expect(await toldUntilNow(events)).toEqual([]);
  });

  it('SDKs hear of what changed meanwhile, and of nothing else', async () => {
    const events = await told();
    const before = await epochAt('gateway-1', 'gateway');
    await set.stop('ingestor-1');
    await deleteStream('FF_FACTS');
    await admin.setState('a', 'off');
    await admin.deleteFlag('theme');
    await admin.createFlag('new');
    await set.start('ingestor-1');
    await newEpoch(before);
    await expectAgreement(set);
    const seen = await toldUntilNow(events);
    expect(seen.filter((event) => event.startsWith('ended'))).toEqual([]);
    expect([...new Set(seen.map((event) => event.replace(/ \d+$/, '')))].toSorted()).toEqual([
      'create new',
      'delete theme',
      'patch a',
    ]);
  });

  it('in part, as by a power failure, what is missing is read from the upstream again', async () => {
    await keepTheLogAndGoOn();
    const before = await epochAt('gateway-1', 'gateway');

    await set.stop('nats', 'SIGKILL');
    await set.restoreNatsData();
    await set.start('nats');
    await expectAgreement(set);
    expect(await epochAt('gateway-1', 'gateway')).toBe(before);
    // All goes on from there, for those too who were connected.
    const events = await told();
    await admin.setState('a', 'on');
    await expectAgreement(set);
    const seen = await toldUntilNow(events);
    expect(seen.filter((event) => event === 'patch a 4').length).toBeGreaterThanOrEqual(set.gateways.length);
    // One that opens before the notices are found again hears of the last minutes, as they are now.
    expect(['patch a 4', 'patch made-since 1']).toEqual(expect.arrayContaining(seen));
  });

  it('in part, and the upstream is away, nobody steps back (P2)', async () => {
    await keepTheLogAndGoOn();

    await set.stop('control-plane');
    await set.stop('nats', 'SIGKILL');
    await set.restoreNatsData();
    await set.start('nats');
    await eventually(
      () => set.output('projector-1'),
      (output) => output.includes('The log lost its newest facts'),
    );
    await eventually(
      () => [set.output('gateway-1'), set.output('gateway-2')],
      (outputs) => outputs.every((output) => output.includes('cannot follow the facts')),
    );
    for (const gateway of set.gateways) {
      const session = await SdkSession.signIn(gateway);
      expect([await session.flagVersion('a'), await session.flagVersion('made-since')]).toEqual([3, 1]);
    }
    await set.start('control-plane');
    await expectAgreement(set);
  });

  it('by a purge, they are read from the upstream again with the next change, and Redis is not emptied', async () => {
    const connection = await connect({ servers: set.natsUrl });
    await (await jetstreamManager(connection)).streams.purge('FF_FACTS');
    await connection.close();
    await set.stop('projector-1');
    await set.start('projector-1');
    await eventually(
      () => set.output('projector-1'),
      (output) => output.includes('The log was lost'),
    );
    expect(await inRedis((redis) => redis.exists(`env-${DEMO.dev.id}-feature-configs`))).toBe(1);
    await admin.setState('a', 'off');
    await expectAgreement(set);
    await set.stop('gateway-2');
    await set.start('gateway-2');
    await expectAgreement(set);
  });

  it('and the upstream is away, gateways go on with what they know, new ones too', async () => {
    const session = await SdkSession.signIn(set.gateways[0] ?? '');
    const before = await session.flags();
    await set.stop('control-plane');
    await deleteStream('FF_FACTS');
    await eventually(
      () => set.output('projector-1'),
      (output) => output.includes('The log was lost'),
    );
    expect(await session.flags()).toBe(before);
    await set.stop('gateway-2');
    await set.start('gateway-2');
    expect(await (await SdkSession.signIn(set.gateways[1] ?? '')).flags()).toBe(before);
    await set.start('control-plane');
    await expectAgreement(set);
  });

  it('with the notices, streams end, and one that comes back is told of everything (P5)', async () => {
    const events = await told();
    await admin.setState('a', 'off');
    const id = await eventually(
      () => events.find(({ identifier }) => identifier === 'a')?.id,
      (found) => found !== undefined,
    );
    await deleteStream('FF_CHANGES');
    await eventually(
      () => events.filter(({ event }) => event === 'ended').length,
      (ended) => ended === set.gateways.length,
    );
    expect(await toldUntilNow(await told())).toEqual([]);
    const back = await told(id);
    await eventually(
      () => back.filter(({ identifier }) => identifier === 'theme').length,
      (seen) => seen === set.gateways.length,
    );
    expect(back.map(({ event, identifier, version }) => `${event} ${identifier} ${version}`)).toEqual(
      expect.arrayContaining(['patch a 3', 'patch dark-mode 1', 'patch beta-testers 1']),
    );
  });
});

it('When everything is restarted and nothing changed, nobody is told anything (P6)', async () => {
  const ends = async () => {
    const connection = await connect({ servers: set.natsUrl });
    const { streams } = await jetstreamManager(connection);
    const [facts, changes] = await Promise.all([streams.info('FF_FACTS'), streams.info('FF_CHANGES')]);
    await connection.close();
    return [facts.state.last_seq, changes.state.last_seq];
  };
  const before = await ends();
  await set.restart();
  await eventually(
    async () => (await set.status('ingestor-1'))['ingestor']?.['upstream'] as { config?: { state: string } },
    (upstream) => upstream.config?.state === 'SYNCED',
  );
  await eventually(
    async () => (await set.status('projector-1'))['projector'],
    (projector) => projector?.['leading'] === true && projector['ready'] === true,
  );
  await expectAgreement(set);
  expect(await ends()).toEqual(before);
});

describe('Any one, and any two, may be missing (P9)', () => {
  const servers: Part[] = ['nats', 'redis', 'control-plane'];
  const pairs: Part[][] = [
    ...servers.map((server) => [server]),
    ['nats', 'redis'],
    ['nats', 'control-plane'],
    ['redis', 'control-plane'],
  ];

  it.each(pairs.map((parts) => [parts.join(' and '), parts] as const))(
    'gateways that run go on without %s, and hear of the next change when all is back',
    async (_names, parts) => {
      const sessions = await Promise.all(set.gateways.map((gateway) => SdkSession.signIn(gateway)));
      const before = await sessions[0]?.flags();
      await Promise.all(parts.map((part) => set.stop(part, 'SIGKILL')));
      for (const session of sessions) {
        expect(await session.flags()).toBe(before);
        expect(await session.flagVersion('a')).toBe(2);
      }
      for (const gateway of set.gateways) {
        expect(await (await SdkSession.signIn(gateway)).flags()).toBe(before);
      }
      await Promise.all(parts.map((part) => set.start(part)));
      await admin.setState('a', 'off');
      await expectAgreement(set);
    },
  );

  it.each([
    ['Redis alone', ['nats', 'control-plane'] as Part[]],
    ['the log alone', ['redis', 'control-plane'] as Part[]],
  ])('a gateway starts from %s', async (_name, missing) => {
    const before = await (await SdkSession.signIn(set.gateways[1] ?? '')).flags();
    await set.stop('gateway-2');
    await Promise.all(missing.map((part) => set.stop(part, 'SIGKILL')));
    await set.start('gateway-2');
    const session = await SdkSession.signIn(set.gateways[1] ?? '');
    expect(await session.flags()).toBe(before);

    const heard: SdkEvent[] = [];
    const stream = await session.stream(stop.signal);
    void (async () => {
      for await (const event of stream) heard.push(event);
    })();
    await Promise.all(missing.map((part) => set.start(part)));
    await admin.setState('a', 'off');
    await eventually(
      () => heard.map(({ event, identifier, version }) => `${event} ${identifier} ${version}`),
      (events) => events.includes('patch a 3'),
    );
    await expectAgreement(set);
  });

  it('a gateway that is cut off from NATS follows Redis, tells, and lets nobody read less than others told (P3)', async () => {
    const link = await Link.to(Number(new URL(set.natsUrl).port), 0);
    await set.stop('gateway-2');
    await set.start('gateway-2', { NATS_URL: `nats://127.0.0.1:${link.port}` });
    const events = await told();
    const session = await SdkSession.signIn(set.gateways[1] ?? '');
    await link.close();
    await eventually(
      async () => (await set.status('gateway-2'))['gateway']?.['log'],
      (log) => log === 'unreachable',
    );
    await admin.setState('a', 'off');
    await eventually(
      () => events.filter(({ identifier, version }) => identifier === 'a' && version === 3).length,
      (seen) => seen === 2,
    );
    expect(await session.flagVersion('a')).toBe(3);
  });

  it('processes that start before the servers wait for them', async () => {
    const roles: Part[] = ['ingestor-1', 'projector-1', 'metrics-forwarder-1', 'gateway-1', 'gateway-2'];
    for (const part of [...roles, ...servers]) await set.stop(part);
    for (const part of roles) set.begin(part);
    for (const part of roles) {
      await eventually(
        () => set.output(part),
        (output) => output.includes('cannot be reached'),
      );
    }
    for (const server of servers) await set.start(server);
    await eventually(
      () => set.output('gateway-2'),
      (output) => output.includes('Serving SDKs on'),
    );
    await eventually(
      () => set.output('gateway-1'),
      (output) => output.includes('Serving SDKs on'),
    );
    await expectAgreement(set);
  });
});
