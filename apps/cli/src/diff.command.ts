import type { Command } from 'commander';

import { RelayConfig } from '#libs/config';
import type { EventLog } from '#libs/event-log';
import { type EntityName, foldUntil, type Moment, type Past } from '#libs/projection';

import { moment } from './argument.js';
import { EnvironmentNames, entryOf, fieldLines, nameOf } from './change-text.js';
import { type Change, changesBetween } from './changes.js';
import { counted, UsageError } from './outcome.js';
import { showingProgress } from './progress.js';
import { expectReached, warnOfForgotten } from './replay.command.js';
import { readingLog } from './services.js';
import { paintFor, print } from './terminal.js';

const EXAMPLES = `
Examples:
  ff-relay diff --from 2026-11-20T12:00Z
  ff-relay diff --from 2026-11-20 --to 2026-11-21
  ff-relay diff --from 812 --to 840 --json | jq '.changes[] | select(.kind == "flag") | .identifier'`;

interface Options {
  readonly from: Moment;
  readonly to?: Moment;
  readonly json?: true;
}

interface Comparison {
  readonly from: Past;
  readonly to: Past;
  readonly unknown: readonly EntityName[];
  readonly changes: readonly Change[];
}

export function addDiff(program: Command): void {
  program
    .command('diff')
    .summary('say what changed between two moments')
    .description(
      'Compares what the log says at two moments: which environments, flags, target groups and SDK keys were added, ' +
        'removed and changed, and in which fields. What changed and was changed back in between does not show.',
    )
    .requiredOption(
      '--from <moment>',
      'a position in the log, a time (2026-11-20T12:00Z) or a date, its first moment',
      moment,
    )
    .option('--to <moment>', 'the same; without it, all that the log says now', moment)
    .option('--json', 'one JSON document, with each entity as it was before and after')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ from, to, json }: Options): Promise<void> {
  const config = new RelayConfig(process.env, []);
  const comparison = await readingLog(config, (log) =>
    compare(log, from, to ?? { time: Number.POSITIVE_INFINITY }),
  );
  if (json) print(jsonOf(comparison));
  else {
    warnOfForgotten(comparison.unknown, 'nothing is told of them');
    print(textOf(comparison));
  }
}

async function compare(log: EventLog, first: Moment, second: Moment): Promise<Comparison> {
  await expectReached(log, first, '--from');
  await expectReached(log, second, '--to');
  const read = (which: string, at: Moment) =>
    showingProgress(`Reading the log up to ${which}`, (progress) => foldUntil(log, at, progress));
  const from = await read('--from', first);
  const to = await read('--to', second);
  if (from.fold.position.sequence > to.fold.position.sequence)
    throw new UsageError('--from is later than --to: give the earlier moment to --from.');
  const names = new Map([...from.forgotten, ...to.forgotten].map((name) => [JSON.stringify(name), name]));
  const unknown = [...names.values()];
  return { from, to, unknown, changes: changesBetween(from.fold.states, to.fold.states, unknown) };
}

function jsonOf({ from, to, unknown, changes }: Comparison): string {
  const momentOf = ({ fold, time }: Past) => ({
    position: fold.position,
    time: time === undefined ? null : new Date(time).toISOString(),
  });
  return JSON.stringify({ from: momentOf(from), to: momentOf(to), unknown, changes }, undefined, 2);
}

function textOf({ from, to, changes }: Comparison): string {
  const paint = paintFor(process.stdout);
  const names = new EnvironmentNames([...from.fold.states.values(), ...to.fold.states.values()]);
  const sections = [...Map.groupBy(changes, ({ environment }) => environment)].map(([id, of]) => {
    const name = names.of(id);
    const heading = paint('bold', name) + (name === id ? '' : paint('dim', `  ${id}`));
    const width = Math.max(...of.map((change) => nameOf(change).length));
    const entries = of.flatMap((change) => [
      `  ${entryOf(change, width, paint)}`,
      ...fieldLines(change.fields, paint).map((line) => `      ${line}`),
    ]);
    return [heading, ...entries, ''];
  });
  return [...sections.flat(), summaryOf(from, to, changes)].join('\n');
}

function summaryOf(from: Past, to: Past, changes: readonly Change[]): string {
  const [first, last] = [from, to].map(({ fold, time }) =>
    time === undefined
      ? 'the beginning of the log'
      : `fact ${fold.position.sequence} of ${new Date(time).toISOString()}`,
  );
  const count = (verb: Change['change']) => changes.filter(({ change }) => change === verb).length;
  const parts = (['added', 'removed', 'changed'] as const).flatMap((verb) => {
    return count(verb) > 0 ? [`${count(verb)} ${verb}`] : [];
  });
  const outcome =
    changes.length === 0
      ? 'nothing differs'
      : `${counted(changes.length, 'difference')} (${parts.join(', ')})`;
  return `From ${first} to ${last}: ${outcome}`;
}
