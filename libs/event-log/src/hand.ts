import type { Taken } from './event-log.js';
import { orEnd } from './or-end.js';

/** How long a taker may be silent about a message. */
export const TAKEN_FOR_MS = 30_000;
/** What may be out to one taker; the last message may go beyond the bytes. */
const MOST_MESSAGES = 2000;
const MOST_BYTES = 64 * 1024 * 1024;

/** A message that an adapter gives to one taker. */
export interface Offer {
  readonly subject: string;
  readonly body: string;
  readonly time: number;
  done(): Promise<void>;
  back(delayMs: number): Promise<void>;
  keep(): Promise<void>;
  /** The taker was silent for too long, and the message is not its any more. */
  lapse(): void;
}

/** For how long a message is its taker's, by the clock of `performance`. */
interface Hold {
  readonly untilMs: number;
  readonly lapse: NodeJS.Timeout;
}

/**
 * What is out to one taker: no more than it may have, and each message only as long as the taker says that it is still at
 * it. A message counts from its arrival, whether the taker has looked at it or not.
 */
export class Hand {
  private readonly held = new Map<Offer, Hold>();
  private bytes = 0;
  private freed = Promise.withResolvers<void>();
  private emptied: () => void = () => undefined;

  /** Calls back as soon as nothing is out to the taker. */
  whenEmpty(emptied: () => void): void {
    this.emptied = emptied;
    if (this.held.size === 0) emptied();
  }

  get full(): boolean {
    return this.held.size >= MOST_MESSAGES || this.bytes >= MOST_BYTES;
  }

  /** How many more messages may come, of a size that they do not exceed. */
  roomFor(bytes: number): number {
    if (this.full) return 0;
    return Math.min(
      MOST_MESSAGES - this.held.size,
      Math.max(1, Math.floor((MOST_BYTES - this.bytes) / bytes)),
    );
  }

  /** Resolves once it is not full, or with `end`. */
  async untilRoom(end: AbortSignal): Promise<void> {
    while (this.full && !end.aborted) await orEnd(this.freed.promise, end);
  }

  /** @param sinceMs before this the log did not give it out */
  hold(offer: Offer, sinceMs = performance.now()): void {
    this.bytes += offer.body.length;
    this.holdFrom(offer, sinceMs);
  }

  /** Hands out what arrives until `end`, and then gives back what the taker has not looked at. */
  async *handOut(arrivals: AsyncIterable<readonly Offer[]>, end: AbortSignal): AsyncIterable<Taken> {
    const unseen: Offer[] = [];
    try {
      for await (const offers of arrivals) {
        unseen.push(...offers);
        while (!end.aborted) {
          const offer = unseen.shift();
          if (!offer) break;
          if (this.isHeld(offer)) yield this.taken(offer);
        }
      }
    } finally {
      await this.giveBack(unseen);
    }
  }

  /** Those of the offers that are held, or all. */
  async giveBack(offers: Iterable<Offer> = this.held.keys()): Promise<void> {
    const held = [...offers].filter((offer) => this.release(offer));
    // Who cannot be told finds out when the time is over.
    await Promise.allSettled(held.map((offer) => offer.back(0)));
  }

  private taken(offer: Offer): Taken {
    const { subject, body, time } = offer;
    return {
      subject,
      body,
      time,
      done: async () => {
        await offer.done();
        this.release(offer);
      },
      back: async (delayMs = 0) => {
        if (this.isHeld(offer) && this.release(offer)) await offer.back(delayMs);
      },
      keep: async () => {
        const askedMs = performance.now();
        if (this.isHeld(offer)) await offer.keep();
        // What the log heard too late may have been given to another before, and it does not say so.
        if (!this.isHeld(offer)) throw new Error('the message may be in the hands of another taker');
        this.holdFrom(offer, askedMs);
      },
    };
  }

  private holdFrom(offer: Offer, sinceMs: number): void {
    const before = this.held.get(offer);
    clearTimeout(before?.lapse);
    const untilMs = Math.max(sinceMs + TAKEN_FOR_MS, before?.untilMs ?? 0);
    const lapse = () => {
      this.release(offer);
      offer.lapse();
    };
    this.held.set(offer, { untilMs, lapse: setTimeout(lapse, untilMs - performance.now()).unref() });
  }

  /** In a process that stood still, the time may be over and the timer late. */
  private isHeld(offer: Offer): boolean {
    return performance.now() < (this.held.get(offer)?.untilMs ?? 0);
  }

  /** False if it was not held any more. */
  private release(offer: Offer): boolean {
    const hold = this.held.get(offer);
    if (!hold) return false;
    clearTimeout(hold.lapse);
    this.held.delete(offer);
    this.bytes -= offer.body.length;
    this.freed.resolve();
    this.freed = Promise.withResolvers();
    if (this.held.size === 0) this.emptied();
    return true;
  }
}
