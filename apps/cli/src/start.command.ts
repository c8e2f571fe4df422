import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import type { Command } from 'commander';

import { givenSettings, RelayConfig, startedAs } from '#libs/config';

import { CommandFailed, FAILED } from './outcome.js';

/** Of the relay, and of the demo with its control plane: as files, since no app is part of another. */
const RELAY = new URL('../../relay/src/main.js', import.meta.url);
const LAUNCHER = new URL('../../../../scripts/start.mjs', import.meta.url);

const EXAMPLES = `
Examples:
  ff-relay start --demo
  PROXY_KEY=… AUTH_SECRET=$(openssl rand -hex 32) ff-relay start
  ff-relay check && ff-relay start
  ff-relay start --env-file relay.env --port 7005
  ff-relay start -- --help

Each setting is a flag, too: the last example lists them all, docs/settings.md says more. SIGTERM and Ctrl-C let requests and streams end first (SHUTDOWN_GRACE), and end it with 0.`;

export function addStart(program: Command): void {
  program
    .command('start')
    .summary('run the relay')
    .description(
      'Runs the relay in this process: all its roles, or with READ_REPLICA=true a gateway beside others. ' +
        'Without NATS_URL and REDIS_ADDRESS the log is in DATA_DIR, and the state in memory.',
    )
    .argument('[flags...]', 'settings, such as --port 7005')
    .allowUnknownOption()
    .option('--demo', 'the demo: a control plane with four flags, and a relay beside it')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run(flags: readonly string[], { demo }: { readonly demo?: true }): Promise<void> {
  if (demo) return runDemo(flags);
  // For its faults, which end this as those of any command do.
  const { environment, ...told } = givenSettings(flags, process.env);
  const { roles, required } = startedAs(environment);
  void new RelayConfig(environment, roles, told, required);
  // A terminal that is closed asks for it as Ctrl-C does.
  process.once('SIGHUP', () => process.kill(process.pid, 'SIGTERM'));
  // The workers of a gateway are this program again, and are to be relays.
  process.argv.splice(1, process.argv.length - 1, fileURLToPath(RELAY), ...flags);
  await import(RELAY.href);
}

async function runDemo(flags: readonly string[]): Promise<void> {
  const launcher = fileURLToPath(LAUNCHER);
  if (!existsSync(launcher))
    throw new CommandFailed("The demo is not part of this installation: run it in the project's folder.");
  const demo = spawn(process.execPath, ['--', launcher, '--demo', ...flags], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => demo.kill(signal));
  const [code] = (await once(demo, 'exit')) as [number | null];
  process.exitCode = code ?? FAILED;
}
