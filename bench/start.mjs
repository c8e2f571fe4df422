/**
 * A first start against a large account: how much longer than the upstream takes to answer the relay needs until it
 * serves, and how much memory over a relay with next to nothing, as a multiple of the JSON that it reads. The relay is one
 * process with an empty folder; the upstream is a process of its own with answers that are ready.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';

import { peakMbOf, startApp, stop } from './processes.mjs';

const ROUNDS = 5;
/** As the relay asks. */
const PAGE_SIZE = 10;
const WORLDS = {
  'next to nothing': { environments: 1, flags: 1, flagBytes: 700 },
  '1,000 environments × 30 flags': { environments: 1000, flags: 30, flagBytes: 700 },
  'one environment of 5,000 flags': { environments: 1, flags: 5000, flagBytes: 4000 },
};

const [, self, task, given] = process.argv;
if (task === 'upstream') await upstream(WORLDS[given]);
else await main();

async function main() {
  const seen = Object.fromEntries(Object.keys(WORLDS).map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of Object.keys(WORLDS)) seen[name].push(await measure(name));
  }
  const middle = (name, of) => seen[name].map(of).toSorted((a, b) => a - b)[Math.floor(ROUNDS / 2)];
  const [least] = Object.keys(WORLDS);
  const base = {
    seconds: middle(least, (each) => each.seconds),
    peakMb: middle(least, (each) => each.peakMb),
  };
  console.log(
    `\nMedians of ${ROUNDS} interleaved rounds, Node ${process.version}, ${availableParallelism()} cores\n`,
  );
  for (const name of Object.keys(WORLDS)) {
    const [seconds, bareSeconds, peakMb, jsonMb, requests] = [
      middle(name, (each) => each.seconds),
      middle(name, (each) => each.bareSeconds),
      middle(name, (each) => each.peakMb),
      seen[name][0].jsonMb,
      seen[name][0].requests,
    ];
    console.log(
      `${name.padEnd(32)} serves after ${seconds.toFixed(2)} s; the upstream's ${requests} answers (${jsonMb.toFixed(1)} MB) take ${bareSeconds.toFixed(2)} s; ${peakMb.toFixed(0)} MB at most`,
    );
    if (name === least) continue;
    const over = seconds - base.seconds - bareSeconds;
    const times = (peakMb - base.peakMb) / jsonMb;
    console.log(
      `${''.padEnd(32)} ${over.toFixed(2)} s over base and upstream, ${times.toFixed(1)} × the JSON in memory over base`,
    );
  }
}

async function measure(world) {
  const folder = mkdtempSync(join(tmpdir(), 'ff-relay-bench-'));
  const child = fork(self, ['upstream', world]);
  const [{ url }] = await once(child, 'message');
  const settings = {
    DATA_DIR: folder,
    PROXY_KEY: 'bench',
    AUTH_SECRET: 'a secret that is long enough for a bench',
    CLIENT_SERVICE: url,
    METRIC_SERVICE: url,
  };
  const began = performance.now();
  const relay = await startApp('relay', settings, /Serving SDKs on/);
  const seconds = (performance.now() - began) / 1000;
  const peakMb = peakMbOf(relay.child.pid);
  await stop(relay.child);
  child.send('asked');
  const [{ asked }] = await once(child, 'message');
  const reading = performance.now();
  let bytes = 0;
  for (const path of asked) bytes += (await (await fetch(url + path)).arrayBuffer()).byteLength;
  const bareSeconds = (performance.now() - reading) / 1000;
  await stop(child);
  rmSync(folder, { recursive: true });
  return { seconds, peakMb, bareSeconds, jsonMb: bytes / 1e6, requests: asked.length };
}

/** Answers with what it made at its start, and remembers what it was asked. */
async function upstream({ environments, flags, flagBytes }) {
  const ids = Array.from(
    { length: environments },
    (_, i) => `00000000-0000-4000-8000-${`${i}`.padStart(12, '0')}`,
  );
  const lists = new Map(ids.map((id) => [id, JSON.stringify(flagsOf(flags, flagBytes))]));
  const parts = ids.map(
    (id, i) =>
      `{"id":"${id}","apiKeys":["${`${i}`.padStart(64, '0')}"],"featureConfigs":${lists.get(id)},"segments":[]}`,
  );
  const pageCount = Math.ceil(environments / PAGE_SIZE);
  const pages = Array.from({ length: pageCount }, (_, i) => {
    const listed = parts.slice(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
    return Buffer.from(
      `{"itemCount":${environments},"pageCount":${pageCount},"environments":[${listed.join(',')}]}`,
    );
  });
  const claims = Buffer.from(JSON.stringify({ account: 'bench', environments: ids })).toString('base64url');
  const asked = [];
  // The token names all environments.
  const server = createServer({ maxHeaderSize: 1024 * 1024 }, (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://upstream');
    request.resume();
    if (pathname === '/stream') {
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
      return;
    }
    if (pathname === '/proxy/auth') {
      response.end(JSON.stringify({ authToken: `e30.${claims}.x` }));
      return;
    }
    asked.push(request.url);
    if (pathname === '/proxy/config') response.end(configPage(searchParams));
    else response.end(pathname.endsWith('/feature-configs') ? lists.get(pathname.split('/')[3]) : '[]');
  });
  const configPage = (query) => {
    const of = query.get('environment');
    if (!of) return pages[Number(query.get('pageNumber'))];
    return `{"itemCount":1,"pageCount":1,"environments":[${parts[ids.indexOf(of)]}]}`;
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.once('disconnect', () => process.exit(0));
  process.on('message', () => process.send({ asked: [...asked] }));
  process.send({ url: `http://127.0.0.1:${server.address().port}` });
}

function flagsOf(count, bytes) {
  return Array.from({ length: count }, (_, i) => {
    const variation = (identifier) => ({ identifier, value: identifier, name: identifier, description: '' });
    const flag = {
      feature: `flag-${i}`,
      project: 'bench',
      environment: 'dev',
      kind: 'boolean',
      state: 'on',
      variations: [variation('true'), variation('false')],
      offVariation: 'false',
      defaultServe: { variation: 'true' },
      rules: [],
      prerequisites: [],
      variationToTargetMap: [],
      version: 1,
    };
    const missing = Math.max(0, bytes - JSON.stringify(flag).length);
    return {
      ...flag,
      variations: [{ ...flag.variations[0], description: 'x'.repeat(missing) }, flag.variations[1]],
    };
  });
}
