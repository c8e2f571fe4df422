import { Command, CommanderError } from 'commander';

import { SettingsError } from '#libs/config';

import { addCheck } from './check.command.js';
import { addCompletion } from './completion.js';
import { addDiff } from './diff.command.js';
import { addEvents } from './events.command.js';
import { addExport } from './export.command.js';
import { addImport } from './import.command.js';
import { addMetrics } from './metrics.command.js';
import { DONE, FAILED, reasonOf, UsageError, WRONG_USAGE } from './outcome.js';
import { addRebuild } from './rebuild.command.js';
import { addReplay } from './replay.command.js';
import { addStart } from './start.command.js';
import { addStatus } from './status.command.js';

/** In the order of the help. */
const COMMANDS = [
  addStart,
  addCheck,
  addStatus,
  addEvents,
  addDiff,
  addReplay,
  addRebuild,
  addMetrics,
  addExport,
  addImport,
];
/** It stops in its own time. */
const LONG_LIVED = new Set(['start']);

const program = new Command('ff-relay')
  .description(
    'Runs ff-relay, looks after it, and works on its log and state. Settings come from the environment: ' +
      'NATS_URL, REDIS_ADDRESS, DATA_DIR and the others of docs/settings.md.',
  )
  .showHelpAfterError()
  .exitOverride()
  .addHelpText('afterAll', `\nExit codes: ${DONE} done, ${FAILED} failed, ${WRONG_USAGE} wrong usage.`)
  .hook('preAction', (_, command) => {
    if (!LONG_LIVED.has(command.name())) endAtOnce();
  });
for (const add of COMMANDS) add(program);
addCompletion(program);

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
  // Commander has said its own already.
  if (!(error instanceof CommanderError)) console.error(reasonOf(error));
}

/** When a person asks for it, and when the process is gone that started this one. */
function endAtOnce(): void {
  for (const [signal, code] of [['SIGINT', 130] as const, ['SIGTERM', 143] as const]) {
    process.once(signal, () => process.exit(code));
  }
  process.once('disconnect', () => process.exit(143));
  process.channel?.unref();
}

function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? DONE : WRONG_USAGE;
  return error instanceof UsageError || error instanceof SettingsError ? WRONG_USAGE : FAILED;
}
