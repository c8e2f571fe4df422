import type { Command } from 'commander';

import {
  type BundleEnvironment,
  BundleError,
  type BundleOrigin,
  bundled,
  generateBundle,
  writeBundle,
} from '#libs/bundle';
import { RelayConfig } from '#libs/config';
import type { Moment, Past } from '#libs/projection';
import { withSaasClient } from '#libs/saas-client';

import { argument, moment } from './argument.js';
import { CommandFailed, counted, reasonOf, UsageError } from './outcome.js';
import { showingProgress } from './progress.js';
import { read, warnOfForgotten } from './replay.command.js';
import { readingLog } from './services.js';
import { environmentsIn } from './state-json.js';

const EXAMPLES = `
Examples:
  ff-relay export --into ./config                               all that the log says
  ff-relay export --into ./noon --at 2026-11-20T12:00Z          as it was then
  PROXY_KEY=… ff-relay export --into ./config --from-upstream   without a log

Serve it with OFFLINE=true and CONFIG_DIR, or load it into a control plane with ff-relay import.`;

interface Options {
  readonly into: string;
  readonly at?: Moment;
  readonly fromUpstream?: true;
  readonly replace?: boolean;
  readonly partial?: boolean;
}

export function addExport(program: Command): void {
  program
    .command('export')
    .summary('write a bundle: offline configuration')
    .description(
      'Writes flags, target groups and the hashes of SDK keys of all environments into a folder, in the layout of the\n' +
        'Go relay, with a manifest of what each file must hold. It reads the log beside the relay, which goes on.',
    )
    .requiredOption(
      '--into <folder>',
      'where to; it is made if it is not there',
      argument((text) => {
        if (text === '') throw new Error('it is empty');
        return text;
      }),
    )
    .option(
      '--at <moment>',
      'a position in the log, a time (2026-11-20T12:00Z) or a date; without it, all that the log says',
      moment,
    )
    .option('--from-upstream', 'read the upstream that PROXY_KEY and CLIENT_SERVICE name, and not the log')
    .option('--replace', 'put it in the place of a bundle that is there')
    .option(
      '--partial',
      'write it also if not all is known: it lacks the rest, and so does whoever serves it',
    )
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ into, at, fromUpstream, replace = false, partial = false }: Options): Promise<void> {
  if (fromUpstream && at) {
    throw new UsageError('The upstream only says what is so now: leave out --at, or --from-upstream.');
  }
  try {
    const said = fromUpstream
      ? await exportUpstream(into, replace, partial)
      : await exportLog(into, at ?? { time: Number.POSITIVE_INFINITY }, replace, partial);
    console.log(said);
  } catch (error) {
    if (error instanceof BundleError) throw new CommandFailed(error.message, { cause: error });
    throw error;
  }
}

async function exportLog(into: string, at: Moment, replaces: boolean, partial: boolean): Promise<string> {
  const past = await readingLog(new RelayConfig(process.env, []), (log) => read(log, at, '--at'));
  warnOfForgotten(past.forgotten, 'the bundle would lack what was there of them');
  const { fold, time, forgotten } = past;
  const states = environmentsIn(past);
  if (time === undefined || states.length === 0) {
    throw new CommandFailed('There were no environments at that moment, so there is nothing to export.');
  }
  if (!partial) refusePart(past);
  const environments = states.map(bundled);
  const origin: BundleOrigin = {
    source: 'log',
    position: fold.position,
    time: new Date(time).toISOString(),
    writtenAt: new Date().toISOString(),
    complete: fold.complete && forgotten.length === 0,
    leftOut: forgotten.map(({ environment, kind, identifier }) => `${kind} ${identifier} of ${environment}`),
  };
  await showingProgress('Writing', (progress) =>
    writeBundle(into, environments, origin, { replaces, progress }),
  );
  return `The state after fact ${fold.position.sequence} of ${origin.time}: ${contentsOf(environments)}, in ${into}`;
}

/** A bundle that lacks something would take it from whoever serves it. */
function refusePart({ fold, forgotten }: Past): void {
  const reason = !fold.complete
    ? 'The log did not hold the whole account at that moment'
    : forgotten.length > 0
      ? 'Not all of that moment is known any more'
      : undefined;
  if (reason !== undefined)
    throw new CommandFailed(
      `${reason}, and nothing was written: take a later moment, or add --partial to write what there is.`,
    );
}

async function exportUpstream(into: string, replaces: boolean, partial: boolean): Promise<string> {
  const config = new RelayConfig(process.env, [], undefined, ['PROXY_KEY']);
  const { environments, leftOut } = await withSaasClient(config, (saas) =>
    generateBundle(saas, into, new AbortController().signal, { replaces, partial }),
  ).catch((error: unknown) => {
    if (error instanceof BundleError) throw error;
    throw new CommandFailed(`Nothing was written: ${reasonOf(error)}.`, { cause: error });
  });
  for (const fault of leftOut) console.error(`Warning: left out, since it cannot be used: ${fault}`);
  return `What ${config.clientService} says: ${contentsOf(environments)}, in ${into}`;
}

function contentsOf(environments: readonly BundleEnvironment[]): string {
  const sum = (list: 'flags' | 'segments' | 'apiKeys') =>
    environments.reduce((total, environment) => total + environment[list].length, 0);
  return [
    counted(environments.length, 'environment'),
    counted(sum('flags'), 'flag'),
    counted(sum('segments'), 'target group'),
    counted(sum('apiKeys'), 'SDK key'),
  ].join(', ');
}
