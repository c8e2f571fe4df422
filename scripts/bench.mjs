/** `npm run bench`: what the relay's parts cost, beside the least that could be done, measured in one run. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

import { node, prepare, root } from './prepare.mjs';

/** By name, as in `npm run bench -- evaluation`, and what they need to have on the PATH. */
const benches = {
  rebuild: ['nats-server', 'redis-server'],
  evaluation: [],
  streams: ['nats-server', 'redis-server'],
  reads: ['nats-server', 'redis-server'],
  start: [],
  metrics: ['nats-server', 'redis-server'],
};

const asked = process.argv.slice(2);
const names = asked.length > 0 ? asked : Object.keys(benches);
const unknown = names.filter((name) => !(name in benches));
if (unknown.length > 0) {
  console.error(`There is no bench ${unknown.join(', ')}, but ${Object.keys(benches).join(', ')}.`);
  process.exit(1);
}
prepare(names.flatMap((name) => benches[name]));
for (const name of names) {
  const { status } = spawnSync(node, ['--expose-gc', join(root, 'bench', `${name}.mjs`)], {
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (status !== 0) process.exit(status ?? 1);
}
