/**
 * `npm start`: the relay against the upstream of PROXY_KEY, or, without one, the demo: a control plane with its seeded
 * flags, and a relay beside it. Ctrl-C, SIGTERM, or the end of either ends both.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { node, prepare, root } from './prepare.mjs';

const DEMO = {
  proxyKey: '30000000-0000-4000-8000-000000000001',
  environment: '10000000-0000-4000-8000-000000000001',
  serverKey: '20000000-0000-4000-8000-000000000001',
  clientKey: '20000000-0000-4000-8000-000000000002',
};
const GRACE_MS = 15_000;

/** Every child that runs, by its process. */
const children = new Map();
let stopping = false;
let exitCode = 0;

prepare();
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stop(0));
// Also when npm dies without a word.
const parent = process.ppid;
setInterval(() => process.ppid !== parent && stop(0), 1000).unref();
if (process.env.PROXY_KEY || process.env.OFFLINE) {
  await startService('relay', {});
} else {
  await startDemo();
}

async function startDemo() {
  const controlPlanePort = process.env.CONTROL_PLANE_PORT || '7100';
  const port = process.env.PORT || '7000';
  await startService('control-plane', {});
  const upstream = `http://127.0.0.1:${controlPlanePort}/api/1.0`;
  await startService('relay', {
    // The demo's keys are known to everybody, so it serves this machine only.
    HOST: process.env.HOST || '127.0.0.1',
    PROXY_KEY: DEMO.proxyKey,
    AUTH_SECRET: process.env.AUTH_SECRET || demoSecret(),
    CLIENT_SERVICE: upstream,
    METRIC_SERVICE: upstream,
  });
  console.log(welcome(`http://127.0.0.1:${controlPlanePort}`, `http://127.0.0.1:${port}`));
}

/** Runs a service; resolves when it is ready. */
function startService(name, settings) {
  const main = join(root, 'dist', 'apps', name, 'src', 'main.js');
  const child = spawn(node, ['--enable-source-maps', main], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, ...settings },
    shell: process.platform === 'win32',
  });
  children.set(child, name);
  child.once('exit', (code, signal) => {
    children.delete(child);
    // With 1 it has said itself why it could not start.
    if (!stopping && code !== 0 && code !== 1)
      console.error(`The ${name} died (${code ?? signal}); stopping.`);
    stop(code === 0 ? 0 : 1);
  });
  return new Promise((ready) => child.once('message', ready));
}

/** Ends all children, then this process: with 0 if a person asked for it, with 1 if a child failed. */
function stop(code) {
  exitCode ||= stopping ? 0 : code;
  if (!stopping) {
    stopping = true;
    for (const child of children.keys()) child.kill('SIGTERM');
    setTimeout(() => {
      for (const child of children.keys()) child.kill('SIGKILL');
    }, GRACE_MS).unref();
  }
  if (children.size === 0) process.exit(exitCode);
}

/** Made once and kept, so that SDKs stay signed in over restarts. */
function demoSecret() {
  const folder = resolve(process.env.DATA_DIR || './data');
  const file = join(folder, 'demo-auth-secret');
  try {
    mkdirSync(folder, { recursive: true });
    if (!existsSync(file)) writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600 });
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    console.error(
      `DATA_DIR ${folder} cannot be used: ${error.message}. Set DATA_DIR to a folder that you may write to.`,
    );
    return stop(1);
  }
}

function welcome(page, relay) {
  return `
  ff-relay is running.

  Page      ${page}     toggle a flag here, and watch it arrive below
  Relay     ${relay}     point Harness SDKs here

  SDK keys (environment dev):  server  ${DEMO.serverKey}
                               client  ${DEMO.clientKey}

  Show a flag:

    TOKEN=$(curl -s ${relay}/client/auth -H 'Content-Type: application/json' \\
      -d '{"apiKey":"${DEMO.serverKey}"}' | sed 's/.*"authToken":"\\([^"]*\\)".*/\\1/')
    curl -s ${relay}/client/env/${DEMO.environment}/feature-configs/dark-mode \\
      -H "Authorization: Bearer $TOKEN"

  Follow the stream:

    curl -sN ${relay}/stream -H "Authorization: Bearer $TOKEN" -H 'API-Key: ${DEMO.serverKey}'

  Ctrl-C ends both.
`;
}
