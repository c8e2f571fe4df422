import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import { LogUnreachable } from './event-log.js';
import { orEnd } from './or-end.js';

/** What works over one connection, until that is lost. */
export interface Session {
  /** Aborts when the connection is lost; the reason is an error. */
  readonly lost: AbortSignal;
}

/** The server does not let us in. Unlike other failures this one is not likely to pass. */
export class Refused extends Error {
  override readonly name = 'Refused';
}

/** How long a method waits for a connection before it says that there is none. */
const PATIENCE_MS = 2000;
/** An outage that is over sooner is not worth a line at start. */
const QUIET_MS = 1000;
const RETRY_MS = { first: 100, last: 1000 };

/**
 * Makes a connection, and makes it anew whenever it is lost, for ever. A lost connection is thrown away with all that
 * hangs on it: nothing has to be brought back to life, and who still waits for an answer learns at once that there will
 * be none.
 */
export class KeptConnection<S extends Session> {
  current: S | undefined;
  private arrival = Promise.withResolvers<S>();
  private soon = this.patience();
  private reason = 'not connected yet';
  private readonly told = new Set<'down' | 'refused'>();
  private readonly logger = new Logger('JetStreamEventLog');

  /**
   * @param server what to call it in messages
   * @param end stops it; the connection that it has then is left to its user
   */
  constructor(
    private readonly server: string,
    private readonly connect: () => Promise<S>,
    private readonly end: AbortSignal,
  ) {
    void this.keep();
  }

  /**
   * The connection. In the first two seconds after it was lost that takes a moment; later LogUnreachable is thrown at
   * once. Who called first goes on first.
   */
  async ready(): Promise<S> {
    const session = await this.soon;
    if (this.end.aborted) throw new Error('the log is closed');
    if (!session) throw this.unreachable(this.reason);
    return session;
  }

  /** The connection, however long it takes; undefined if `end` comes first. */
  async next(end: AbortSignal): Promise<S | undefined> {
    return this.current ?? orEnd(this.arrival.promise, end);
  }

  unreachable(cause: unknown): LogUnreachable {
    return new LogUnreachable(`${this.server} cannot be reached: ${reasonOf(cause)}`, { cause });
  }

  private async keep(): Promise<void> {
    for (let session = await this.make(); session; session = await this.make()) {
      if (this.told.size > 0) this.logger.log(`${this.server} is connected`);
      this.told.clear();
      this.current = session;
      this.arrival.resolve(session);
      // Behind those who wait, so that nobody overtakes them.
      this.soon = this.soon.then((early) => early ?? session);
      if (!session.lost.aborted) await once(session.lost, 'abort');
      if (this.end.aborted) return;
      this.current = undefined;
      this.arrival = Promise.withResolvers();
      this.soon = this.patience();
      this.tell('down', reasonOf(session.lost.reason));
    }
  }

  private async make(): Promise<S | undefined> {
    const since = performance.now();
    for (let wait = RETRY_MS.first; !this.end.aborted; wait = Math.min(wait * 2, RETRY_MS.last)) {
      try {
        return await this.connect();
      } catch (error) {
        this.reason = reasonOf(error);
        if (error instanceof Refused) this.tell('refused', this.reason);
        else if (performance.now() - since > QUIET_MS) this.tell('down', this.reason);
      }
      await delay(wait * (0.5 + Math.random() / 2), undefined, { signal: this.end }).catch(() => undefined);
    }
    return undefined;
  }

  /** Says it once in an outage. */
  private tell(what: 'down' | 'refused', reason: string): void {
    this.reason = reason;
    if (this.end.aborted || this.told.has(what)) return;
    this.told.add(what);
    this.logger.warn(`${this.server} cannot be reached: ${reason}. Trying again until it can`);
  }

  private patience(): Promise<S | undefined> {
    const late = delay(PATIENCE_MS, undefined, { signal: this.end, ref: false }).catch(() => undefined);
    return Promise.race([this.arrival.promise, late]);
  }
}

/** What some errors of the client mean. */
const WORDS: Record<string, string> = {
  TimeoutError: 'it does not answer',
  JetStreamNotEnabled: 'JetStream is not enabled there, or no server of the cluster leads the stream now',
};

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return WORDS[error.name] ?? error.message;
}
