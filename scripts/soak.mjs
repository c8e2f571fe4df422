/**
 * `npm run soak -- --seeds 500 --from 1 --lag 80`: the random test of the upstream link (test/soak.e2e.ts) with many seeds,
 * on all cores. One fails too if it does not agree `--within` so many ms after the last fault. Ends with 1 if one fails,
 * after all have run.
 */
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { node, prepare, root } from './prepare.mjs';

/** Seeds for one process. */
const PORTION = 20;

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '500' },
    from: { type: 'string', default: '1' },
    lag: { type: 'string', default: '80' },
    within: { type: 'string', default: '10000' },
  },
});
const first = wholeNumber('from');
const end = first + wholeNumber('seeds');
const lagMs = wholeNumber('lag');
const withinMs = wholeNumber('within');

prepare();
const startedAt = Date.now();
const failed = [];
let next = first;
let done = 0;
let longestMs = 0;
await Promise.all(Array.from({ length: availableParallelism() }, work));
if (failed.length > 0) {
  console.error(`Failed: ${failed.join(', ')}. One alone: SOAK_SEED=${failed[0]} npm test -- test/soak`);
}
process.exit(failed.length > 0 ? 1 : 0);

async function work() {
  while (next < end) {
    const from = next;
    const seeds = Math.min(PORTION, end - from);
    next += seeds;
    const { failed: hasFailed, output } = await run(from, seeds);
    done += seeds;
    const [, agreedAfterMs = 0] = /all agreed (\d+) ms after/.exec(output) ?? [];
    longestMs = Math.max(longestMs, Number(agreedAfterMs));
    if (hasFailed) {
      const named = [...new Set([...output.matchAll(/^.*\bseed (\d+): /gm)].map(([, seed]) => seed))];
      failed.push(...(named.length > 0 ? named : [`some of ${from} to ${from + seeds - 1}`]));
      console.error(output);
    }
    const seconds = Math.round((Date.now() - startedAt) / 1000);
    console.log(
      `${done} of ${end - first} seeds in ${seconds} s, ${failed.length} failed; all agreed within ${longestMs} ms`,
    );
  }
}

async function run(from, seeds) {
  const jest = join(root, 'node_modules', 'jest', 'bin', 'jest.js');
  // A relay that does not stop is a failure, and no reason to wait.
  const args = ['--experimental-vm-modules', jest, '--forceExit', 'test/soak.e2e.ts'];
  const child = spawn(node, args, {
    cwd: root,
    env: {
      ...process.env,
      SOAK_FROM: String(from),
      SOAK_SEEDS: String(seeds),
      SOAK_LAG_MS: String(lagMs),
      SOAK_AGREE_WITHIN_MS: String(withinMs),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    shell: process.platform === 'win32',
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
  const code = await new Promise((ended) => child.once('close', ended));
  return { failed: code !== 0, output };
}

function wholeNumber(name) {
  const value = values[name];
  if (/^\d+$/.test(value)) return Number(value);
  console.error(`--${name} needs a whole number, not ${JSON.stringify(value)}.`);
  process.exit(2);
}
