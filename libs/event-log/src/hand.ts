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

/**
 * What is out to one taker: no more than it may have, and each message only as long as the taker says that it is still at
 * it. A message counts from its arrival, whether the taker has looked at it or not.
 */
export class Hand {
  private readonly held = new Map<Offer, NodeJS.Timeout>();
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

  hold(offer: Offer): void {
    this.bytes += offer.body.length;
    const lapse = () => {
      this.release(offer);
      offer.lapse();
    };
    this.held.set(offer, setTimeout(lapse, TAKEN_FOR_MS).unref());
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
          if (this.held.has(offer)) yield this.taken(offer);
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
        if (this.release(offer)) await offer.back(delayMs);
      },
      keep: async () => {
        this.held.get(offer)?.refresh();
        await offer.keep();
      },
    };
  }

  /** False if it was not held any more. */
  private release(offer: Offer): boolean {
    const lapse = this.held.get(offer);
    if (!lapse) return false;
    clearTimeout(lapse);
    this.held.delete(offer);
    this.bytes -= offer.body.length;
    this.freed.resolve();
    this.freed = Promise.withResolvers();
    if (this.held.size === 0) this.emptied();
    return true;
  }
}
