import { expect } from '@jest/globals';

import { type Process, run } from './processes.js';

/** The command, as a process: after `--`, --env-file is its own and not Node's. */
export const ffRelay = (args: readonly string[], environment: NodeJS.ProcessEnv = {}): Process =>
  run(process.execPath, ['--', 'scripts/ff-relay.mjs', ...args], environment);

/** Calls it, and returns what it printed. */
export async function done(args: readonly string[], environment?: NodeJS.ProcessEnv): Promise<string> {
  const called = ffRelay(args, environment);
  const code = await called.exited;
  if (code !== 0) throw new Error(`ff-relay ${args.join(' ')} ended with ${String(code)}:\n${called.output}`);
  return called.output;
}

/** Calls it, and returns what it printed when it failed with that exit code. */
export async function refused(
  exitCode: number,
  args: readonly string[],
  environment?: NodeJS.ProcessEnv,
): Promise<string> {
  const called = ffRelay(args, environment);
  expect({ code: await called.exited, output: called.output }).toMatchObject({ code: exitCode });
  expect(called.output).not.toMatch(/^\s+at /m);
  return called.output;
}

export const A_SENTENCE = /^[^\n]+\.\n$/;
