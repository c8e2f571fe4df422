import { type Command, Option } from 'commander';

import { RelayConfig } from '#libs/config';
import type { Kind } from '#libs/domain';
import {
  type EventLog,
  type LoggedMessage,
  type OrderedStream,
  STREAMS,
  UnknownEpoch,
} from '#libs/event-log';
import { foldLog, LogFold, type Moment } from '#libs/projection';

import { argument, moment } from './argument.js';
import { EnvironmentNames, fieldLines, nameOf, outcomeOf } from './change-text.js';
import {
  factEvents,
  isWanted,
  jsonOf,
  type LoggedEvent,
  noticeEvents,
  type Wanted,
} from './logged-events.js';
import { CommandFailed, UsageError } from './outcome.js';
import { showingProgress } from './progress.js';
import { readingLog } from './services.js';
import { type Paint, paintFor, print, printable } from './terminal.js';

const STREAM_OF: Record<string, readonly OrderedStream[]> = {
  facts: ['FF_FACTS'],
  notices: ['FF_CHANGES'],
  both: ['FF_FACTS', 'FF_CHANGES'],
};
/** As they are called here, and in the subjects of the log. */
const KINDS: Record<string, readonly Kind[]> = {
  flag: ['flag'],
  group: ['segment'],
  segment: ['segment'],
  key: ['apikey'],
  apikey: ['apikey'],
  environment: ['environment'],
  account: ['snapshot', 'proxykey'],
};
const SINCE = 'from there on: a position, a time (2026-11-20T12:00Z) or a date';
/** Wide enough for most; what is wider moves only its own line. */
const NAME_COLUMN = 28;
const SEQUENCE_COLUMN = 5;

const LIST_EXAMPLES = `
Examples:
  ff-relay events list --id dark-mode
  ff-relay events list --environment prod --since 2026-11-20T12:00Z --until 2026-11-20T13:00Z
  ff-relay events list --kind flag --last 10
  ff-relay events list --json | jq -r '[.time, .subject, .change] | @tsv'

The log keeps the last 64 facts of each flag, target group and SDK key, and notices for 7 days. Where the fact before
is not kept, an entity is "published" and not "added" or "changed".`;

const FOLLOW_EXAMPLES = `
Examples:
  ff-relay events follow
  ff-relay events follow --environment prod --kind flag
  ff-relay events follow --since 812 --json >> facts.jsonl
  ff-relay events follow --stream notices --json | while read -r line; do …; done

Goes on until Ctrl-C, also over restarts of the relay or of NATS.`;

interface Options {
  readonly stream: string;
  readonly environment?: readonly string[];
  readonly kind?: readonly Kind[];
  readonly id?: readonly string[];
  readonly since?: Moment;
  readonly until?: Moment;
  readonly last?: number;
  readonly json?: true;
}

export function addEvents(program: Command): void {
  const events = program
    .command('events')
    .summary('show the facts and notices of the log')
    .description(
      'A fact is what became true upstream; a notice, what SDKs were told once they could read it. ' +
        'Each fact is shown with the fields that it changed.',
    );
  withFilters(
    events
      .command('list')
      .summary('those that are there')
      .description('Shows what the log holds, in its order.'),
  )
    .option('--since <moment>', SINCE, moment)
    .option('--until <moment>', 'up to there, and with it', moment)
    .option('--last <count>', 'only the last so many of them', argument(countIn))
    .addHelpText('after', LIST_EXAMPLES)
    .action((options: Options) => list(options));
  withFilters(
    events
      .command('follow')
      .summary('those to come')
      .description('Shows what is appended to the log from now on.'),
  )
    .option('--since <moment>', `also what is there ${SINCE}`, moment)
    .addHelpText('after', FOLLOW_EXAMPLES)
    .action((options: Options) => follow(options));
}

function withFilters(command: Command): Command {
  return command
    .addOption(
      new Option('--stream <name>', 'which of the two').choices(Object.keys(STREAM_OF)).default('facts'),
    )
    .option('--environment <name...>', 'only of these: UUIDs, or names as flags have them (dev, demo/dev)')
    .option(
      '--kind <kind...>',
      'only of these: flag, group, key, environment, account',
      (text: string, before: readonly Kind[] | undefined) => [...(before ?? []), ...argument(kindsIn)(text)],
    )
    .option('--id <identifier...>', 'only of these flags, target groups or hashes of SDK keys')
    .option('--json', 'a JSON document a line');
}

async function list(options: Options): Promise<void> {
  await readingLog(new RelayConfig(process.env, []), async (log) => {
    const names = await namesIn(log);
    const wanted = wantedBy(options, names);
    const show = printer(options, names);
    const streams = STREAM_OF[options.stream] ?? [];
    const sources = streams.map((stream) => eventsOf(log, stream, upToEnd(log, stream)));
    const last: LoggedEvent[] = [];
    for await (const event of inOrderOfTime(sources)) {
      if (!isWanted(event, wanted)) continue;
      if (options.last === undefined) show(event);
      else if (last.push(event) > options.last) last.shift();
    }
    for (const event of last) show(event);
  });
}

async function follow(options: Options): Promise<void> {
  await readingLog(new RelayConfig(process.env, []), async (log) => {
    const fold = await foldLog(log);
    const names = new EnvironmentNames(fold.states.values());
    const wanted = wantedBy(options, names);
    const show = printer(options, names);
    const streams = STREAM_OF[options.stream] ?? [];
    if (process.stderr.isTTY) {
      const after = options.since ? '' : ` after fact ${fold.position.sequence}`;
      console.error(`Following ${streams.join(' and ')}${after}. Ctrl-C ends it.`);
    }
    const never = new AbortController().signal;
    const following = streams.map(async (stream) => {
      const events = options.since
        ? eventsOf(log, stream, log.tail(stream, undefined, never))
        : newEvents(log, stream, fold, never);
      for await (const event of events) if (isWanted(event, wanted)) show(event);
    });
    await Promise.all(following).catch((error: unknown) => {
      if (!(error instanceof UnknownEpoch)) throw error;
      throw new CommandFailed(
        `The log was lost or made anew: ${error.message}. Call this again to follow the new one.`,
        {
          cause: error,
        },
      );
    });
  });
}

/** What is appended from now on. @param fold what the facts say now */
async function* newEvents(
  log: EventLog,
  stream: OrderedStream,
  fold: LogFold,
  end: AbortSignal,
): AsyncIterable<LoggedEvent> {
  const after = stream === 'FF_FACTS' ? fold.position : await log.head(stream);
  for await (const messages of log.tail(stream, after, end))
    yield* stream === 'FF_FACTS' ? factEvents(messages, fold, () => true) : noticeEvents(messages);
}

/** @param messages of the stream, from the first that is kept */
function eventsOf(
  log: EventLog,
  stream: OrderedStream,
  messages: AsyncIterable<readonly LoggedMessage[]>,
): AsyncIterable<LoggedEvent> {
  return stream === 'FF_FACTS' ? factsOf(log, messages) : noticesOf(messages);
}

async function* factsOf(
  log: EventLog,
  portions: AsyncIterable<readonly LoggedMessage[]>,
): AsyncIterable<LoggedEvent> {
  const full = await fullSubjects(log);
  const { epoch } = await log.head('FF_FACTS');
  const fold = new LogFold({ epoch, sequence: 0 });
  const seen = new Set<string>();
  for await (const messages of portions) {
    for (const message of messages) {
      const isFirst = !seen.has(message.subject);
      seen.add(message.subject);
      yield* factEvents([message], fold, (subject) => !isFirst || !full.has(subject));
    }
  }
}

async function* noticesOf(portions: AsyncIterable<readonly LoggedMessage[]>): AsyncIterable<LoggedEvent> {
  for await (const messages of portions) yield* noticeEvents(messages);
}

/** The subjects of which the log keeps as many facts as it ever does, so that there may have been others before. */
async function fullSubjects(log: EventLog): Promise<ReadonlySet<string>> {
  const kept = new Map<string, number>();
  const { sequence: end } = await log.head('FF_FACTS');
  await showingProgress('Reading the log', async (progress) => {
    for await (const messages of upToEnd(log, 'FF_FACTS')) {
      for (const { subject } of messages) kept.set(subject, (kept.get(subject) ?? 0) + 1);
      progress(Math.min(messages.at(-1)?.position.sequence ?? 0, end), end);
    }
  });
  const { keepPerSubject } = STREAMS.FF_FACTS;
  return new Set([...kept].flatMap(([subject, count]) => (count >= keepPerSubject ? [subject] : [])));
}

/** What is there now, and nothing that is appended later. */
async function* upToEnd(log: EventLog, stream: OrderedStream): AsyncIterable<readonly LoggedMessage[]> {
  let end = 0;
  for await (const messages of log.latest(stream)) end = messages.at(-1)?.position.sequence ?? end;
  if (end === 0) return;
  for await (const messages of log.tail(stream, undefined, new AbortController().signal)) {
    yield messages.filter(({ position }) => position.sequence <= end);
    if ((messages.at(-1)?.position.sequence ?? 0) >= end) return;
  }
}

/** Events of several streams as one, the earlier first; of the same moment, that of the first stream. */
async function* inOrderOfTime(sources: readonly AsyncIterable<LoggedEvent>[]): AsyncIterable<LoggedEvent> {
  const heads = await Promise.all(
    sources.map(async (source) => {
      const reader = source[Symbol.asyncIterator]();
      return { reader, next: (await reader.next()) as IteratorResult<LoggedEvent, undefined> };
    }),
  );
  const timeOf = ({ next }: (typeof heads)[number]) => next.value?.message.time ?? Number.POSITIVE_INFINITY;
  for (;;) {
    const [first] = heads.filter(({ next }) => !next.done).toSorted((a, b) => timeOf(a) - timeOf(b));
    if (!first?.next.value) return;
    yield first.next.value;
    first.next = (await first.reader.next()) as typeof first.next;
  }
}

async function namesIn(log: EventLog): Promise<EnvironmentNames> {
  const { states } = await foldLog(log);
  return new EnvironmentNames(states.values());
}

function wantedBy({ environment, kind, id, since, until }: Options, names: EnvironmentNames): Wanted {
  const environments = environment?.flatMap((text) => {
    const meant = names.matching(text);
    if (meant.length > 0) return meant;
    throw new UsageError(
      `The log has no environment ${JSON.stringify(text)}. It has: ${names.present().toSorted().join(', ') || 'none'}.`,
    );
  });
  return { environments, kinds: kind, identifiers: id, since, until };
}

/** Prints events, in columns as wide as the names that there are. */
function printer({ stream, json }: Options, names: EnvironmentNames): (event: LoggedEvent) => void {
  if (json) return (event) => print(jsonOf(event));
  const paint = paintFor(process.stdout);
  const width = Math.max(0, ...names.present().map(({ length }) => length));
  return (event) => {
    const { fact } = event;
    if (fact?.type === 'FlagPublished') names.learn(fact.environment, fact.flag);
    const name = event.environment === undefined ? '' : names.of(event.environment);
    const columns = [
      paint('dim', new Date(event.message.time).toISOString()),
      ...(stream === 'both' ? [(event.notice ? 'notice' : 'fact').padEnd('notice'.length)] : []),
      String(event.message.position.sequence).padStart(SEQUENCE_COLUMN),
      paint('cyan', name.padEnd(width)),
      ...whatHappened(event, paint),
    ];
    print(columns.join('  '));
    for (const line of fieldLines(event.change?.fields ?? [], paint)) print(`    ${line}`);
  };
}

function whatHappened({ fact, change, notice, of }: LoggedEvent, paint: Paint): readonly string[] {
  if (change) {
    return [nameOf(change).padEnd(NAME_COLUMN), outcomeOf(change, paint)];
  }
  if (notice) {
    const version = notice.version > 0 ? `v${notice.version}, ` : '';
    return [
      nameOf(notice).padEnd(NAME_COLUMN),
      notice.event.padEnd(6),
      paint('dim', `${version}of fact ${of}`),
    ];
  }
  if (fact?.type === 'SnapshotCompleted')
    return [
      `account ${printable(fact.account)}`.padEnd(NAME_COLUMN),
      paint('dim', `all of its ${fact.environments} environments are in the log`),
    ];
  if (fact?.type === 'ProxyKeyDeleted')
    return [`proxy key ${printable(fact.identifier)}`.padEnd(NAME_COLUMN), paint('red', 'deleted upstream')];
  return [];
}

function kindsIn(text: string): readonly Kind[] {
  const kinds = KINDS[text];
  if (!kinds) throw new Error('it is flag, group, key, environment or account');
  return kinds;
}

function countIn(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error('it is a whole number above 0');
  return Number(text);
}
