import type { Command } from 'commander';

import { RelayConfig } from '#libs/config';
import { apiKeysOf, flagsOf, segmentsOf } from '#libs/domain';
import type { EventLog } from '#libs/event-log';
import { type EntityName, foldUntil, type Moment, type Past } from '#libs/projection';

import { argument, moment } from './argument.js';
import { CommandFailed, counted } from './outcome.js';
import { showingProgress } from './progress.js';
import { openTarget, prefixIn } from './replay-target.js';
import { readingLog } from './services.js';
import { environmentsIn } from './state-json.js';

/** So many are named; a file has all. */
const NAMED = 20;

const EXAMPLES = `
Examples:
  ff-relay replay --until 2026-11-20T12:00Z --into noon.json
  ff-relay replay --until 812 --into - | jq '.environments[].flags[].feature'
  ff-relay replay --until 2026-11-20 --into redis:friday:

The log keeps the last 64 facts of each flag, target group and SDK key. Of one that changed more often since the moment,
nothing is known: it is named in a warning, and missing in the state.`;

interface Options {
  readonly until?: Moment;
  readonly into: string;
  readonly replace?: true;
  readonly strict?: true;
}

export function addReplay(program: Command): void {
  program
    .command('replay')
    .summary('write the state as it was at a moment')
    .description('Folds the facts of the log up to a moment, and writes the state that they make.')
    .option(
      '--until <moment>',
      'a position in the log, a time (2026-11-20T12:00Z) or a date; without it, all that the log says',
      moment,
    )
    .requiredOption(
      '--into <target>',
      'a file for JSON, - for standard output, or redis:<prefix>: for keys as the relay writes them',
      argument((text) => {
        if (text === '') throw new Error('it is empty');
        prefixIn(text);
        return text;
      }),
    )
    .option('--replace', 'with redis: remove what an earlier replay wrote with that prefix')
    .option('--strict', 'fail, and write nothing, if something of that moment is not known any more')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ until, into, replace, strict }: Options): Promise<void> {
  const config = new RelayConfig(process.env, []);
  const target = await openTarget(into, config, replace ?? false);
  try {
    const past = await readingLog(config, (log) =>
      read(log, until ?? { time: Number.POSITIVE_INFINITY }, '--until'),
    );
    warnOfForgotten(past.forgotten, 'the state lacks what was there of them');
    if (strict && past.forgotten.length > 0)
      throw new CommandFailed('Nothing was written, since --strict asks for all of it: take a later moment.');
    await showingProgress('Writing', (progress) => target.write(past, progress));
    const say = into === '-' ? console.error : console.log;
    say([summaryOf(past, target.place), ...(target.removal ? [target.removal] : [])].join('\n'));
  } finally {
    await target.close();
  }
}

/**
 * What the log said at a moment, with its progress on stderr. Throws CommandFailed for one that is still to come.
 *
 * @param option that named it
 */
export async function read(log: EventLog, moment: Moment, option: string): Promise<Past> {
  await expectReached(log, moment, option);
  return showingProgress('Reading the log', (progress) => foldUntil(log, moment, progress));
}

/** Throws CommandFailed if the log has not come to a moment. @param option that named it */
export async function expectReached(log: EventLog, moment: Moment, option: string): Promise<void> {
  const { sequence } = await log.head('FF_FACTS');
  if ('sequence' in moment && moment.sequence > sequence)
    throw new CommandFailed(`The log ends at position ${sequence}: name one up to there with ${option}.`);
}

/** Says on stderr what the log does not know any more. @param consequence what that means for what is written */
export function warnOfForgotten(forgotten: readonly EntityName[], consequence: string): void {
  if (forgotten.length === 0) return;
  const names = forgotten.slice(0, NAMED).map(({ environment, kind, identifier }) => {
    return `  ${kind} ${identifier}${kind === 'environment' ? '' : ` of ${environment}`}`;
  });
  const more = forgotten.length - names.length;
  console.error(
    [
      `Warning: of ${counted(forgotten.length, 'entity', 'entities')} the log keeps later facts only, so ${consequence}:`,
      ...names,
      ...(more > 0 ? [`  and ${more} more (all are in the JSON)`] : []),
    ].join('\n'),
  );
}

function summaryOf(past: Past, place: string): string {
  const { fold, time, first } = past;
  if (time === undefined) {
    const begins = first
      ? `The log begins later, with fact ${first.sequence} of ${new Date(first.time).toISOString()}`
      : 'The log has no facts';
    return `${begins}: the state is empty, ${place}`;
  }
  const states = environmentsIn(past);
  const [flags, segments, apiKeys] = [flagsOf, segmentsOf, apiKeysOf].map((listed) =>
    states.reduce((sum, state) => sum + listed(state).length, 0),
  );
  const contents = [
    counted(states.length, 'environment'),
    counted(flags ?? 0, 'flag'),
    counted(segments ?? 0, 'target group'),
    counted(apiKeys ?? 0, 'SDK key'),
  ].join(', ');
  const missing = fold.complete ? '' : '. The log did not hold the whole account at that moment';
  const last = `fact ${fold.position.sequence} of ${new Date(time).toISOString()}`;
  return `The state after ${last}: ${contents}, ${place}${missing}`;
}
