/**
 * `npm run services`: the service set on this machine, each role as its own process over a real NATS and a real Redis.
 * With PROXY_KEY it relays that upstream; without one it is the demo, with a control plane. Ctrl-C ends it all.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { DEMO, demoSecret, followStream, inDataDir, mainOf, showFlag, whenAskedToEnd } from './launch.mjs';
import { node, pathOf, prepare, root } from './prepare.mjs';
import { Supervisor } from './supervisor.mjs';

const LOCAL = '127.0.0.1';
/** Each has a port for management, in this order from MANAGEMENT_PORT on. */
const ROLES = ['gateway-a', 'gateway-b', 'ingestor', 'projector', 'metrics-forwarder'];

prepare(['nats-server', 'redis-server']);
const demo = !(process.env.PROXY_KEY || process.env.PROXY_KEY_FILE);
// The log of the demo is never that of an upstream, whose gateways would serve the demo's flags and keys.
const dataDir = resolve(process.env.DATA_DIR || (demo ? './data/services' : './data/services-upstream'));
// Only gateways may be reached from elsewhere, and only if asked: the demo's keys are known to everybody.
const host = process.env.HOST || LOCAL;
const ports = {
  gatewayA: portFrom('PORT', 7000),
  gatewayB: portFrom('PORT_B', 7001),
  controlPlane: portFrom('CONTROL_PLANE_PORT', 7100),
  // Not the usual ones: a NATS or Redis of this machine may have those.
  nats: portFrom('NATS_PORT', 7222),
  natsMonitor: portFrom('NATS_MONITOR_PORT', 7223),
  redis: portFrom('REDIS_PORT', 7379),
  management: portFrom('MANAGEMENT_PORT', 7080),
};
const url = (port) => `http://${LOCAL}:${port}`;
const managementOf = (role) => ports.management + ROLES.indexOf(role);
const natsUrl = `nats://${LOCAL}:${ports.nats}`;
const redisAddress = `${LOCAL}:${ports.redis}`;
const upstream = `${url(ports.controlPlane)}/api/1.0`;

await expectFreePorts();
await claimDataDir();
const nats = program('nats-server');
const redis = program('redis-server');
console.log(`${nats.title}\n${redis.title}\nData is in ${dataDir}`);

let ending = false;
const supervisor = new Supervisor(
  [
    [natsService(), redisService()],
    demo ? [controlPlane()] : [],
    [role('ingestor'), role('projector'), role('metrics-forwarder')],
    [gateway('gateway-a', ports.gatewayA), gateway('gateway-b', ports.gatewayB)],
  ],
  ({ name }) => {
    console.error(`The ${name} could not start; ending the others.`);
    void end(1);
  },
);
whenAskedToEnd(() => void end(0));
if (await supervisor.start()) console.log(welcome());

async function end(code) {
  if (ending) return;
  ending = true;
  await supervisor.stop();
  process.exit(code);
}

function natsService() {
  const config = join(dataDir, 'nats.conf');
  inDataDir(dataDir, () => writeFileSync(config, natsConfig()));
  return {
    name: 'nats',
    command: nats.path,
    args: ['-c', config, '-a', LOCAL, '-p', `${ports.nats}`, '-m', `${ports.natsMonitor}`, '-sd', dataDir],
    up: () => answers(`${url(ports.natsMonitor)}/healthz`),
  };
}

/** As in containers, without what this server does not know yet. */
function natsConfig() {
  const config = readFileSync(join(root, 'deploy', 'nats.conf'), 'utf8');
  const [major, minor] = nats.version.split('.').map(Number);
  return major > 2 || minor >= 10 ? config : config.replace(/^ *sync_interval:.*\n/m, '');
}

function redisService() {
  return {
    name: 'redis',
    command: redis.path,
    args: [join(root, 'deploy', 'redis.conf'), '--bind', LOCAL, '--port', `${ports.redis}`],
    up: () => accepts(ports.redis),
  };
}

function controlPlane() {
  return ours('control-plane', 'control-plane', () => answers(url(ports.controlPlane)), {
    CONTROL_PLANE_HOST: LOCAL,
    CONTROL_PLANE_PORT: `${ports.controlPlane}`,
    DATA_DIR: join(dataDir, 'control-plane'),
  });
}

/** A role is up when it lives: it may have to wait for the upstream, and nobody waits for it. */
function role(name) {
  return ours(name, name, () => answers(`${url(managementOf(name))}/livez`), settingsOf(name));
}

function gateway(name, port) {
  return ours(name, 'gateway', () => answers(`${url(managementOf(name))}/readyz`), {
    ...settingsOf(name),
    HOST: host,
    PORT: `${port}`,
    ...(demo && { AUTH_SECRET: process.env.AUTH_SECRET || demoSecret(dataDir) }),
  });
}

function settingsOf(name) {
  return {
    NATS_URL: natsUrl,
    NATS_MONITOR_URL: url(ports.natsMonitor),
    REDIS_ADDRESS: redisAddress,
    // What is set for other servers does not hold for these.
    NATS_CREDS: '',
    NATS_REPLICAS: '',
    REDIS_USERNAME: '',
    REDIS_PASSWORD: '',
    REDIS_DB: '',
    MANAGEMENT_HOST: LOCAL,
    // Two gateways cannot share it, and each answers at its own ports.
    PROMETHEUS_PORT: '',
    MANAGEMENT_PORT: `${managementOf(name)}`,
    ...(demo && { PROXY_KEY: DEMO.proxyKey, CLIENT_SERVICE: upstream, METRIC_SERVICE: upstream }),
  };
}

function ours(name, app, up, env) {
  return { name, command: node, args: ['--enable-source-maps', mainOf(app)], env, up, endsWithParent: true };
}

/** A program on the PATH, and which one it is. */
function program(name) {
  const path = pathOf(name);
  const { stdout } = spawnSync(path, ['--version'], { encoding: 'utf8' });
  const [version = 'of an unknown version'] = /\d+\.\d+\.\d+/.exec(stdout) ?? [];
  return { path, version, title: `${name} ${version} (${path})` };
}

function portFrom(setting, standard) {
  const text = process.env[setting] || `${standard}`;
  const port = Number(text);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    refuse(`${setting} cannot be "${text}": set it to a port number from 1 to 65535.`);
  }
  return port;
}

/** Better said at once, and for all, than by one process after the other. */
async function expectFreePorts() {
  const wanted = [
    [ports.gatewayA, 'PORT', host],
    [ports.gatewayB, 'PORT_B', host],
    ...(demo ? [[ports.controlPlane, 'CONTROL_PLANE_PORT', LOCAL]] : []),
    [ports.nats, 'NATS_PORT', LOCAL],
    [ports.natsMonitor, 'NATS_MONITOR_PORT', LOCAL],
    [ports.redis, 'REDIS_PORT', LOCAL],
    ...ROLES.map((name) => [managementOf(name), 'MANAGEMENT_PORT', LOCAL]),
  ];
  const faults = [];
  for (const [port, setting] of wanted) {
    const twin = wanted.find((other) => other[0] === port);
    if (twin[1] !== setting) faults.push(`${twin[1]} and ${setting} are both ${port}.`);
  }
  for (const [port, setting, address] of wanted) {
    const problem = await listening(createServer(), port, address).then(
      (server) => once(server.close(), 'close').then(() => undefined),
      (error) => error,
    );
    if (problem?.code === 'EADDRINUSE') {
      faults.push(
        `Port ${port} is in use. Stop the process that listens there, or set ${setting} to another port` +
          (setting === 'MANAGEMENT_PORT' ? ` (the first of ${ROLES.length} in a row).` : '.'),
      );
    } else if (problem) {
      faults.push(`${setting} ${port} on ${address} cannot be used: ${problem.message}.`);
    }
  }
  if (faults.length > 0) refuse(faults.join('\n'));
}

/**
 * Two NATS servers on one folder would ruin the log. Whoever listens on the folder's socket has it; a socket that
 * nobody answers on was left by a process that was killed.
 */
async function claimDataDir() {
  inDataDir(dataDir, () => mkdirSync(join(dataDir, 'control-plane'), { recursive: true }));
  const name = createHash('sha256').update(dataDir).digest('hex').slice(0, 16);
  const socket = join(tmpdir(), `ff-relay-${name}.sock`);
  if (await accepts(socket)) {
    refuse(
      `DATA_DIR ${dataDir} is in use by another service set. Stop it, or set DATA_DIR to another folder.`,
    );
  }
  rmSync(socket, { force: true });
  (
    await listening(
      createServer((held) => held.end()),
      socket,
    )
  ).unref();
}

async function listening(server, ...address) {
  server.listen(...address);
  await once(server, 'listening');
  return server;
}

/** Whether somebody listens on a port of this machine, or on a socket. */
function accepts(address) {
  return new Promise((answer) => {
    const socket = typeof address === 'number' ? connect(address, LOCAL) : connect(address);
    socket.once('connect', () => answer(true)).once('error', () => answer(false));
    socket.once('connect', () => socket.destroy());
  });
}

async function answers(address) {
  try {
    const response = await fetch(address, { signal: AbortSignal.timeout(2000) });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}

function refuse(message) {
  console.error(message);
  process.exit(1);
}

function welcome() {
  const [a, b] = [url(ports.gatewayA), url(ports.gatewayB)];
  const addresses = `
  The service set is running.
${demo ? `\n  Page       ${url(ports.controlPlane)}` : ''}
  Gateways   ${a}  and  ${b}
  NATS       ${natsUrl}  (streams FF_FACTS, FF_CHANGES, FF_METRICS)
  Redis      ${redisAddress}
  Status     ${ROLES.map((name) => `${url(managementOf(name))}/status  ${name}`).join(`\n             `)}
`;
  const commands = `
  SDK keys (environment dev):  server  ${DEMO.serverKey}
                               client  ${DEMO.clientKey}

  Show a flag, from gateway a:
${showFlag(a)}
  Follow the stream, on gateway b:
${followStream(b)}
  Change the flag, in another terminal:

    curl -s -X PATCH '${url(ports.controlPlane)}/cf/admin/features/dark-mode?accountIdentifier=demo&orgIdentifier=demo&projectIdentifier=demo&environmentIdentifier=dev' \\
      -H 'x-api-key: any' -H 'Content-Type: application/json' \\
      -d '{"instructions":[{"kind":"setFeatureFlagState","parameters":{"state":"off"}}]}'
`;
  return `${addresses}${demo ? commands : ''}
  Compare Redis with the log, and follow changes as a tool does:

    NATS_URL=${natsUrl} REDIS_ADDRESS=${redisAddress} npx ff-relay rebuild --dry-run
    NATS_URL=${natsUrl} node docs/examples/subscriber.mjs

  Kill one, and watch it come back (any process id of the lines above):

    kill -9 ${supervisor.pidOf('projector')}

  Ctrl-C ends all.
`;
}
