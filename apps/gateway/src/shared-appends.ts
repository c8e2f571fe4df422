import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import { halvesOf, type MetricsReport, reportBody, reportIn, reportSubject, Sum } from '#libs/domain';
import { type EventLog, MessageTooLarge, type NewMessage } from '#libs/event-log';

import { PART_CHARACTERS } from './sdk-metrics.js';

/** Requests that come within it share appends. */
const ROUND_MS = 10;
/** How long an append is tried; less than any SDK waits for its answer. */
const PATIENCE_MS = 5000;
const RETRY_MS = 200;

/** The log does not take counts now. */
export class LogAway extends Error {
  override readonly name = 'LogAway';
}

/** What the requests of one round say about an environment, and who waits for it. */
interface Shared {
  readonly sum: Sum;
  readonly done: PromiseWithResolvers<void>;
}

/**
 * Appends of many requests, in rounds: what comes while one round is on its way to the log waits for the next, and is
 * added up by environment. So the slower the disk, the more requests share one flush of it.
 *
 * An append that fails is repeated with its id for a few seconds, in which a log that restarts is there again. After one
 * that was given up, the others are tried once, until one succeeds.
 */
export class SharedAppends {
  private readonly logger = new Logger(SharedAppends.name);
  private open = new Map<string, Shared>();
  /** Of this round too, and as large as they may get. */
  private full: Shared[] = [];
  private rounds: Promise<void> | undefined;
  /** Whether the last append was given up. */
  private isAway = false;

  constructor(
    private readonly log: EventLog,
    private readonly patienceMs = PATIENCE_MS,
  ) {}

  /**
   * Resolves when the log has it. Throws LogAway, and MessageTooLarge for an entry that the log will never take, once it
   * has all others of the round.
   *
   * @param report less than a part
   */
  share(report: MetricsReport): Promise<void> {
    const { environment } = report;
    const shared = this.open.get(environment) ?? {
      sum: new Sum(environment),
      done: Promise.withResolvers<void>(),
    };
    shared.sum.add(report);
    if (shared.sum.characters < PART_CHARACTERS) this.open.set(environment, shared);
    else {
      this.open.delete(environment);
      this.full.push(shared);
    }
    this.rounds ??= this.run().finally(() => (this.rounds = undefined));
    return shared.done.promise;
  }

  /** As `share`, of a whole part. */
  async append(message: NewMessage): Promise<void> {
    try {
      await this.tryFor(message, performance.now() + this.patienceMs);
    } catch (error) {
      if (!(error instanceof MessageTooLarge)) throw error;
      const halves = halvesOf(reportIn(message.body).report);
      if (!halves) throw error;
      await allOf(halves.map((half) => this.append(messageOf(half))));
    }
  }

  private async run(): Promise<void> {
    while (this.open.size + this.full.length > 0) {
      await delay(ROUND_MS);
      const round = [...this.full, ...this.open.values()];
      this.open = new Map();
      this.full = [];
      await Promise.all(
        round.map(({ sum, done }) => this.append(messageOf(sum.report())).then(done.resolve, done.reject)),
      );
    }
  }

  private async tryFor(message: NewMessage, deadline: number): Promise<void> {
    for (;;) {
      try {
        await this.log.append('FF_METRICS', message);
        if (this.isAway) this.logger.log('The log takes evaluation counts again');
        this.isAway = false;
        return;
      } catch (error) {
        if (error instanceof MessageTooLarge) throw error;
        if (this.isAway || performance.now() + RETRY_MS > deadline) {
          if (!this.isAway)
            this.logger.warn(
              `Evaluation counts are refused, since the log does not take them: ${String(error)}`,
            );
          this.isAway = true;
          throw new LogAway('the log cannot take evaluation counts now', { cause: error });
        }
      }
      await delay(RETRY_MS);
    }
  }
}

/** Waits for all. That the log is away outweighs that one is too large: what it did not get has to come again. */
export async function allOf(appends: readonly Promise<void>[]): Promise<void> {
  const settled = await Promise.allSettled(appends);
  const failures = settled.flatMap((each) => (each.status === 'rejected' ? [each.reason as unknown] : []));
  if (failures.length > 0) throw failures.find((failure) => failure instanceof LogAway) ?? failures[0];
}

/** As text, so that nothing else of a large body stays in memory. */
export function messageOf(report: MetricsReport): NewMessage {
  const id = randomUUID();
  return { subject: reportSubject(report), id, body: reportBody(report, { id, time: Date.now() }) };
}
