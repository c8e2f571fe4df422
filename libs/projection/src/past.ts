import { textOfSubjectToken } from '#libs/domain';
import { type EventLog, STREAMS } from '#libs/event-log';

import { LogFold } from './log-fold.js';

/** A moment of the log: after a fact of that sequence, or at a time in ms since the epoch. */
export type Moment = { readonly sequence: number } | { readonly time: number };

/** What a fact may be about, as its subject names it. */
export interface EntityName {
  readonly environment: string;
  readonly kind: string;
  readonly identifier: string;
}

export interface Past {
  /** The facts up to the moment; its position is that of the newest among them. */
  readonly fold: LogFold;
  /** When the newest of them was appended; undefined if there are none. */
  readonly time: number | undefined;
  /** The first fact that the log keeps; undefined if it keeps none. */
  readonly first: { readonly sequence: number; readonly time: number } | undefined;
  /** What may have been there: of these entities the log keeps later facts only, and as many as it ever keeps. */
  readonly forgotten: readonly EntityName[];
}

/** What the log said at a moment. Reads all that it keeps, in order; holds no more of it than the states. */
export async function foldUntil(
  log: EventLog,
  moment: Moment,
  progress: (sequence: number, of: number) => void = () => undefined,
): Promise<Past> {
  const { epoch } = await log.head('FF_FACTS');
  const end = await lastKept(log);
  const fold = new LogFold({ epoch, sequence: 0 });
  const known = new Set<string>();
  /** How many later facts are kept of subjects that had none before. */
  const later = new Map<string, number>();
  let first: Past['first'];
  let time: number | undefined;

  for await (const messages of end > 0 ? log.tail('FF_FACTS', undefined, new AbortController().signal) : []) {
    const inPast = messages.filter((message) =>
      'sequence' in moment ? message.position.sequence <= moment.sequence : message.time <= moment.time,
    );
    fold.take(inPast);
    time = inPast.at(-1)?.time ?? time;
    first ??= messages[0] && { sequence: messages[0].position.sequence, time: messages[0].time };
    for (const { subject } of inPast) known.add(subject);
    for (const { subject } of messages)
      if (!known.has(subject)) later.set(subject, (later.get(subject) ?? 0) + 1);
    const { sequence = 0 } = messages.at(-1)?.position ?? {};
    progress(Math.min(sequence, end), end);
    if (sequence >= end) break;
  }
  const forgotten = [...later].flatMap(([subject, kept]) =>
    kept >= STREAMS.FF_FACTS.keepPerSubject && !known.has(subject) ? [entityNamedIn(subject)] : [],
  );
  return { fold, time, first, forgotten };
}

/** The newest fact that is there: the head of a stream that somebody purged has none. */
async function lastKept(log: EventLog): Promise<number> {
  let last = 0;
  for await (const messages of log.latest('FF_FACTS')) last = messages.at(-1)?.position.sequence ?? last;
  return last;
}

function entityNamedIn(subject: string): EntityName {
  const [environment = '', kind = '', identifier = ''] = subject.split('.').slice(3);
  return {
    environment: textOfSubjectToken(environment),
    kind,
    identifier: textOfSubjectToken(identifier),
  };
}
