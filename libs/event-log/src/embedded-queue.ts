import type { StoredMessage } from './embedded-worker.js';
import type { Hand, Offer } from './hand.js';
import { orEnd } from './or-end.js';

/** What the queue asks of the file. */
export interface QueueFile {
  after(sequence: number): Promise<StoredMessage[]>;
  /** Those that are still there, in their order; not always all at once. */
  messages(sequences: readonly number[]): Promise<StoredMessage[]>;
  remove(sequence: number): Promise<void>;
}

const PORTION_MESSAGES = 500;

/**
 * Who has which message of the queue. All takers are of this process, so that it need not be written down: after a
 * restart nobody has any, and all that is there is handed out anew.
 */
export class EmbeddedQueue {
  /** Everything up to here has been loaded. */
  private loadedTo = 0;
  private loaded: StoredMessage[] = [];
  /** Messages that were given back, and may be taken again. */
  private readonly returned = new Set<number>();
  private loading: Promise<void> | undefined;
  private changed = Promise.withResolvers<void>();

  constructor(private readonly file: QueueFile) {}

  /** There may be something new. */
  wake(): void {
    this.changed.resolve();
    this.changed = Promise.withResolvers();
  }

  /** Messages for a hand as there is room in it, until `end`; one at a time, so that other takers get theirs. */
  async *offers(hand: Hand, end: AbortSignal): AsyncIterable<readonly Offer[]> {
    for (;;) {
      await hand.untilRoom(end);
      if (end.aborted) return;
      const message = this.loaded.shift();
      if (message) {
        const offer = this.offer(message);
        hand.hold(offer);
        yield [offer];
      } else {
        await this.load(end);
      }
    }
  }

  private offer({ sequence, ...message }: StoredMessage): Offer {
    const comeBack = () => {
      this.returned.add(sequence);
      this.wake();
    };
    return {
      ...message,
      done: async () => {
        await this.file.remove(sequence);
        // If its taker was late, it may be on its way to another.
        this.returned.delete(sequence);
        this.loaded = this.loaded.filter((other) => other.sequence !== sequence);
      },
      back: async (delayMs) => void setTimeout(comeBack, delayMs).unref(),
      keep: async () => undefined,
      lapse: comeBack,
    };
  }

  /** Resolves when there may be something to hand out. */
  private async load(end: AbortSignal): Promise<void> {
    const changed = this.changed.promise;
    this.loading ??= this.loadPortion().finally(() => (this.loading = undefined));
    await this.loading;
    if (this.loaded.length === 0) await orEnd(changed, end);
  }

  private async loadPortion(): Promise<void> {
    const due = [...this.returned].toSorted((a, b) => a - b).slice(0, PORTION_MESSAGES);
    if (due.length > 0) {
      const stored = await this.file.messages(due);
      const last = stored.at(-1)?.sequence ?? Number.POSITIVE_INFINITY;
      for (const sequence of due) if (sequence <= last) this.returned.delete(sequence);
      this.loaded.push(...stored);
    } else {
      const stored = await this.file.after(this.loadedTo);
      this.loadedTo = stored.at(-1)?.sequence ?? this.loadedTo;
      this.loaded.push(...stored);
    }
  }
}
