#!/usr/bin/env -S node --
/** The command line, on the Node that the project pins. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { node, root } from './prepare.mjs';

const main = join(root, 'dist', 'apps', 'cli', 'src', 'main.js');
if (!existsSync(main)) {
  console.error('ff-relay is not built yet: run `npm run build` first.');
  process.exit(1);
}
// After `--`, --env-file is the command's and not Node's.
const child = spawn(node, ['--enable-source-maps', '--', main, ...process.argv.slice(2)], {
  // With a channel, so that it ends when this process is gone.
  stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  shell: process.platform === 'win32',
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
child.once('exit', (code) => process.exit(code ?? 1));
