import { Command, CommanderError } from 'commander';

import { SettingsError } from '#libs/config';

import { addCheck } from './check.command.js';
import { addExport } from './export.command.js';
import { addImport } from './import.command.js';
import { DONE, FAILED, reasonOf, UsageError, WRONG_USAGE } from './outcome.js';
import { addRebuild } from './rebuild.command.js';
import { addReplay } from './replay.command.js';

const COMMANDS = [addCheck, addRebuild, addReplay, addExport, addImport];

const program = new Command('ff-relay')
  .description(
    "Works on the log and the state of ff-relay. Settings come from the environment, as the relay's own do:\n" +
      'NATS_URL, REDIS_ADDRESS, DATA_DIR and those that belong to them.',
  )
  .showHelpAfterError()
  .exitOverride()
  .addHelpText('afterAll', `\nExit codes: ${DONE} done, ${FAILED} failed, ${WRONG_USAGE} wrong usage.`);
for (const add of COMMANDS) add(program);

for (const [signal, code] of [['SIGINT', 130] as const, ['SIGTERM', 143] as const]) {
  process.once(signal, () => process.exit(code));
}
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
  // Commander has said its own already.
  if (!(error instanceof CommanderError)) console.error(reasonOf(error));
}

function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? DONE : WRONG_USAGE;
  return error instanceof UsageError || error instanceof SettingsError ? WRONG_USAGE : FAILED;
}
