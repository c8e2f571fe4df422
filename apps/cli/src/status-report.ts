/** What a process says on `/status`, read and put into words. Pure. */
import { z } from 'zod';

import { counted } from './outcome.js';
import { type Paint, printable, span } from './terminal.js';

const position = z.object({ epoch: z.string(), sequence: z.number() });
const upstream = z.object({
  stream: z.object({ state: z.string(), since: z.number() }),
  lastAgreedMs: z.number().optional(),
});
const part = z.looseObject({
  ready: z.boolean(),
  notReadyBecause: z.string().optional(),
  leading: z.boolean().optional(),
  log: z.string().optional(),
  store: z.string().optional(),
  position: position.optional(),
});
const document = z.looseObject({ startedAt: z.string(), ready: z.boolean() });

const ingestor = z.looseObject({
  upstream: upstream.optional(),
  messages: z.looseObject({ read: z.number(), unreadable: z.number() }).optional(),
  comparisons: z.looseObject({ agreed: z.number(), failed: z.number() }).optional(),
  failing: z
    .record(z.string(), z.object({ since: z.number(), reason: z.string(), nextTryAt: z.number() }))
    .default({}),
  setAside: z.unknown(),
});
const projector = z.looseObject({ environments: z.number().default(0), failure: z.string().optional() });
const gateway = z.looseObject({
  environments: z.number().default(0),
  streams: z.number().default(0),
  upstream: upstream.optional(),
  bypassAuth: z.boolean().default(false),
  countsAreDropped: z.boolean().default(false),
  unsentEvaluations: z.number().default(0),
  workers: z
    .array(
      z.looseObject({
        worker: z.number(),
        state: z.string(),
        ready: z.boolean(),
        notReadyBecause: z.string().optional(),
      }),
    )
    .optional(),
});
const waitingMessages = z.looseObject({
  messages: z.number().default(0),
  oldestMs: z.number().optional(),
  dropped: z.number().default(0),
});
const forwarder = z.looseObject({
  backlog: waitingMessages.optional(),
  waiting: z.array(z.looseObject({ environment: z.string(), until: z.string() })).default([]),
  parked: waitingMessages
    .extend({
      reasons: z
        .array(
          z.looseObject({
            environment: z.string(),
            reason: z.string(),
            messages: z.number(),
            evaluations: z.number(),
          }),
        )
        .default([]),
    })
    .optional(),
  isSending: z.boolean().default(true),
  unsentEvaluations: z.number().default(0),
});

export interface Status {
  readonly startedAt: string;
  readonly ready: boolean;
  readonly parts: Readonly<Record<string, z.infer<typeof part>>>;
}

/** Something that is wrong, or may be soon. */
export interface Problem {
  readonly part: string;
  readonly what: string;
}

/** Throws an Error if this is not what a process of ff-relay says. */
export function statusIn(answer: unknown): Status {
  const read = document.safeParse(answer);
  if (!read.success) throw new Error('that is not the status of ff-relay');
  const { startedAt, ready, ...rest } = read.data;
  const parts = Object.entries(rest).flatMap(([name, said]) => {
    const { success, data } = part.safeParse(said);
    return success ? [[name, data] as const] : [];
  });
  return { startedAt, ready, parts: Object.fromEntries(parts) };
}

/** What is wrong, the gravest first: who is not ready, then what is tried again, then what may be meant so. */
export function problemsIn({ parts }: Status, now: number): readonly Problem[] {
  const unready: Problem[] = [];
  const failing: Problem[] = [];
  const notable: Problem[] = [];
  for (const [name, said] of Object.entries(parts)) {
    if (!said.ready)
      unready.push({
        part: name,
        what: `is not ready: ${said.notReadyBecause ?? 'it has not come so far yet'}`,
      });
    for (const place of ['log', 'store'] as const)
      if (said[place] === 'unreachable') failing.push({ part: name, what: `the ${place} cannot be reached` });
    switch (name) {
      case 'ingestor':
        failing.push(...failuresOf(ingestor.parse(said), now));
        break;
      case 'projector': {
        const { failure } = projector.parse(said);
        if (failure) failing.push({ part: name, what: `starts from the log again: ${printable(failure)}` });
        break;
      }
      case 'gateway': {
        const { bypassAuth, countsAreDropped, unsentEvaluations, workers = [] } = gateway.parse(said);
        for (const { worker, ready, notReadyBecause, state } of workers)
          if (!ready) failing.push({ part: name, what: `worker ${worker}: ${notReadyBecause ?? state}` });
        if (bypassAuth) notable.push({ part: name, what: 'BYPASS_AUTH is on: whoever reaches it reads all' });
        if (countsAreDropped) notable.push({ part: name, what: unsentText(unsentEvaluations) });
        break;
      }
      case 'metrics-forwarder': {
        const { backlog, waiting, parked, isSending, unsentEvaluations } = forwarder.parse(said);
        for (const { environment, until } of waiting)
          failing.push({
            part: name,
            what: `the upstream takes no counts of ${printable(environment)}; next try ${untilText(Date.parse(until), now)}`,
          });
        for (const what of parkedTexts(parked)) notable.push({ part: name, what });
        for (const [what, dropped = 0] of [
          ['waited (METRICS_MAX_AGE, METRICS_MAX_BYTES)', backlog?.dropped],
          ['were parked (for 30 days, up to 256 MiB)', parked?.dropped],
        ] as const)
          if (dropped > 0)
            notable.push({
              part: name,
              what: `dropped so far, too old or too many: ${counted(dropped, 'message')} of counts that ${what}`,
            });
        if (!isSending) notable.push({ part: name, what: unsentText(unsentEvaluations) });
        break;
      }
    }
  }
  return [...unready, ...failing, ...notable];
}

function failuresOf(
  { upstream: link, failing, setAside, ...said }: z.infer<typeof ingestor>,
  now: number,
): Problem[] {
  const failures = Object.entries(failing).map(([what, { reason, since, nextTryAt }]) => ({
    part: 'ingestor',
    what: `${printable(what)} fails for ${span(now - since)}: ${printable(reason)}; next try ${untilText(nextTryAt, now)}`,
  }));
  // What fails on the stream says more than that it is away.
  if (said['leading'] && link?.stream.state === 'DISCONNECTED' && failures.length === 0)
    failures.push({ part: 'ingestor', what: `the upstream is away for ${span(now - link.stream.since)}` });
  const aside = Array.isArray(setAside) ? setAside : [];
  if (aside.length > 0)
    failures.push({
      part: 'ingestor',
      what: `${counted(aside.length, 'entity', 'entities')} set aside that the log does not take`,
    });
  return failures;
}

function parkedTexts(parked: z.infer<typeof forwarder>['parked']): readonly string[] {
  if (!parked || parked.messages === 0) return [];
  const { messages, oldestMs, reasons } = parked;
  const since = oldestMs === undefined ? '' : `, the oldest for ${span(oldestMs)}`;
  return [
    `parked, since the upstream refused it: ${counted(messages, 'message')} of counts${since}. ` +
      'See ff-relay metrics parked; once the reason is gone, ff-relay metrics resend',
    ...reasons.map(
      ({ environment, reason, messages: some, evaluations }) =>
        `parked of ${printable(environment)}: ${counted(some, 'message')} with ${counted(evaluations, 'evaluation')}: ${printable(reason)}`,
    ),
  ];
}

function unsentText(evaluations: number): string {
  return `counts are taken and dropped (METRIC_POST_DURATION=0 or OFFLINE): ${counted(evaluations, 'evaluation')} so far`;
}

function untilText(time: number, now: number): string {
  return time > now ? `in ${span(time - now)}` : 'now';
}

/** One process, in lines: what is wrong first, then what each part does. */
export function statusLines(address: string, status: Status, now: number, paint: Paint): readonly string[] {
  const problems = problemsIn(status, now);
  const parts = Object.entries(status.parts);
  const width = Math.max(0, ...parts.map(([name]) => name.length));
  const ready = status.ready ? paint('green', 'ready') : paint('red', 'not ready');
  return [
    `${paint('bold', address)}  ${ready}${paint('dim', `, runs for ${span(now - Date.parse(status.startedAt))}`)}`,
    ...(problems.length > 0 ? [''] : []),
    ...problems.map(
      ({ part, what }) => `  ${paint(status.ready ? 'yellow' : 'red', `! ${part.padEnd(width)}`)}  ${what}`,
    ),
    '',
    ...parts.map(([name, said]) => {
      const sign = said.ready ? paint('green', '✓') : paint('red', '✗');
      return `  ${sign} ${name.padEnd(width)}  ${paint('dim', partText(name, said, now))}`;
    }),
  ];
}

function partText(name: string, said: z.infer<typeof part>, now: number): string {
  const at = said.position ? ` at fact ${said.position.sequence}` : '';
  const role = said.leading === undefined ? [] : [said.leading ? 'leads' : 'stands by'];
  switch (name) {
    case 'ingestor': {
      const { upstream: link, messages, comparisons } = ingestor.parse(said);
      return [
        ...role,
        ...(link ? [linkText(link, now)] : []),
        ...(messages ? [`${counted(messages.read, 'message')} read`] : []),
        ...(comparisons ? [counted(comparisons.agreed, 'comparison')] : []),
      ].join(', ');
    }
    case 'projector':
      return [...role, `${counted(projector.parse(said).environments, 'environment')}${at}`].join(', ');
    case 'gateway': {
      const { environments, streams, workers } = gateway.parse(said);
      if (workers)
        return `${workers.filter(({ ready }) => ready).length} of ${counted(workers.length, 'worker')} ready`;
      return `${counted(environments, 'environment')}${at}, ${counted(streams, 'stream')} open`;
    }
    case 'metrics-forwarder': {
      const { messages = 0, oldestMs } = forwarder.parse(said).backlog ?? {};
      if (messages === 0) return 'no counts wait';
      return `${counted(messages, 'message')} of counts wait${oldestMs === undefined ? '' : `, the oldest for ${span(oldestMs)}`}`;
    }
    default:
      return '';
  }
}

function linkText({ stream, lastAgreedMs }: z.infer<typeof upstream>, now: number): string {
  const agreed =
    lastAgreedMs === undefined ? 'never agreed so far' : `agreed ${span(now - lastAgreedMs)} ago`;
  return `upstream ${stream.state.toLowerCase()} for ${span(now - stream.since)}, ${agreed}`;
}
