import { Logger } from '@nestjs/common';

import {
  entityOf,
  type Fact,
  isEnvironmentFact,
  type Kind,
  type Notice,
  noticeIn,
  unknownEnvironment,
} from '#libs/domain';
import type { LoggedMessage, OrderedStream } from '#libs/event-log';
import { factsIn, type LogFold, type Moment } from '#libs/projection';

import { type Change, changeBy } from './changes.js';

/** A message of the log that can be read. */
export interface LoggedEvent {
  readonly stream: OrderedStream;
  readonly message: LoggedMessage;
  /** Undefined for the account. */
  readonly environment: string | undefined;
  readonly kind: Kind;
  readonly identifier: string;
  /** Of a fact. */
  readonly fact?: Fact;
  /** Of a fact about an environment: what it changed. */
  readonly change?: Change | undefined;
  /** Of a notice, with the sequence of the fact that made it. */
  readonly notice?: Notice;
  readonly of?: number;
}

const logger = new Logger('Events');

/**
 * The facts in messages, each with what it changed. They are folded in one by one, so messages must come in the order of
 * the log.
 *
 * @param isKnown whether the log tells all that happened to an entity, by its subject
 */
export function* factEvents(
  messages: readonly LoggedMessage[],
  fold: LogFold,
  isKnown: (subject: string) => boolean,
): Iterable<LoggedEvent> {
  for (const message of messages) {
    for (const { fact } of factsIn([message])) {
      const named = { stream: 'FF_FACTS', message, fact, ...entityOf(fact) } as const;
      if (!isEnvironmentFact(fact)) {
        fold.take([message]);
        yield named;
        continue;
      }
      const before = fold.states.get(fact.environment) ?? unknownEnvironment(fact.environment);
      fold.take([message]);
      yield { ...named, change: changeBy(before, fact, isKnown(message.subject)) };
    }
  }
}

/** The notices in messages. What cannot be read is reported and passed over. */
export function* noticeEvents(messages: readonly LoggedMessage[]): Iterable<LoggedEvent> {
  for (const message of messages) {
    try {
      const { notice, of } = noticeIn(message.body);
      const { environment, kind, identifier } = notice;
      yield { stream: 'FF_CHANGES', message, environment, kind, identifier, notice, of: of.sequence };
    } catch (error) {
      logger.error(`Notice ${message.position.sequence} cannot be read and is passed over: ${String(error)}`);
    }
  }
}

/** Which events are asked for; what is left out restricts nothing. */
export interface Wanted {
  readonly environments?: readonly string[] | undefined;
  readonly kinds?: readonly Kind[] | undefined;
  readonly identifiers?: readonly string[] | undefined;
  /** From there on, with what stands there. */
  readonly since?: Moment | undefined;
  /** Up to there, with what stands there. */
  readonly until?: Moment | undefined;
}

/** A notice stands where its fact stands; SDK keys may be named by the beginning of their hash. */
export function isWanted(
  event: LoggedEvent,
  { environments, kinds, identifiers, since, until }: Wanted,
): boolean {
  const { environment, kind, identifier, message, of } = event;
  const sequence = of ?? message.position.sequence;
  const at = (moment: Moment) =>
    'sequence' in moment ? sequence - moment.sequence : message.time - moment.time;
  return (
    (!environments || (environment !== undefined && environments.includes(environment))) &&
    (!kinds || kinds.includes(kind)) &&
    (!identifiers ||
      identifiers.some(
        (name) => name === identifier || (kind === 'apikey' && identifier.startsWith(name)),
      )) &&
    (!since || at(since) >= 0) &&
    (!until || at(until) <= 0)
  );
}

/** An event as a line of JSON: the message as it stands in the log, and what it changed. */
export function jsonOf({ stream, message, change }: LoggedEvent): string {
  const { position, time, subject, body } = message;
  return JSON.stringify({
    stream,
    position,
    time: new Date(time).toISOString(),
    subject,
    event: JSON.parse(body) as unknown,
    ...(change && { change: change.change, fields: change.fields }),
  });
}
