import { Logger } from '@nestjs/common';

import {
  environmentFactsIn,
  type EnvironmentState,
  type Fact,
  factIn,
  factSubjectsOf,
  foldInto,
  isComplete,
  isEnvironmentFact,
  type Position,
  type SequencedFact,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, type LoggedMessage, UnknownEpoch } from '#libs/event-log';

/** A fact as it stands in the log. */
export interface LoggedFact<F extends Fact = Fact> extends SequencedFact<F> {
  /** When it was appended, in ms since the epoch. */
  readonly time: number;
}

const logger = new Logger('Facts');

/** The facts in messages of the log. What cannot be read is reported and passed over, so that the rest flows. */
export function factsIn(messages: readonly LoggedMessage[]): LoggedFact[] {
  return messages.flatMap(({ subject, body, position: { sequence }, time }) => {
    try {
      return [{ fact: factIn(body), sequence, time }];
    } catch (error) {
      logger.error(`Fact ${sequence} (${subject}) cannot be read and is passed over: ${String(error)}`);
      return [];
    }
  });
}

/** The environments as the facts up to a position tell them. */
export class LogFold {
  readonly states = new Map<string, EnvironmentState>();
  /** Whether every environment of the account is among them. */
  complete = false;
  /** Whether the facts say what the account holds: all of it, or nothing since its proxy key was deleted. */
  decided = false;

  constructor(public position: Position) {}

  /** Folds more of the log in; repeats do no harm. @returns the environments concerned, as they were before */
  take(messages: readonly LoggedMessage[]): ReadonlyMap<string, EnvironmentState | undefined> {
    const last = messages.at(-1)?.position;
    return last ? this.fold(factsIn(messages), last) : new Map();
  }

  /** The same, of messages that are read already. @param last where they end */
  fold(facts: readonly LoggedFact[], last: Position): ReadonlyMap<string, EnvironmentState | undefined> {
    if (last.epoch !== this.position.epoch) {
      throw new UnknownEpoch(`the facts changed their epoch from ${this.position.epoch} to ${last.epoch}`);
    }
    for (const { fact } of facts) {
      this.complete = isComplete(this.complete, fact);
      this.decided ||= !isEnvironmentFact(fact);
    }
    if (last.sequence > this.position.sequence) this.position = last;
    const concerned = environmentFactsIn(facts);
    const before = new Map(
      concerned.map(({ fact: { environment } }) => [environment, this.states.get(environment)]),
    );
    foldInto(this.states, concerned);
    return before;
  }
}

/** What the log says now: exactly the facts up to the position of the result. */
export async function foldLog(log: EventLog): Promise<LogFold> {
  const head = await log.head('FF_FACTS');
  const fold = new LogFold(head);
  for await (const messages of log.latest('FF_FACTS')) fold.take(messages);
  // What was appended meanwhile may show while what it stands beside does not: read on until both do.
  const last = fold.position.sequence;
  if (last > head.sequence) await foldOn(log, fold, head, last);
  return fold;
}

/** Folds the facts after a position in, up to the one that is the last. @param subjectPrefix of those to fold */
export async function foldOn(
  log: EventLog,
  fold: LogFold,
  after: Position | undefined,
  last: number,
  subjectPrefix = '',
): Promise<void> {
  for await (const messages of log.tail('FF_FACTS', after, new AbortController().signal)) {
    fold.take(
      messages.filter(
        ({ subject, position }) => subject.startsWith(subjectPrefix) && position.sequence <= last,
      ),
    );
    if ((messages.at(-1)?.position.sequence ?? 0) >= last) return;
  }
}

/** One environment at a later position than the fold's. */
export async function leadOn(
  log: EventLog,
  fold: LogFold,
  environment: string,
  to: Position,
): Promise<EnvironmentState> {
  const one = new LogFold(fold.position);
  const state = fold.states.get(environment) ?? unknownEnvironment(environment);
  one.states.set(environment, state);
  const { sequence: last } = await log.head('FF_FACTS');
  const sequence = Math.min(to.sequence, last);
  if (sequence > fold.position.sequence)
    await foldOn(log, one, fold.position, sequence, factSubjectsOf(environment));
  return one.states.get(environment) ?? state;
}
