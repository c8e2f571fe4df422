/**
 * Posts of evaluation counts: how many a gateway takes in a second, over NATS and over the embedded log, beside the least
 * Node program that reads and parses them; into how few messages and posts upstream they are added up; and what it takes
 * of memory to hold 1,000 flags × 5 variations × 6 SDKs, and to read one body of 32 MB.
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import { factBody, factSubject } from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';
import { foldLog, rebuild } from '#libs/projection';
import { RedisStateStore } from '#libs/state-store';

import { JetStreamEventLog } from '../dist/libs/event-log/src/jetstream-event-log.js';
import { peakMbOf, startApp, stop, withServers } from './processes.mjs';

const ENVIRONMENTS = Array.from(
  { length: 20 },
  (_, i) => `10000000-0000-4000-8000-${String(i).padStart(12, '0')}`,
);
const AUTH_SECRET = 'a secret that is long enough for a bench';
const ROUNDS = 5;
const POSTS = 5000;
const CONNECTIONS = 64;
const ENTRIES = 10;
const MB = 1e6;

const [, self, task] = process.argv;
if (task === 'bare') await bare();
else await withServers(main);

async function main(natsUrl, redisAddress) {
  Logger.overrideLogger(false);
  const folder = mkdtempSync(join(tmpdir(), 'ff-relay-bench-'));
  const sink = await startSink();
  const log = await JetStreamEventLog.open({ servers: natsUrl, replicas: 1 });
  try {
    await fillServices(log, redisAddress);
    await fillFolder(folder);
    const shared = {
      AUTH_SECRET,
      PROXY_KEY: 'bench',
      CLIENT_SERVICE: sink.url,
      METRIC_SERVICE: sink.url,
      METRIC_POST_DURATION: '60',
    };
    const services = { ...shared, NATS_URL: natsUrl, REDIS_ADDRESS: redisAddress };
    console.log(`Node ${process.version}, ${availableParallelism()} cores`);
    await posting(log, services, { ...shared, DATA_DIR: folder });
    await forwarding(log, services, sink);
    await holding(log, services, sink);
    await reading(services);
  } finally {
    await log.close();
    sink.close();
    rmSync(folder, { recursive: true });
  }
}

async function posting(log, services, alone) {
  const [gateway, relay, least] = [
    await served('gateway', services),
    await served('relay', alone),
    await startBare(),
  ];
  const contestants = { 'gateway on NATS': gateway, 'relay in one process': relay, bare: least };
  const rounds = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
  const before = (await log.head('FF_METRICS')).sequence;
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, app] of Object.entries(contestants)) {
      const [cpu, began] = [cpuMsOf(app.child.pid), performance.now()];
      await postAll(app, POSTS);
      const seconds = (performance.now() - began) / 1000;
      const cpuUs = ((cpuMsOf(app.child.pid) - cpu) * 1000) / POSTS;
      if (round > 0) rounds[name].push({ perSecond: POSTS / seconds, cpuUs });
    }
  }
  const messages = (await log.head('FF_METRICS')).sequence - before;
  console.log(
    `\nPosts of ${ENTRIES} counts of 20 environments over ${CONNECTIONS} connections, medians of ${ROUNDS} rounds`,
  );
  for (const [name, all] of Object.entries(rounds)) {
    const [perSecond, cpuUs] = [middle(all, 'perSecond'), middle(all, 'cpuUs')];
    console.log(
      `${name.padEnd(22)} ${perSecond.toFixed(0).padStart(6)} posts/s  ${cpuUs.toFixed(0).padStart(5)} µs CPU a post`,
    );
  }
  const posts = (ROUNDS + 1) * POSTS;
  console.log(
    `posts in a message     ${(posts / messages).toFixed(1).padStart(6)}  (${posts} posts, ${messages} messages on NATS)`,
  );
  for (const app of [gateway, relay, least]) await stop(app.child);
}

async function forwarding(log, services, sink) {
  const { messages } = await log.backlog();
  sink.reset();
  const began = performance.now();
  const forwarder = await startApp(
    'metrics-forwarder',
    { ...services, METRIC_POST_DURATION: '1' },
    /Answering/,
  );
  while ((await log.backlog()).messages > 0) await delay(100);
  const seconds = (performance.now() - began) / 1000;
  const given = (ROUNDS + 1) * POSTS * ENTRIES;
  console.log(`\nThe same through a metrics-forwarder with windows of 1 s
${messages} messages in ${seconds.toFixed(1)} s, ${sink.posts} posts upstream, ${sink.entries} counts of ${given}: ${(given / sink.entries).toFixed(0)} : 1
most memory of the forwarder ${peakMbOf(forwarder.child.pid).toFixed(0)} MB`);
  await stop(forwarder.child);
}

/** 6 SDKs of one environment that evaluate everything there is, once a second, for a window. */
async function holding(log, services, sink) {
  const gateway = await served('gateway', services);
  const forwarder = await startApp(
    'metrics-forwarder',
    { ...services, METRIC_POST_DURATION: '20' },
    /Answering/,
  );
  await delay(1000);
  const idle = [gateway, forwarder].map(({ child }) => residentMbOf(child.pid));
  sink.reset();
  const bodies = Array.from({ length: 6 }, (_, sdk) => {
    const entries = Array.from({ length: 5000 }, (__, i) => entry(`flag-${i % 1000}`, `v-${i % 5}`, sdk));
    return request(gateway, ENVIRONMENTS[0], JSON.stringify({ metricsData: entries }));
  });
  const bytes = bodies.reduce((sum, { length }) => sum + length, 0);
  for (let second = 0; second < 15; second++) {
    await Promise.all(bodies.map((body) => send(gateway.url, [body], 1)));
    await delay(1000);
  }
  const peaks = [gateway, forwarder].map(({ child }) => peakMbOf(child.pid));
  console.log(`\n1,000 flags × 5 variations × 6 SDKs, posted 15 times (${(bytes / MB).toFixed(1)} MB each time)
gateway                 ${peaks[0].toFixed(0)} MB at most, ${idle[0].toFixed(0)} MB before
metrics-forwarder       ${peaks[1].toFixed(0)} MB at most, ${idle[1].toFixed(0)} MB before`);
  await stop(gateway.child);
  await stop(forwarder.child);
  console.log(`upstream                ${sink.posts} posts, ${sink.entries} counts of ${15 * 30_000}`);
  while ((await log.backlog()).messages > 0) await drain(services);
}

async function drain(services) {
  const forwarder = await startApp(
    'metrics-forwarder',
    { ...services, METRIC_POST_DURATION: '1' },
    /Answering/,
  );
  await delay(5000);
  await stop(forwarder.child);
}

async function reading(services) {
  const gateway = await served('gateway', services);
  await delay(1000);
  const idle = residentMbOf(gateway.child.pid);
  const entries = [];
  for (let size = 0, i = 0; size < 31 * 1024 * 1024; i++) {
    const text = JSON.stringify(entry(`flag-${i}`, 'true', i % 6));
    entries.push(text);
    size += text.length + 1;
  }
  const body = request(gateway, ENVIRONMENTS[0], `{"metricsData":[${entries.join()}]}`);
  const began = performance.now();
  await send(gateway.url, [body], 1);
  const seconds = (performance.now() - began) / 1000;
  console.log(`\nOne body of ${(body.length / MB).toFixed(0)} MB with ${entries.length} different counts
gateway                 ${peakMbOf(gateway.child.pid).toFixed(0)} MB at most, ${idle.toFixed(0)} MB before, ${seconds.toFixed(1)} s`);
  await stop(gateway.child);
}

/** A process that serves SDKs, with a token for each environment. */
async function served(name, settings) {
  const app = await startApp(name, settings, /Serving SDKs on (\S+)/);
  const tokens = await Promise.all(
    ENVIRONMENTS.map(async (_, i) => {
      const body = JSON.stringify({ apiKey: `key-${i}` });
      const answer = await fetch(`${app.match[1]}/client/auth`, { method: 'POST', body });
      return (await answer.json()).authToken;
    }),
  );
  return { child: app.child, url: app.match[1], tokens };
}

function postAll(app, posts) {
  const requests = ENVIRONMENTS.flatMap((environment, e) =>
    Array.from({ length: 5 }, (_, sdk) => {
      const entries = Array.from({ length: ENTRIES }, (__, i) => entry(`flag-${e}-${i}`, 'true', sdk));
      return request(app, environment, JSON.stringify({ metricsData: entries }));
    }),
  );
  return send(app.url, requests, posts);
}

function entry(flag, variation, sdk) {
  return {
    timestamp: Date.now(),
    count: 3,
    metricsType: 'FFMETRICS',
    attributes: Object.entries({
      featureIdentifier: flag,
      featureName: flag,
      variationIdentifier: variation,
      target: 'global',
      SDK_TYPE: 'server',
      SDK_LANGUAGE: ['go', 'java', 'python', 'javascript', 'ruby', 'php'][sdk],
      SDK_VERSION: '1.0.0',
    }).map(([key, value]) => ({ key, value })),
  };
}

function request({ tokens }, environment, body) {
  const token = tokens[ENVIRONMENTS.indexOf(environment)];
  return Buffer.from(
    `POST /metrics/${environment}?cluster=1 HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ${token}\r\n` +
      `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

/** Posts over some connections, on each again when the answer is there. */
async function send(url, requests, times) {
  const { hostname, port } = new URL(url);
  let sent = 0;
  await Promise.all(
    Array.from({ length: Math.min(CONNECTIONS, times) }, async () => {
      const socket = connect(Number(port), hostname).setEncoding('latin1');
      const next = () => (sent < times ? socket.write(requests[sent++ % requests.length]) : socket.end());
      socket.on('data', (answer) => {
        if (!answer.startsWith('HTTP/1.1 200')) throw new Error(answer);
        next();
      });
      next();
      await once(socket, 'close');
    }),
  );
}

/** The upstream: takes tokens and counts, and nothing else. */
async function startSink() {
  const sink = { posts: 0, entries: 0, reset: () => Object.assign(sink, { posts: 0, entries: 0 }) };
  const server = createServer((incoming, response) => {
    const chunks = [];
    incoming.on('data', (chunk) => chunks.push(chunk));
    incoming.on('end', () => {
      if (incoming.url.endsWith('/proxy/auth')) {
        const claims = Buffer.from('{"account":"bench"}').toString('base64url');
        return response.end(JSON.stringify({ authToken: `e30.${claims}.x` }));
      }
      if (!incoming.url.includes('/metrics/')) return response.writeHead(503).end();
      sink.posts++;
      sink.entries += JSON.parse(Buffer.concat(chunks)).metricsData.length;
      return response.end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(sink, {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => server.closeAllConnections() ?? server.close(),
  });
}

/** The least: reads, parses and answers. */
async function bare() {
  const server = createServer((incoming, response) => {
    const chunks = [];
    incoming.on('data', (chunk) => chunks.push(chunk));
    incoming.on('end', () => {
      JSON.parse(Buffer.concat(chunks).toString());
      response.writeHead(200, { 'content-type': 'application/json' }).end('null');
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.once('disconnect', () => process.exit(0));
  process.send({ url: `http://127.0.0.1:${server.address().port}` });
}

async function startBare() {
  const child = fork(self, ['bare']);
  const [{ url }] = await once(child, 'message');
  return { child, url, tokens: ENVIRONMENTS.map(() => 'none') };
}

function facts() {
  return [
    ...ENVIRONMENTS.flatMap((environment, i) => [
      { type: 'EnvironmentAdded', environment, account: 'bench' },
      { type: 'ApiKeyAdded', environment, apiKey: createHash('sha256').update(`key-${i}`).digest('hex') },
    ]),
    { type: 'SnapshotCompleted', account: 'bench', environments: ENVIRONMENTS.length },
  ];
}

async function fill(log) {
  for (const [i, fact] of facts().entries()) {
    const id = `bench-${i}`;
    const body = factBody(fact, { id, time: Date.now() });
    await log.append('FF_FACTS', { subject: factSubject(fact), id, body });
  }
}

async function fillServices(log, address) {
  await fill(log);
  const store = await RedisStateStore.open({ address, db: 0 });
  await rebuild(store, await foldLog(log), () => Promise.reject(new Error('the log stands still')));
  await store.close();
}

async function fillFolder(folder) {
  const log = await EmbeddedEventLog.open(folder);
  await fill(log);
  await log.close();
}

/** Linux only: elsewhere not a number. */
function cpuMsOf(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    // Ticks of 10 ms, of the process itself in user and system mode.
    return (Number(fields[11]) + Number(fields[12])) * 10;
  } catch {
    return Number.NaN;
  }
}

function residentMbOf(pid) {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1000;
  } catch {
    return Number.NaN;
  }
}

function middle(all, name) {
  const values = all.map((each) => each[name]).toSorted((a, b) => a - b);
  return values[Math.floor(values.length / 2)];
}
