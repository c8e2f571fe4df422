/**
 * Reads of all flags of an environment (200 KB), from one gateway over NATS and Redis; beside the least Node program that
 * sends the same bytes, and one that asks Redis, parses and serialises for each request. Each is a process of its own, and
 * so is whoever asks.
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { availableParallelism } from 'node:os';

import { Redis } from 'ioredis';

import { Logger } from '@nestjs/common';

import { factBody, factSubject } from '#libs/domain';
import { foldLog, rebuild } from '#libs/projection';
import { RedisStateStore } from '#libs/state-store';

import { JetStreamEventLog } from '../dist/libs/event-log/src/jetstream-event-log.js';
import { startApp, stop, withServers } from './processes.mjs';

const ENVIRONMENT = '10000000-0000-4000-8000-000000000001';
const KEY = 'bench-key';
const FLAGS = 350;
const ROUNDS = 7;
const CONNECTIONS = 16;
const REQUESTS = { gateway: 3000, 'gateway, gzip': 3000, 'gateway, 304': 3000, bare: 3000, naive: 150 };
const FLAGS_KEY = `env-${ENVIRONMENT}-feature-configs`;

const [, self, task, ...given] = process.argv;
if (task === 'bare' || task === 'naive') await plainServer(task, given[0]);
else await withServers(main);

async function main(natsUrl, redisAddress) {
  Logger.overrideLogger(false);
  await fill(natsUrl, redisAddress);
  const settings = {
    NATS_URL: natsUrl,
    REDIS_ADDRESS: redisAddress,
    AUTH_SECRET: 'a secret that is long enough for a bench',
  };
  const gateway = await startApp('gateway', settings, /Serving SDKs on (\S+)/);
  const [, management] = /Answering \/livez.* on port (\d+)/.exec(gateway.output());
  const url = gateway.match[1];
  const auth = await fetch(`${url}/client/auth`, { method: 'POST', body: JSON.stringify({ apiKey: KEY }) });
  const { authToken } = await auth.json();
  const path = `/client/env/${ENVIRONMENT}/feature-configs`;
  const first = await fetch(url + path, {
    headers: { authorization: `Bearer ${authToken}`, 'accept-encoding': 'identity' },
  });
  const bytes = (await first.arrayBuffer()).byteLength;
  const [bare, naive] = await Promise.all([plain('bare', redisAddress), plain('naive', redisAddress)]);
  const ours = { url, cpuMs: () => cpuOfApp(management) };
  const contestants = {
    gateway: ours,
    'gateway, gzip': { ...ours, headers: { 'accept-encoding': 'gzip' } },
    'gateway, 304': { ...ours, headers: { 'if-none-match': first.headers.get('etag') } },
    bare,
    naive,
  };
  const request = (more) => {
    const headers = { host: 'bench', authorization: `Bearer ${authToken}`, ...more };
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    return Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
  };
  const rounds = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, { url: at, cpuMs, headers }] of Object.entries(contestants)) {
      const [cpu, began] = [await cpuMs(), performance.now()];
      await ask(at, request(headers), REQUESTS[name]);
      const seconds = (performance.now() - began) / 1000;
      const cpuUs = (((await cpuMs()) - cpu) * 1000) / REQUESTS[name];
      if (round > 0) rounds[name].push({ perSecond: REQUESTS[name] / seconds, cpuUs });
    }
  }
  for (const { child } of [gateway, bare, naive]) await stop(child);
  tell(rounds, bytes);
}

function tell(rounds, bytes) {
  const middle = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
  const times = Object.fromEntries(
    Object.entries(rounds).map(([name, all]) => [
      name,
      { perSecond: middle(all.map((each) => each.perSecond)), cpuUs: middle(all.map((each) => each.cpuUs)) },
    ]),
  );
  console.log(
    `\nAll flags of an environment, ${Math.round(bytes / 1000)} kB; medians of ${ROUNDS} interleaved rounds, Node ${process.version}, ${availableParallelism()} cores\n`,
  );
  for (const [name, { perSecond, cpuUs }] of Object.entries(times)) {
    console.log(
      `${name.padEnd(16)} ${perSecond.toFixed(0).padStart(7)} requests/s  ${cpuUs.toFixed(0).padStart(6)} µs CPU a request`,
    );
  }
  const { gateway, bare, naive } = times;
  console.log(`
gateway : bare   ${((100 * gateway.perSecond) / bare.perSecond).toFixed(0)} % of its requests/s, ${(gateway.cpuUs / bare.cpuUs).toFixed(2)} × its CPU
naive : gateway  ${(naive.cpuUs / gateway.cpuUs).toFixed(1)} × its CPU`);
}

/** Asks over a few connections, on each again when the answer is there. */
async function ask(url, request, times) {
  let left = times;
  const { hostname, port } = new URL(url);
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      const socket = connect(Number(port), hostname);
      let [missing, head] = [0, ''];
      const next = () => (left-- > 0 ? socket.write(request) : socket.end());
      socket.on('data', (chunk) => {
        if (missing === 0) {
          head += chunk.toString('latin1', 0, 2000);
          const end = head.indexOf('\r\n\r\n');
          if (end < 0) return;
          if (!/^HTTP\/1.1 (200|304)/.test(head)) throw new Error(head);
          missing = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0) + end + 4;
          head = '';
        }
        missing -= chunk.length;
        if (missing === 0) next();
      });
      next();
      await once(socket, 'close');
    }),
  );
}

async function cpuOfApp(management) {
  const page = await (await fetch(`http://127.0.0.1:${management}/metrics`)).text();
  return Number(/^process_cpu_seconds_total (\S+)/m.exec(page)[1]) * 1000;
}

async function plain(kind, redisAddress) {
  const child = fork(self, [kind, redisAddress]);
  const [{ url }] = await once(child, 'message');
  const cpuMs = async () => {
    child.send('cpu');
    return (await once(child, 'message'))[0].cpuMs;
  };
  return { child, url, cpuMs };
}

/** Sends the bytes that Redis holds: those it read at its start, or what it makes of them each time. */
async function plainServer(kind, address) {
  const redis = new Redis(`redis://${address}`);
  const kept = await redis.getBuffer(FLAGS_KEY);
  const send = (response, bytes) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': bytes.length });
    response.end(bytes);
  };
  const server = createServer((_, response) => {
    if (kind === 'bare') send(response, kept);
    else
      void redis.get(FLAGS_KEY).then((text) => send(response, Buffer.from(JSON.stringify(JSON.parse(text)))));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.once('disconnect', () => process.exit(0));
  process.on('message', () => {
    const { user, system } = process.cpuUsage();
    process.send({ cpuMs: (user + system) / 1000 });
  });
  process.send({ url: `http://127.0.0.1:${server.address().port}` });
}

async function fill(servers, address) {
  const log = await JetStreamEventLog.open({ servers, replicas: 1 });
  const store = await RedisStateStore.open({ address, db: 0 });
  const apiKey = createHash('sha256').update(KEY).digest('hex');
  const facts = [
    { type: 'EnvironmentAdded', environment: ENVIRONMENT, account: 'bench' },
    { type: 'ApiKeyAdded', environment: ENVIRONMENT, apiKey },
    ...Array.from({ length: FLAGS }, (_, i) => ({
      type: 'FlagPublished',
      environment: ENVIRONMENT,
      flag: flag(i),
    })),
    { type: 'SnapshotCompleted', account: 'bench', environments: 1 },
  ];
  for (const [i, fact] of facts.entries()) {
    const id = `bench-${i}`;
    const body = factBody(fact, { id, time: Date.now() });
    await log.append('FF_FACTS', { subject: factSubject(fact), id, body });
  }
  await rebuild(store, await foldLog(log), () => Promise.reject(new Error('the log stands still')));
  await store.close();
  await log.close();
}

function flag(i) {
  const variation = (identifier) => ({
    identifier,
    value: identifier,
    name: identifier,
    description: `What ${identifier} does`,
  });
  return {
    feature: `flag-${i}`,
    project: 'bench',
    environment: 'dev',
    kind: 'boolean',
    state: 'on',
    variations: [variation('true'), variation('false')],
    offVariation: 'false',
    defaultServe: { variation: 'true' },
    rules: [
      {
        ruleId: `rule-${i}`,
        priority: 0,
        clauses: [{ attribute: 'email', op: 'ends_with', values: ['@example.com'], negate: false }],
        serve: { variation: 'false' },
      },
    ],
    prerequisites: [],
    variationToTargetMap: [],
    version: 1,
  };
}
