/**
 * `npm start`: the relay against the upstream of PROXY_KEY (or from CONFIG_DIR with OFFLINE, or beside others with
 * READ_REPLICA), or else, or with --demo, the demo: a control plane with its seeded flags, and a relay beside it. Ctrl-C,
 * SIGTERM, or the end of either ends both. Settings may also be flags: `npm start -- --port 7005`.
 */
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';

import { DEMO, demoSecret, followStream, mainOf, showFlag, whenAskedToEnd } from './launch.mjs';
import { node, prepare } from './prepare.mjs';

const GRACE_MS = 15_000;
/** An upstream of yours, and a log or a store that others use, as a shell or a file may name them. */
const NOT_FOR_THE_DEMO = [
  'PROXY_KEY_FILE',
  'OFFLINE',
  'GENERATE_OFFLINE_CONFIG',
  'READ_REPLICA',
  'NATS_URL',
  'NATS_URL_FILE',
  'REDIS_ADDRESS',
  'REDIS_ADDRESS_FILE',
];

/** Every child that runs, by its process. */
const children = new Map();
let stopping = false;
let exitCode = 0;

prepare();
// Built only now.
const { givenSettings } = await import('../dist/libs/config/src/command-line.js');
const isDemo = process.argv.includes('--demo');
const flags = process.argv.slice(2).filter((flag) => flag !== '--demo');
const { environment, faults } = givenSettings(flags, process.env);
whenAskedToEnd(() => stop(0));
if (
  !isDemo &&
  (environment.PROXY_KEY ||
    environment.PROXY_KEY_FILE ||
    ['OFFLINE', 'GENERATE_OFFLINE_CONFIG', 'READ_REPLICA'].some((name) => isYes(environment[name])))
) {
  await startService('relay', process.env, flags);
} else {
  await startDemo();
}

async function startDemo() {
  if (faults.length > 0) {
    console.error(faults.join('\n'));
    process.exit(1);
  }
  const controlPlanePort = environment.CONTROL_PLANE_PORT || '7100';
  const port = environment.PORT || '7000';
  // Apart from the log of an upstream, whose relay must never serve the demo's flags and keys.
  const dataDir = resolve(environment.DATA_DIR || './data/demo');
  const authSecret = environment.AUTH_SECRET_FILE ? '' : environment.AUTH_SECRET || demoSecret(dataDir);
  await startService('control-plane', { ...environment, DATA_DIR: dataDir });
  const upstream = `http://127.0.0.1:${controlPlanePort}/api/1.0`;
  const settings = {
    ...environment,
    // The demo's keys are known to everybody, so it serves this machine only.
    HOST: environment.HOST || '127.0.0.1',
    PROXY_KEY: DEMO.proxyKey,
    AUTH_SECRET: authSecret,
    CLIENT_SERVICE: upstream,
    METRIC_SERVICE: upstream,
    DATA_DIR: dataDir,
    ...Object.fromEntries(NOT_FOR_THE_DEMO.map((name) => [name, ''])),
  };
  await startService('relay', settings);
  console.log(
    welcome(
      `http://127.0.0.1:${controlPlanePort}`,
      `${isYes(environment.TLS_ENABLED) ? 'https' : 'http'}://127.0.0.1:${port}`,
    ),
  );
}

function isYes(text = '') {
  return /^(true|t|1)$/i.test(text.trim());
}

/** Runs a service; resolves when it is ready. */
function startService(name, env, args = []) {
  // After `--`, --env-file is the relay's and not Node's.
  const child = spawn(node, ['--enable-source-maps', '--', mainOf(name), ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env,
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
