import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';

import { CommandFailed } from './outcome.js';

const MOST_SAID = 4000;
const MAIN = join(import.meta.dirname, '..', '..', 'control-plane', 'src', 'main.js');

/**
 * Runs a control plane on a DATA_DIR for the time of some work: only it writes its file, and none that runs already is
 * disturbed. It listens for this machine alone, and lets in nobody else.
 */
export async function withControlPlane<T>(
  dataDir: string,
  work: (url: string, adminToken: string) => Promise<T>,
): Promise<T> {
  const token = randomBytes(32).toString('hex');
  const port = await freePort();
  const child = spawn(process.execPath, [MAIN], {
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: {
      ...process.env,
      DATA_DIR: dataDir,
      // What it would begin with is not what is imported.
      DEMO_DATA: 'false',
      CONTROL_PLANE_HOST: '127.0.0.1',
      CONTROL_PLANE_PORT: String(port),
      ADMIN_TOKEN: token,
      ADMIN_TOKEN_FILE: '',
      LOG_LEVEL: 'ERROR',
    },
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(0, MOST_SAID)));
  const ended = once(child, 'close');
  try {
    const ready = await Promise.race([once(child, 'message').then(() => true), ended.then(() => false)]);
    if (!ready) throw new CommandFailed(said.trim() || 'The control plane could not be started.');
    return await work(`http://127.0.0.1:${port}`, token);
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}
