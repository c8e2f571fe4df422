/** `npm run bench`: what the relay's parts cost, beside the least that could be done, measured in one run. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

import { node, prepare, root } from './prepare.mjs';

prepare(['nats-server', 'redis-server']);
const child = spawn(node, ['--expose-gc', join(root, 'bench', 'rebuild.mjs'), ...process.argv.slice(2)], {
  stdio: 'inherit',
  shell: process.platform === 'win32',
});
child.once('exit', (code, signal) => process.exit(signal ? 1 : code));
