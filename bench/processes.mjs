/** Processes that a bench starts: the servers that the relay needs, and programs of the project. */
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect as dial, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** Runs `work` with the addresses of a NATS and a Redis of its own, and the folder that goes with them. */
export async function withServers(work) {
  const folder = mkdtempSync(join(tmpdir(), 'ff-relay-bench-'));
  const [natsPort, redisPort] = [await freePort(), await freePort()];
  const servers = [
    spawn('nats-server', ['-a', '127.0.0.1', '-p', natsPort, '-js', '-sd', folder], { stdio: 'ignore' }),
    spawn('redis-server', ['--port', redisPort, '--bind', '127.0.0.1', '--save', '', '--dir', folder], {
      stdio: 'ignore',
    }),
  ];
  const kill = () => servers.forEach((server) => server.kill('SIGKILL'));
  process.once('exit', kill);
  try {
    await Promise.all([answers(natsPort), answers(redisPort)]);
    await work(`nats://127.0.0.1:${natsPort}`, `127.0.0.1:${redisPort}`);
  } finally {
    kill();
    await Promise.all(servers.map((server) => once(server, 'exit')));
    rmSync(folder, { recursive: true });
  }
}

/** An app of the project, once it prints `pattern`; with the first group of it. */
export async function startApp(name, settings, pattern) {
  const { PROXY_KEY: _, ...inherited } = process.env;
  const main = join(import.meta.dirname, '..', 'dist', 'apps', name, 'src', 'main.js');
  const child = fork(main, {
    env: { ...inherited, HOST: '127.0.0.1', PORT: '0', MANAGEMENT_PORT: '0', ...settings },
    silent: true,
  });
  let output = '';
  const found = Promise.withResolvers();
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      const match = pattern.exec(output);
      if (match) found.resolve(match);
    });
  }
  child.once('exit', (code) => found.reject(new Error(`${name} ended with ${code}:\n${output}`)));
  const match = await found.promise;
  return { child, match, output: () => output };
}

export async function stop(child) {
  child.kill('SIGTERM');
  await once(child, 'exit');
}

/** The most memory that a process ever held, in MB. Linux only: elsewhere it is not known. */
export function peakMbOf(pid) {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1000;
  } catch {
    return Number.NaN;
  }
}

export async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  await once(probe.close(), 'close');
  return port;
}

async function answers(port) {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; await delay(50)) {
    const socket = dial(port, '127.0.0.1');
    socket.write('PING\r\n');
    const up = await once(socket, 'data').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (up) return;
  }
  throw new Error(`nobody answers on port ${port}`);
}
