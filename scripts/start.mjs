/**
 * `npm start`: the relay against the upstream of PROXY_KEY (or beside others, with READ_REPLICA), or else the demo: a control plane with its seeded
 * flags, and a relay beside it. Ctrl-C, SIGTERM, or the end of either ends both.
 */
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';

import { DEMO, demoSecret, followStream, mainOf, showFlag, whenAskedToEnd } from './launch.mjs';
import { node, prepare } from './prepare.mjs';

const GRACE_MS = 15_000;

/** Every child that runs, by its process. */
const children = new Map();
let stopping = false;
let exitCode = 0;

prepare();
whenAskedToEnd(() => stop(0));
if (
  process.env.PROXY_KEY ||
  process.env.PROXY_KEY_FILE ||
  process.env.OFFLINE ||
  /^(true|t|1)$/i.test(process.env.READ_REPLICA ?? '')
) {
  await startService('relay', {});
} else {
  await startDemo();
}

async function startDemo() {
  const controlPlanePort = process.env.CONTROL_PLANE_PORT || '7100';
  const port = process.env.PORT || '7000';
  // Apart from the log of an upstream, whose relay must never serve the demo's flags and keys.
  const dataDir = resolve(process.env.DATA_DIR || './data/demo');
  const authSecret = process.env.AUTH_SECRET || demoSecret(dataDir);
  await startService('control-plane', { DATA_DIR: dataDir });
  const upstream = `http://127.0.0.1:${controlPlanePort}/api/1.0`;
  await startService('relay', {
    // The demo's keys are known to everybody, so it serves this machine only.
    HOST: process.env.HOST || '127.0.0.1',
    PROXY_KEY: DEMO.proxyKey,
    AUTH_SECRET: authSecret,
    CLIENT_SERVICE: upstream,
    METRIC_SERVICE: upstream,
    DATA_DIR: dataDir,
    // A log or a store that others use, as a shell may still name it, is not for the demo.
    NATS_URL: '',
    REDIS_ADDRESS: '',
  });
  console.log(welcome(`http://127.0.0.1:${controlPlanePort}`, `http://127.0.0.1:${port}`));
}

/** Runs a service; resolves when it is ready. */
function startService(name, settings) {
  const child = spawn(node, ['--enable-source-maps', mainOf(name)], {
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

function welcome(page, relay) {
  return `
  ff-relay is running.

  Page      ${page}     toggle a flag here, and watch it arrive below
  Relay     ${relay}     point Harness SDKs here

  SDK keys (environment dev):  server  ${DEMO.serverKey}
                               client  ${DEMO.clientKey}

  Show a flag:
${showFlag(relay)}
  Follow the stream:
${followStream(relay)}
  Ctrl-C ends both.
`;
}
