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
import { EmbeddedEventLog, type EventLog, type LoggedMessage } from '#libs/event-log';

import { CommandFailed, counted } from './outcome.js';
import { showingProgress } from './progress.js';
import { readingLog, withLog } from './services.js';
import { print, printable } from './terminal.js';

const STREAM = 'FF_METRICS_PARKED';
const NOTHING_TO_SEND = 'Nothing is parked that could be sent again.';

const LIST_EXAMPLES = `
Examples:
  ff-relay metrics parked                 what the upstream refused, and why
  ff-relay metrics parked --json | jq '.[].reason'`;
const RESEND_EXAMPLES = `
Examples:
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
      'Counts that the upstream will not take are parked in the log, with its answer, for 30 days and up to 256 MiB.',
    );
  metrics
    .command('parked')
    .description(
      'Lists what is parked: by environment and reason, or with --json each message with its counts.',
    )
    .option('--environment <id>', 'only of this environment')
    .option('--json', 'as JSON')
    .addHelpText('after', LIST_EXAMPLES)
    .action(list);
  metrics
    .command('resend')
    .description(
      'Puts what is parked back into the queue of the metrics-forwarder. What is refused once more is parked again.\n' +
        'One that was interrupted may be called again: then one message may be counted twice.\n' +
        'A relay in one process has to be stopped for it, since its log is written by one process.',
    )
    .option('--environment <id>', 'only of this environment')
    .addHelpText('after', RESEND_EXAMPLES)
    .action(resend);
}

async function list({ environment, json }: Options): Promise<void> {
  await readingLog(new RelayConfig(process.env, []), async (log) => {
    if (json) await printJson(log, environment);
    else print(await inWords(log, environment));
  });
}

async function resend({ environment }: Options): Promise<void> {
  const config = new RelayConfig(process.env, []);
  const { messages: all } = await readingLog(config, (log) => log.backlog(STREAM));
  if (all === 0) return print(NOTHING_TO_SEND);
  const holder = config.natsUrl === undefined ? EmbeddedEventLog.holder(config.dataDir) : undefined;
  if (holder !== undefined) {
    throw new CommandFailed(
      `The log in DATA_DIR ${config.dataDir} is written by ${holder}, and by nobody else while that runs. ` +
        'Stop that relay, call this again, then start it: what is parked stays parked, and SDKs keep their counts meanwhile.',
    );
  }
  await withLog(config, async (log) => {
    let [messages, evaluations, unreadable] = [0, 0, 0];
    await showingProgress('Sending again', async (progress) => {
      for await (const some of read(log, environment)) {
        for (const { at, parked } of some) {
          if (!parked.report) {
            unreadable++;
            continue;
          }
          // Parked again, it has another place; so its id is another, and a forwarder does not take it for what it posted.
          const id = `${parked.id}.again-${at.position.sequence}`;
          const body = reportBody(parked.report, { id, time: at.time });
          await log.append('FF_METRICS', { subject: reportSubject(parked.report), id, body });
          await log.remove(STREAM, at.position);
          messages++;
          evaluations += evaluationsIn(parked.report);
          progress(messages, all);
        }
      }
    });
    print(
      messages === 0
        ? NOTHING_TO_SEND
        : `${counted(messages, 'message')} with ${counted(evaluations, 'evaluation')} will be sent again by the metrics-forwarder.`,
    );
    if (unreadable > 0)
      print(
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

/** One after the other: what is parked may be more than fits in memory. */
async function printJson(log: EventLog, environment: string | undefined): Promise<void> {
  let isFirst = true;
  for await (const some of read(log, environment)) {
    for (const { at, parked } of some) {
      print(
        `${isFirst ? '[' : ','}${JSON.stringify({ parkedAt: new Date(at.time).toISOString(), ...parked })}`,
      );
      isFirst = false;
    }
  }
  print(isFirst ? '[]' : ']');
}

interface Tally {
  messages: number;
  evaluations: number;
}

async function inWords(log: EventLog, environment: string | undefined): Promise<string> {
  const all: Tally = { messages: 0, evaluations: 0 };
  const groups = new Map<string, Tally & { readonly since: number }>();
  for await (const some of read(log, environment)) {
    for (const { at, parked } of some) {
      const name = `${printable(parked.environment)}: ${printable(parked.reason)}`;
      const group = groups.get(name) ?? { messages: 0, evaluations: 0, since: at.time };
      groups.set(name, group);
      for (const tally of [all, group]) {
        tally.messages++;
        tally.evaluations += parked.report ? evaluationsIn(parked.report) : 0;
      }
    }
  }
  if (all.messages === 0) return 'Nothing is parked.';
  const lines = [...groups].map(
    ([name, group]) => `  ${name}\n    ${textOf(group)}, since ${new Date(group.since).toISOString()}`,
  );
  return [`Parked: ${textOf(all)}`, ...lines, 'Send it again with: ff-relay metrics resend'].join('\n');
}

function textOf({ messages, evaluations }: Tally): string {
  return `${counted(messages, 'message')} with ${counted(evaluations, 'evaluation')}`;
}
