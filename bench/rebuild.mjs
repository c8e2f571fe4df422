/**
 * A log of 100,000 facts over 1,000 environments: how long it takes to read it, to fold it, and to bring Redis level
 * with it, and how much memory that needs.
 */
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

import { DeliverPolicy, jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { Logger } from '@nestjs/common';
import { Redis } from 'ioredis';

import { factBody, factSubject, fold, unknownEnvironment } from '#libs/domain';
import { foldLog, foldOn, LogFold, rebuild } from '#libs/projection';
import { RedisStateStore } from '#libs/state-store';

import { JetStreamEventLog } from '../dist/libs/event-log/src/jetstream-event-log.js';
import { medians, peakMemory } from './measure.mjs';
import { withServers } from './processes.mjs';

const ENVIRONMENTS = 1000;
const FLAGS = 28;
const FACTS = 100_000;
const FACTS_EACH = FACTS / ENVIRONMENTS;
Logger.overrideLogger(false);

const [, , task, natsUrl] = process.argv;
if (task === 'memory') await memory(natsUrl);
else await withServers(measure);

/** In a process of its own, so that nothing else is in its memory. */
async function memory(servers) {
  const log = await JetStreamEventLog.open({ servers, replicas: 1 });
  const { peakMb, result } = await peakMemory(() => foldLog(log));
  const bytes = [...result.states.values()].reduce((sum, state) => sum + jsonBytes(state), 0);
  console.log(JSON.stringify({ peakMb, jsonMb: bytes / 1e6 }));
  await log.close();
}

function jsonBytes({ flags }) {
  return [...flags.values()].reduce((sum, { value }) => sum + JSON.stringify(value ?? '').length, 0);
}

async function measure(servers, address) {
  const log = await JetStreamEventLog.open({ servers, replicas: 1 });
  const store = await RedisStateStore.open({ address, db: 0 });
  const redis = new Redis(`redis://${address}`);
  process.stdout.write(`Writing ${FACTS} facts over ${ENVIRONMENTS} environments … `);
  const writing = performance.now();
  await write(log);
  console.log(`${Math.round(FACTS / ((performance.now() - writing) / 1000))}/s`);

  const { sequence: last } = await log.head('FF_FACTS');
  const folded = await foldLog(log);
  const changes = someChanges(folded);
  const never = () => Promise.reject(new Error('the log stands still'));
  const times = await medians({
    'bare: read and parse all': { work: () => readAndParse(servers) },
    'replay: read and fold all': {
      work: () => foldOn(log, new LogFold({ ...folded.position, sequence: 0 }), undefined, last),
    },
    'fold of what is true now': { work: () => foldLog(log) },
    'rebuild of an empty Redis': {
      before: () => redis.flushall(),
      work: async () => rebuild(store, await foldLog(log), never),
    },
    'rebuild that finds no difference': { work: async () => rebuild(store, await foldLog(log), never) },
    'single changes into Redis': {
      before: async () => {
        await redis.flushall();
        await rebuild(store, folded, never);
      },
      work: () => Promise.all(changes.map((change) => store.apply(change, folded.position.epoch))),
    },
  });

  const bare = times['bare: read and parse all'];
  console.log(
    `\nMedians of 5 interleaved rounds, Node ${process.version}, ${availableParallelism()} cores\n`,
  );
  for (const [name, { wallMs, cpuMs }] of Object.entries(times)) {
    const against = `${(wallMs / bare.wallMs).toFixed(2)} × bare, CPU ${(cpuMs / bare.cpuMs).toFixed(2)} ×`;
    console.log(`${name.padEnd(34)} ${ms(wallMs)}  CPU ${ms(cpuMs)}  ${against}`);
  }
  const perSecond = (count, { wallMs }) => `${Math.round(count / (wallMs / 1000)).toLocaleString('en')}/s`;
  const entities = ENVIRONMENTS * FLAGS;
  console.log(`
facts replayed                     ${perSecond(FACTS, times['replay: read and fold all'])}
facts of the log → level Redis     ${perSecond(FACTS, times['rebuild of an empty Redis'])}
flags written by that              ${perSecond(entities, times['rebuild of an empty Redis'])}
single changes, guarded, at once   ${perSecond(changes.length, times['single changes into Redis'])}`);

  const self = fileURLToPath(import.meta.url);
  const child = spawnSync(process.execPath, ['--expose-gc', self, 'memory', servers], { encoding: 'utf8' });
  const { peakMb, jsonMb } = JSON.parse(child.stdout);
  console.log(
    `memory of the fold                 ${peakMb.toFixed(0)} MB at most over an idle process, for ${jsonMb.toFixed(0)} MB of JSON that is true now`,
  );
  redis.disconnect();
  await store.close();
  await log.close();
}

function environmentId(i) {
  return `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`;
}

function flagAt(i, version) {
  return {
    feature: `flag-${i}`,
    project: 'bench',
    environment: 'dev',
    kind: 'boolean',
    state: version % 2 ? 'on' : 'off',
    variations: [
      { identifier: 'true', value: 'true', name: 'True', description: 'x'.repeat(300) },
      { identifier: 'false', value: 'false', name: 'False', description: 'x'.repeat(300) },
    ],
    offVariation: 'false',
    defaultServe: { variation: 'true' },
    rules: [],
    prerequisites: [],
    variationToTargetMap: [],
    version,
  };
}

async function write(log) {
  let id = 0;
  const append = (fact) =>
    log.append('FF_FACTS', {
      subject: factSubject(fact),
      id: `bench-${++id}`,
      body: factBody(fact, { id: `bench-${id}`, time: Date.now() }),
    });
  for (let i = 0; i < ENVIRONMENTS; i++) {
    const environment = environmentId(i);
    const facts = [
      { type: 'EnvironmentAdded', environment, account: 'bench' },
      { type: 'ApiKeyAdded', environment, apiKey: String(i).padStart(64, '0') },
    ];
    for (let n = 0; facts.length < FACTS_EACH; n++) {
      const flag = flagAt(n % FLAGS, Math.floor(n / FLAGS) + 1);
      facts.push({ type: 'FlagPublished', environment, flag });
    }
    if (i === ENVIRONMENTS - 1) {
      facts[FACTS_EACH - 1] = { type: 'SnapshotCompleted', account: 'bench', environments: ENVIRONMENTS };
    }
    await Promise.all(facts.map(append));
  }
}

/** One change of a flag in each environment. */
function someChanges({ states }) {
  return [...states.values()].map((before) => {
    const fact = { type: 'FlagPublished', environment: before.id, flag: flagAt(0, 1000) };
    return {
      before,
      facts: [fact],
      after: fold(before ?? unknownEnvironment(''), [{ fact, sequence: FACTS + 1 }]),
    };
  });
}

/** The least that whoever reads the log has to do. */
async function readAndParse(servers) {
  const connection = await connect({ servers });
  const consumer = await jetstream(connection).consumers.get('FF_FACTS', {
    deliver_policy: DeliverPolicy.All,
  });
  let left = FACTS;
  for await (const message of await consumer.consume({ max_messages: 5000 })) {
    JSON.parse(message.string());
    if (--left === 0) break;
  }
  await connection.close();
}

function ms(value) {
  return `${value.toFixed(0).padStart(6)} ms`;
}
