import type { Readable } from 'node:stream';

import { Logger } from '@nestjs/common';

import { evaluationsIn, type MetricsReport } from '#libs/domain';
import { type EventLog, MessageTooLarge, type NewMessage } from '#libs/event-log';

import { UnreadableBody } from './entry-reader.js';
import type { GatewayTelemetry } from './gateway-telemetry.js';
import { SdkError } from './sdk-error.js';
import { SdkReport } from './sdk-metrics.js';
import { allOf, LogAway, messageOf, SharedAppends } from './shared-appends.js';

/** What the bodies of all requests may take together, from their first byte until the log has them. */
const MOST_HELD_BYTES = 128 * 1024 * 1024;
/** Of one body: each is copied on its way to the log. */
const APPENDS_AT_A_TIME = 8;
const RETRY_AFTER_S = '5';

export interface MetricsIntakeOptions {
  /** Counts of a busy server SDK take 9 MB. */
  readonly bodyLimitBytes?: number;
  /** False if nothing is sent upstream: counts are taken then, and dropped. */
  readonly isKeeping?: boolean;
  /** How long an append is tried before the SDK is asked to come again. */
  readonly patienceMs?: number;
}

/**
 * Takes evaluation counts in: once it is done, the log has them all. A body is read as it arrives, and only its counts, as
 * they are written in the log, are held. Small ones are added up with those of others.
 *
 * A batch that was taken in part before the log went away is refused as a whole, and so may be counted twice when the SDK
 * repeats it: nothing in it tells a repeat from another SDK that counted the same.
 */
export class MetricsIntake {
  private readonly logger = new Logger(MetricsIntake.name);
  private readonly appends: SharedAppends;
  private readonly bodyLimitBytes: number;
  private readonly isKeeping: boolean;
  private held = 0;
  private unsentEvaluations = 0;
  /** Environments whose SDKs sent what cannot be used. */
  private readonly told = new Set<string>();

  constructor(
    log: EventLog,
    private readonly telemetry: GatewayTelemetry,
    { bodyLimitBytes = 32 * 1024 * 1024, isKeeping = true, patienceMs }: MetricsIntakeOptions = {},
  ) {
    this.appends = new SharedAppends(log, patienceMs);
    this.bodyLimitBytes = bodyLimitBytes;
    this.isKeeping = isKeeping;
  }

  /** Nothing, unless counts are dropped. */
  status(): { readonly countsAreDropped?: true; readonly unsentEvaluations?: number } {
    return this.isKeeping ? {} : { countsAreDropped: true, unsentEvaluations: this.unsentEvaluations };
  }

  /**
   * Throws SdkError: 400 for what cannot be used, after which every SDK lets the batch go; to any other answer the Node
   * SDK keeps it, and sends it again without end. 503 when the log is away.
   */
  async take(environment: string, body: Readable): Promise<void> {
    const parts: NewMessage[] = [];
    let evaluations = 0;
    const report = new SdkReport(environment, Date.now(), (part) => {
      if (this.isKeeping) parts.push(messageOf(part));
      else evaluations += evaluationsIn(part);
    });
    let size = 0;
    try {
      for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        size += chunk.length;
        this.held += chunk.length;
        if (size > this.bodyLimitBytes)
          throw refusal(`the body is larger than ${this.bodyLimitBytes} bytes (METRICS_BODY_LIMIT)`);
        if (this.held > MOST_HELD_BYTES) throw notNow('too many counts at once');
        report.write(chunk);
      }
      const last = report.end();
      this.look(environment, report);
      if (this.isKeeping) await this.append(parts, last);
      else this.drop(evaluations + evaluationsIn(last));
    } catch (error) {
      // Whoever is still sending must be able to read the answer.
      body.resume();
      throw answerTo(error, body.errored !== null);
    } finally {
      this.held -= size;
    }
  }

  private drop(evaluations: number): void {
    this.unsentEvaluations += evaluations;
    this.telemetry.countsDropped(evaluations);
  }

  /** @param parts is emptied as the log gets them, so that of a large body less and less is held */
  private async append(parts: NewMessage[], last: MetricsReport): Promise<void> {
    const appendSome = async () => {
      for (let part = parts.pop(); part; part = parts.pop()) await this.appends.append(part);
    };
    const appends = Array.from({ length: Math.min(parts.length, APPENDS_AT_A_TIME) }, appendSome);
    if (last.counts.length + last.targets.length > 0) appends.push(this.appends.share(last));
    await allOf(appends);
  }

  private look(environment: string, { sdks, unusable }: SdkReport): void {
    this.telemetry.countsRead(environment, sdks.values());
    if (unusable === 0 || this.told.has(environment)) return;
    this.told.add(environment);
    this.logger.warn(
      `An SDK of ${environment} reported ${unusable} entries that are no counts; such entries are left out`,
    );
  }
}

function answerTo(error: unknown, isBrokenOff: boolean): unknown {
  if (error instanceof UnreadableBody || error instanceof MessageTooLarge) return refusal(error.message);
  if (error instanceof LogAway) return notNow(error.message);
  return isBrokenOff && !(error instanceof SdkError) ? refusal('the body broke off') : error;
}

const refusal = (message: string) => new SdkError(400, `bad request: ${message}`);
const notNow = (message: string) => new SdkError(503, message, { 'retry-after': RETRY_AFTER_S });
