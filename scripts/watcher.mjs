/**
 * Ends the processes of a supervisor that died without a word: `nats-server` and `redis-server` do not notice by
 * themselves. The supervisor sends the ids of all that run, each time they change.
 */
import { setTimeout as delay } from 'node:timers/promises';

const GRACE_MS = 15_000;

let running = [];
process.on('message', (pids) => (running = pids));
process.once('disconnect', () => void endAll());

async function endAll() {
  signal('SIGTERM');
  const deadline = Date.now() + GRACE_MS;
  while (running.some(lives) && Date.now() < deadline) await delay(100);
  signal('SIGKILL');
}

function signal(name) {
  for (const pid of running.filter(lives)) process.kill(pid, name);
}

function lives(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
