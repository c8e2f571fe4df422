/**
 * One change to many streams of one gateway, beside the least Node program that writes the same bytes to as many, in
 * rounds that take turns; 20 changes at once; and what an idle stream holds in memory. The gateway is the real one,
 * with a log of its own; whoever listens is a process of its own.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';

const DEV = '10000000-0000-4000-8000-000000000001';
const KEY = 'bench-key';
const SECRET = 'a secret that is long enough for a bench';
const ROUNDS = 15;
const GATHERED = 20;

const [, self, task, ...given] = process.argv;
if (task === 'listen') await listen(given);
else if (task === 'bare') await bare();
else if (task === 'gateway') await gateway();
else await main(Number(task ?? 10_000));

/** Opens streams, and says of each round when the last and the 99th of a hundred had what was awaited. */
async function listen([url, count, token]) {
  const { hostname, port } = new URL(url);
  const headers = `host: bench\r\nauthorization: Bearer ${token}\r\napi-key: ${KEY}\r\n`;
  let round;
  // As little as can be done: the machine is to be measured under who writes, not under who reads.
  const heard = (stream, bytes) => {
    stream.text = (stream.text + bytes).slice(-4000);
    if (!round || !stream.text.includes(round.text)) return;
    stream.text = '';
    round.times.push(performance.timeOrigin + performance.now());
    if (round.times.length === Number(count)) process.send({ times: round.times });
  };
  const open = async () => {
    const stream = { text: '' };
    const socket = connect(Number(port), hostname).setEncoding('latin1');
    socket.write(`GET /stream?cluster=1 HTTP/1.1\r\n${headers}\r\n`);
    socket.on('data', (bytes) => heard(stream, bytes));
    while (!stream.text.includes(':\n\n')) await once(socket, 'data');
  };
  process.on('message', ({ text }) => {
    round = { text, times: [] };
    process.send('armed');
  });
  for (let left = Number(count); left > 0; left -= 200) {
    await Promise.all(Array.from({ length: Math.min(left, 200) }, open));
  }
  process.send('open');
}

function memory() {
  for (let i = 0; i < 3; i++) globalThis.gc();
  return process.memoryUsage().rss;
}

/** Does what it is asked to, and says what that cost. */
function answer(changes) {
  process.on('message', ({ change, cpu, memory: asked }) => {
    if (change) {
      const at = performance.timeOrigin + performance.now();
      void Promise.resolve(changes(change)).then(() => process.send({ at }));
    } else if (cpu) {
      const { user, system } = process.cpuUsage();
      process.send({ cpuMs: (user + system) / 1000 });
    } else if (asked) process.send({ rss: memory() });
  });
}

/** Writes the frames that it is given to everybody. */
async function bare() {
  const sockets = [];
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    response.flushHeaders();
    response.socket.write('3\r\n:\n\n\r\n');
    sockets.push(response.socket);
  }).listen({ port: 0, host: '127.0.0.1', backlog: 4096 });
  await once(server, 'listening');
  answer(({ names, version }) => {
    const chunks = names.map((name) => {
      const event = { event: 'patch', domain: 'flag', identifier: name, version, environment: DEV };
      const text = `event: *\nid: AAAAAAAA.${version}\ndata: ${JSON.stringify(event)}\n\n`;
      return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
    });
    const frame = Buffer.from(chunks.join(''));
    for (const socket of sockets) socket.write(frame);
  });
  process.send({ url: `http://127.0.0.1:${server.address().port}`, token: 'none' });
}

async function gateway() {
  const { Module } = await import('@nestjs/common');
  const { createHash } = await import('node:crypto');
  const { RelayConfig } = await import('#libs/config');
  const { factBody, factSubject, noticeBody, noticeSubject } = await import('#libs/domain');
  const { EventLog } = await import('#libs/event-log');
  const { StateStore } = await import('#libs/state-store');
  const { GatewayModule } = await import('../dist/apps/gateway/src/gateway.module.js');
  const { serveGateway } = await import('../dist/apps/gateway/src/serve-gateway.js');
  const folder = mkdtempSync(join(tmpdir(), 'ff-relay-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  process.once('disconnect', () => process.exit(0));
  let log;
  class Root {
    constructor(parts) {
      this.parts = parts;
    }
    async onModuleInit() {
      log = this.parts.get(EventLog, { strict: false });
      const store = this.parts.get(StateStore, { strict: false });
      const { epoch } = await log.head('FF_FACTS');
      await store.begin({ position: { epoch, sequence: 0 }, complete: false, writer: 'bench' });
      const apiKey = createHash('sha256').update(KEY).digest('hex');
      await append({ type: 'EnvironmentAdded', environment: DEV, account: 'bench' });
      await append({ type: 'ApiKeyAdded', environment: DEV, apiKey });
      for (let i = 0; i < GATHERED; i++) await append(published(`flag-${i}`, 1));
      await append({ type: 'SnapshotCompleted', account: 'bench', environments: 1 });
    }
  }
  const { ModuleRef } = await import('@nestjs/core');
  Reflect.defineMetadata('design:paramtypes', [ModuleRef], Root);
  Module({ imports: [GatewayModule] })(Root);
  let ids = 0;
  const append = (fact) => {
    const id = `bench-${++ids}`;
    return log.append('FF_FACTS', { subject: factSubject(fact), id, body: factBody(fact, { id, time: 1 }) });
  };
  const published = (feature, version) => ({
    type: 'FlagPublished',
    environment: DEV,
    flag: {
      feature,
      version,
      kind: 'boolean',
      state: 'on',
      environment: 'dev',
      project: 'bench',
      variations: [],
    },
  });
  const config = new RelayConfig({
    PROXY_KEY: 'none',
    AUTH_SECRET: SECRET,
    DATA_DIR: folder,
    HOST: '127.0.0.1',
    PORT: '0',
    MANAGEMENT_PORT: '0',
    LOG_LEVEL: 'ERROR',
    MAX_STREAMS: '0',
  });
  const app = await serveGateway('bench', config, [Root]);
  const url = await app.getUrl();
  const body = JSON.stringify({ apiKey: KEY });
  const { authToken } = await (await fetch(`${url}/client/auth`, { method: 'POST', body })).json();
  answer(async ({ names, version }) => {
    await Promise.all(
      names.map(async (name) => {
        const of = await append(published(name, version));
        const notice = { event: 'patch', kind: 'flag', environment: DEV, identifier: name, version };
        const id = `notice-${++ids}`;
        const body = noticeBody(notice, of, { id, time: 1 });
        await log.append('FF_CHANGES', { subject: noticeSubject(notice), id, body });
      }),
    );
  });
  process.send({ url, token: authToken });
}

async function main(streams) {
  const start = async (name) => {
    const server = fork(self, [name], { execArgv: ['--expose-gc'] });
    const [{ url, token }] = await once(server, 'message');
    const ask = async (message) => {
      server.send(message);
      return (await once(server, 'message'))[0];
    };
    const listeners = async (count, each) => {
      const made = [];
      for (let left = count; left > 0; left -= each) {
        const listener = fork(self, ['listen', url, String(Math.min(left, each)), token]);
        await once(listener, 'message');
        made.push(listener);
      }
      return made;
    };
    return { name, server, ask, listeners, version: 1 };
  };
  const contestants = [await start('bare'), await start('gateway')];
  const results = {};
  for (const [title, count, names] of [
    [`one change to ${streams} streams`, streams, 1],
    [`${GATHERED} changes at once to 1000 streams`, 1000, GATHERED],
  ]) {
    for (const contestant of contestants) {
      const before = (await contestant.ask({ memory: true })).rss;
      contestant.open = await contestant.listeners(count, Math.ceil(count / 2));
      const { rss } = await contestant.ask({ memory: true });
      results[contestant.name] = {
        ...results[contestant.name],
        [title]: { rounds: [], perStream: (rss - before) / count },
      };
    }
    for (let round = 0; round <= ROUNDS; round++) {
      for (const contestant of contestants) {
        const figures = await measure(contestant, count, names);
        if (round > 0) results[contestant.name][title].rounds.push(figures);
      }
    }
    for (const { open } of contestants) {
      for (const listener of open) listener.kill();
      await Promise.all(open.map((listener) => once(listener, 'exit')));
    }
  }
  for (const { server } of contestants) server.disconnect?.();
  for (const { server } of contestants) server.kill();
  report(results);
}

async function measure(contestant, count, names) {
  const version = ++contestant.version;
  const change = { names: Array.from({ length: names }, (_, i) => `flag-${i}`), version };
  const text = `"identifier":"flag-${names - 1}","version":${version},`;
  const { open, ask } = contestant;
  await Promise.all(
    open.map((listener) => {
      listener.send({ text });
      return once(listener, 'message');
    }),
  );
  const heard = open.map((listener) => once(listener, 'message'));
  const { cpuMs: before } = await ask({ cpu: true });
  const { at } = await ask({ change });
  const times = (await Promise.all(heard)).flatMap(([message]) => message.times.map((time) => time - at));
  const { cpuMs } = await ask({ cpu: true });
  times.sort((a, b) => a - b);
  return {
    p99Ms: times[Math.ceil(count * 0.99) - 1],
    lastMs: times.at(-1),
    cpuUs: ((cpuMs - before) * 1000) / count / names,
  };
}

function report(results) {
  const middle = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
  console.log(
    `\nMedians of ${ROUNDS} interleaved rounds, Node ${process.version}, ${availableParallelism()} cores\n`,
  );
  const [first] = Object.keys(results.bare);
  for (const name of ['bare', 'gateway']) {
    console.log(
      `memory of an idle stream, ${name}: ${(results[name][first].perStream / 1024).toFixed(1)} KiB`,
    );
  }
  for (const title of Object.keys(results.bare)) {
    console.log(title);
    const figures = (name) => {
      const { rounds } = results[name][title];
      const of = (key) => middle(rounds.map((round) => round[key]));
      return { p99Ms: of('p99Ms'), lastMs: of('lastMs'), cpuUs: of('cpuUs') };
    };
    const bare = figures('bare');
    for (const name of ['bare', 'gateway']) {
      const { p99Ms, lastMs, cpuUs } = figures(name);
      console.log(
        `  ${name.padEnd(8)} p99 ${p99Ms.toFixed(0).padStart(5)} ms (${(p99Ms / bare.p99Ms).toFixed(2)} × bare), last ${lastMs.toFixed(0)} ms, ` +
          `CPU per stream and event ${cpuUs.toFixed(1)} µs (${(cpuUs / bare.cpuUs).toFixed(2)} ×)`,
      );
    }
  }
}
