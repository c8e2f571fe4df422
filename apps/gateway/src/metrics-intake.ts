import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';

import { Logger } from '@nestjs/common';

import { reportBody, reportSubject } from '#libs/domain';
import { type EventLog, MessageTooLarge } from '#libs/event-log';

import type { GatewayTelemetry } from './gateway-telemetry.js';
import { SdkError } from './sdk-error.js';
import { metricsIn } from './sdk-metrics.js';

/** What the bodies of all requests may take together, from their first byte until the log has them. */
const MOST_HELD_BYTES = 128 * 1024 * 1024;
/** Objects and lists in a body: those of 100,000 targets with attributes. Of `{},{},…` memory takes twenty times the text. */
const MOST_BRACKETS = 2_000_000;
const RETRY_AFTER_S = '5';

/**
 * Takes evaluation counts in: once it is done, the log has them all. A batch that was taken in part before the log went
 * away is refused as a whole, and so may be counted twice when the SDK repeats it: nothing in it tells a repeat from
 * another SDK that counted the same.
 */
export class MetricsIntake {
  private readonly logger = new Logger(MetricsIntake.name);
  private held = 0;
  /** Whether the log refused the last append. */
  private refusing = false;
  /** Environments whose SDKs sent what cannot be used. */
  private readonly told = new Set<string>();

  /** @param bodyLimitBytes counts of a busy server SDK take 9 MB */
  constructor(
    private readonly log: EventLog,
    private readonly telemetry: GatewayTelemetry,
    private readonly bodyLimitBytes = 32 * 1024 * 1024,
  ) {}

  /**
   * Throws SdkError: 400 for what cannot be used, after which every SDK lets the batch go; to any other answer the Node
   * SDK keeps it, and sends it again without end. 503 when the log is away.
   */
  async take(environment: string, body: Readable): Promise<void> {
    const chunks: Buffer[] = [];
    let size = 0;
    try {
      for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        size += chunk.length;
        this.held += chunk.length;
        if (size > this.bodyLimitBytes)
          throw refusal(`the body is larger than ${this.bodyLimitBytes} bytes (METRICS_BODY_LIMIT)`);
        if (this.held > MOST_HELD_BYTES) throw notNow('too many counts at once');
        chunks.push(chunk);
      }
      await this.append(this.messagesOf(environment, chunks.splice(0)));
    } catch (error) {
      // Whoever is still sending must be able to read the answer.
      body.resume();
      throw body.errored && !(error instanceof SdkError) ? refusal('the body broke off') : error;
    } finally {
      this.held -= size;
    }
  }

  /** What the log is to keep, as text, so that nothing else of a large body stays in memory. */
  private messagesOf(environment: string, chunks: readonly Buffer[]) {
    const now = Date.now();
    const read = metricsIn(parsed(Buffer.concat(chunks)), environment, now);
    if (!read) throw refusal('this is no report of metrics: { "metricsData": […], "targetData": […] }');
    if (read.unusable > 0 && !this.told.has(environment)) {
      this.told.add(environment);
      this.logger.warn(
        `An SDK of ${environment} reported ${read.unusable} entries that are no counts; such entries are left out`,
      );
    }
    this.telemetry.countsRead(environment, read.parts);
    return read.parts.map((part) => {
      const id = randomUUID();
      return { subject: reportSubject(part), id, body: reportBody(part, { id, time: now }) };
    });
  }

  private async append(messages: readonly { subject: string; id: string; body: string }[]): Promise<void> {
    try {
      await Promise.all(messages.map((message) => this.log.append('FF_METRICS', message)));
      if (this.refusing && messages.length > 0) {
        this.refusing = false;
        this.logger.log('The log takes evaluation counts again');
      }
    } catch (error) {
      if (error instanceof MessageTooLarge) throw refusal(error.message);
      if (!this.refusing)
        this.logger.warn(`Evaluation counts are refused, since the log does not take them: ${String(error)}`);
      this.refusing = true;
      throw notNow('the log cannot take evaluation counts now');
    }
  }
}

function parsed(body: Buffer): unknown {
  let brackets = 0;
  for (const byte of body) if (byte === 0x7b || byte === 0x5b) brackets++;
  if (brackets > MOST_BRACKETS) throw refusal(`the body has more than ${MOST_BRACKETS} objects and lists`);
  try {
    return JSON.parse(body.toString());
  } catch (error) {
    throw refusal(`the body is not JSON (${String(error)})`);
  }
}

const refusal = (message: string) => new SdkError(400, `bad request: ${message}`);
const notNow = (message: string) => new SdkError(503, message, { 'retry-after': RETRY_AFTER_S });
