import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import {
  environmentFactsIn,
  type EnvironmentState,
  evolve,
  type Fact,
  factIn,
  foldInto,
  isComplete,
  isEnvironmentFact,
  noticeBody,
  noticeOf,
  noticeSubject,
  type Position,
  type SequencedFact,
  unknownEnvironment,
} from '#libs/domain';
import type { Delivery, EventLog, LoggedMessage, NewMessage } from '#libs/event-log';
import type { StateStore } from '#libs/state-store';

/** Its name as a follower of the facts. */
const FOLLOWER = 'projector';
const RETRY_MS = 1000;

/**
 * Keeps the state store equal to the fold of the facts, and tells of each change.
 *
 * The order is the promise: the store holds a change before its notice is in the log, and the notice is in the log
 * before the fact is acknowledged. Whoever hears of a change can read it, and a process that dies in between does it
 * again: the store ignores what it holds, and the log ignores a notice that it has.
 */
export class Projector {
  private readonly logger = new Logger(Projector.name);
  private readonly stopping = new AbortController();
  private readonly states = new Map<string, EnvironmentState>();
  private complete = false;
  private work: Promise<void> | undefined;

  constructor(
    private readonly log: EventLog,
    private readonly store: StateStore,
  ) {}

  /** Returns once the store holds what the log holds; the rest goes on until `stop`. */
  async start(): Promise<void> {
    await this.rebuild();
    this.work = this.keepProjecting();
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  /** Folds the last fact about every entity, and puts the result in place of whatever the store holds. */
  private async rebuild(): Promise<void> {
    const head = await this.log.head('FF_FACTS');
    const facts: SequencedFact[] = [];
    for await (const messages of this.log.latest('FF_FACTS')) {
      for (const { fact, position } of this.readable(messages))
        facts.push({ fact, sequence: position.sequence });
    }
    for (const { fact } of facts) this.noteAccount(fact);
    foldInto(this.states, environmentFactsIn(facts));
    for (const state of this.states.values()) {
      await this.store.replace(state, { epoch: head.epoch, sequence: state.sequence });
    }
    await this.store.advance({ position: head, complete: this.complete });
  }

  private async keepProjecting(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        // What fails is not acknowledged, so that following again delivers it again.
        for await (const delivery of this.log.follow('FF_FACTS', FOLLOWER, signal)) {
          await this.project(delivery);
        }
      } catch (error) {
        if (signal.aborted) return;
        this.logger.error(`Facts could not be projected: ${String(error)}; trying again`);
        await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  private async project({ messages, acknowledge }: Delivery): Promise<void> {
    const notices: NewMessage[] = [];
    const states = new Map<string, EnvironmentState>();
    for (const { fact, position, time } of this.readable(messages)) {
      this.noteAccount(fact);
      if (!isEnvironmentFact(fact)) continue;
      const { environment } = fact;
      const before =
        states.get(environment) ?? this.states.get(environment) ?? unknownEnvironment(environment);
      const after = evolve(before, fact, position.sequence);
      await this.store.apply(after, [fact], position);
      states.set(environment, after);
      const notice = noticeOf(before, fact);
      // Named after its fact, so that a repeat is the same notice.
      const id = `${position.epoch}-${position.sequence}`;
      notices.push({ subject: noticeSubject(notice), id, body: noticeBody(notice, position, { id, time }) });
    }
    const last = messages.at(-1);
    if (last) await this.store.advance({ position: last.position, complete: this.complete });
    await this.tell(notices);
    await acknowledge();
    // Not before: a repeat starts from the same states, and so makes the same notices.
    for (const [environment, state] of states) this.states.set(environment, state);
  }

  /**
   * In the order of their facts, as many at a time as are about different entities: of one entity, the next is told only
   * when the one before is in the log, so that no failure turns a removal and a creation round.
   */
  private async tell(notices: readonly NewMessage[]): Promise<void> {
    let together = new Map<string, NewMessage>();
    const append = () =>
      Promise.all([...together.values()].map((notice) => this.log.append('FF_CHANGES', notice)));
    for (const notice of notices) {
      if (together.has(notice.subject)) {
        await append();
        together = new Map();
      }
      together.set(notice.subject, notice);
    }
    await append();
  }

  private noteAccount(fact: Fact): void {
    this.complete = isComplete(this.complete, fact);
  }

  /** The facts in the messages. What cannot be read stays in the log and is passed over, so that the rest flows. */
  private *readable(
    messages: readonly LoggedMessage[],
  ): Iterable<{ fact: Fact; position: Position; time: number }> {
    for (const { subject, body, position, time } of messages) {
      try {
        yield { fact: factIn(body), position, time };
      } catch (error) {
        this.logger.error(
          `Fact ${position.sequence} (${subject}) cannot be read and is passed over: ${String(error)}`,
        );
      }
    }
  }
}
