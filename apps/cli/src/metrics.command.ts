import type { Command } from 'commander';

import { RelayConfig } from '#libs/config';
import {
  evaluationsIn,
  parkedIn,
  type ParkedReport,
  parkedSubjectsOf,
  reportBody,
  reportSubject,
} from '#libs/domain';
import type { EventLog, LoggedMessage } from '#libs/event-log';

import { counted } from './outcome.js';
import { showingProgress } from './progress.js';
import { withLog } from './services.js';

const STREAM = 'FF_METRICS_PARKED';

const EXAMPLES = `
Examples:
  ff-relay metrics parked                 what the upstream refused, and why
  ff-relay metrics parked --json | jq '.[].reason'
  ff-relay metrics resend                 send all of it again, once the reason is gone
  ff-relay metrics resend --environment 10000000-0000-4000-8000-000000000001`;

interface Options {
  readonly environment?: string;
  readonly json?: true;
}

/** A message that is parked, and where. */
interface Parked {
  readonly at: LoggedMessage;
  readonly parked: ParkedReport;
}

export function addMetrics(program: Command): void {
  const metrics = program
    .command('metrics')
    .summary('see and send again evaluation counts that the upstream refused')
    .description(
      'Counts that the upstream will not take are parked in the log, with its answer, for 30 days and up to 256 MiB.\n' +
        'A relay in one process has to be stopped for it, since its log belongs to one process.',
    )
    .addHelpText('after', EXAMPLES);
  metrics
    .command('parked')
    .description(
      'Lists what is parked: by environment and reason, or with --json each message with its counts.',
    )
    .option('--environment <id>', 'only of this environment')
    .option('--json', 'as JSON')
    .action(list);
  metrics
    .command('resend')
    .description(
      'Puts what is parked back into the queue of the metrics-forwarder. What is refused once more is parked again.\n' +
        'One that was interrupted may be called again: then one message may be counted twice.',
    )
    .option('--environment <id>', 'only of this environment')
    .action(resend);
}

async function list({ environment, json }: Options): Promise<void> {
  await withLog(new RelayConfig(process.env, []), async (log) => {
    const all: Parked[] = [];
    for await (const some of read(log, environment)) all.push(...some);
    console.log(json ? JSON.stringify(all.map(inJson), undefined, 2) : inWords(all));
  });
}

async function resend({ environment }: Options): Promise<void> {
  await withLog(new RelayConfig(process.env, []), async (log) => {
    let [messages, evaluations, unreadable] = [0, 0, 0];
    const { messages: all } = await log.backlog(STREAM);
    await showingProgress('Sending again', async (progress) => {
      for await (const some of read(log, environment)) {
        for (const { at, parked } of some) {
          if (!parked.report) {
            unreadable++;
            continue;
          }
          // Parked again, it has another place; so its id is another, and a forwarder does not take it for what it posted.
          const id = `${parked.id}.${at.position.sequence}`;
          const body = reportBody(parked.report, { id, time: at.time });
          await log.append('FF_METRICS', { subject: reportSubject(parked.report), id, body });
          await log.remove(STREAM, at.position);
          messages++;
          evaluations += evaluationsIn(parked.report);
          progress(messages, all);
        }
      }
    });
    console.log(
      messages === 0
        ? 'Nothing is parked that could be sent again.'
        : `${counted(messages, 'message')} with ${counted(evaluations, 'evaluation')} will be sent again by the metrics-forwarder.`,
    );
    if (unreadable > 0)
      console.log(
        `${counted(unreadable, 'message')} that nobody can read stayed: see ff-relay metrics parked --json`,
      );
  });
}

async function* read(log: EventLog, environment: string | undefined): AsyncIterable<readonly Parked[]> {
  const prefix = environment === undefined ? undefined : parkedSubjectsOf(environment);
  for await (const messages of log.latest(STREAM, prefix)) {
    yield messages.map((at) => ({ at, parked: parkedIn(at.body) }));
  }
}

function inJson({ at, parked }: Parked): object {
  return { parkedAt: new Date(at.time).toISOString(), ...parked };
}

function inWords(all: readonly Parked[]): string {
  if (all.length === 0) return 'Nothing is parked.';
  const groups = Map.groupBy(all, ({ parked }) => `${parked.environment}: ${parked.reason}`);
  const lines = [...groups].map(([name, group]) => {
    const since = new Date(Math.min(...group.map(({ at }) => at.time))).toISOString();
    return `  ${name}\n    ${totalOf(group)}, since ${since}`;
  });
  return [`Parked: ${totalOf(all)}`, ...lines, 'Send it again with: ff-relay metrics resend'].join('\n');
}

function totalOf(all: readonly Parked[]): string {
  const evaluations = all.reduce(
    (sum, { parked }) => sum + (parked.report ? evaluationsIn(parked.report) : 0),
    0,
  );
  return `${counted(all.length, 'message')} with ${counted(evaluations, 'evaluation')}`;
}
