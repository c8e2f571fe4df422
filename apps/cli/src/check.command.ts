import { readFileSync } from 'node:fs';

import { type Command, Option } from 'commander';

import { type Role, ROLES, startedAs } from '#libs/config';

import { findings } from './checks.js';
import { envFileFindings } from './env-file.js';
import { type Finding, findingLines, summaryOf } from './finding.js';
import { DONE, FAILED, reasonOf, UsageError } from './outcome.js';
import { paintFor, print } from './terminal.js';

const EXAMPLES = `
Examples:
  ff-relay check
  ff-relay check --role gateway
  ff-relay check --env-file old.env
  ff-relay check --json | jq '.[] | select(.level != "ok")'

Nothing is changed anywhere, and secrets are not shown. Ends with 1 if something failed, with --strict also if something
is to be looked at.`;

interface Options {
  readonly role?: Role;
  readonly envFile?: string;
  readonly strict?: true;
  readonly json?: true;
}

export function addCheck(program: Command): void {
  program
    .command('check')
    .summary('say whether the relay could run here, or what an env-file means')
    .description(
      'Tries what the relay needs: settings, upstream and proxy key (or with OFFLINE the bundle), clock, certificates, ' +
        'disk or NATS, Redis, secrets. Each line is ok, warn or fail, and says what to do.',
    )
    .addOption(
      new Option('--role <role>', 'what the process is to run; without it, all roles').choices(ROLES),
    )
    .addOption(
      new Option(
        '--env-file <file>',
        'only say what each line of it (NAME=value), for example of a Go relay, means here',
      ).conflicts('role'),
    )
    .option('--strict', 'fail also where something is to be looked at')
    .option('--json', 'one JSON list')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ role, envFile, strict, json }: Options): Promise<void> {
  const environment = process.env;
  const paint = paintFor(process.stdout);
  const found: Finding[] = [];
  if (envFile === undefined) {
    const checked = role ? { roles: [role], required: [] } : startedAs(environment);
    for await (const finding of findings({ environment, ...checked })) {
      found.push(finding);
      if (!json) for (const line of findingLines(finding, paint)) print(line);
    }
  } else {
    found.push(...envFileFindings(textIn(envFile)));
    const width = Math.max(0, ...found.map(({ subject }) => subject.length));
    if (!json)
      for (const finding of found) for (const line of findingLines(finding, paint, width)) print(line);
  }
  print(json ? JSON.stringify(found, undefined, 2) : `\n${summaryOf(found)}`);
  const isBad = ({ level }: Finding) => level === 'fail' || (strict && level === 'warn');
  process.exitCode = found.some(isBad) ? FAILED : DONE;
}

function textIn(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`--env-file: ${reasonOf(error)}`);
  }
}
