import { readFileSync } from 'node:fs';

import { type Command } from 'commander';

import { envFileFindings, envFileReport } from './env-file-report.js';
import { DONE, FAILED, reasonOf, UsageError } from './outcome.js';

const EXAMPLES = `
Examples:
  ff-relay check --env-file old.env

Ends with 1 if a line cannot be used, or one is missing. Nothing is changed, and secrets are not shown.`;

export function addCheck(program: Command): void {
  program
    .command('check')
    .summary('say what the lines of an env-file mean to this relay')
    .description(
      'Tells of each line of an env-file, for example that of a Go relay, whether it is kept, has another name, or has\n' +
        'no meaning here, and what takes its place.',
    )
    .requiredOption('--env-file <file>', 'with lines NAME=value')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

function run({ envFile }: { readonly envFile: string }): void {
  const findings = envFileFindings(textIn(envFile));
  console.log(envFileReport(findings));
  process.exitCode = findings.some(({ level }) => level === 'fail') ? FAILED : DONE;
}

function textIn(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`--env-file: ${reasonOf(error)}`);
  }
}
