import { createHash } from 'node:crypto';

import { Logger } from '@nestjs/common';
import pLimit from 'p-limit';

import {
  type Backoff,
  backoffMs,
  pause,
  type SaasClient,
  type SignedInTarget,
  UpstreamRefusal,
} from '#libs/saas-client';

import { RecentlyUsed } from './recently-used.js';

const AT_ONCE = 4;
/** Those under way are among them. */
const MOST_WAITING = 1000;
/** Each may have 512 KB of attributes. */
const MOST_WAITING_CHARACTERS = 8 * 1024 * 1024;
const TRIES = 4;
/** A target that the upstream forgot is told again after so long. */
const KNOWN_FOR_MS = 3_600_000;
const MOST_KNOWN = 20_000;
const STOP_WITHIN_MS = 500;

/**
 * Tells the upstream of the targets that SDKs sign in with (protocol §2, U7): in the background, each once an hour, as
 * far as they are remembered. It has bounds in all it does, since anybody with the key of a browser's SDK may sign in with
 * as many targets as they like: what does not fit in is dropped and counted, and tried again when it signs in again.
 */
export class TargetForwarder {
  private readonly logger = new Logger(TargetForwarder.name);
  private readonly stopping = new AbortController();
  private readonly limit = pLimit(AT_ONCE);
  /** When a target was taken in, by the digest of it and its SDK key. */
  private readonly known = new RecentlyUsed<number>(MOST_KNOWN);
  private waiting = 0;
  private waitingCharacters = 0;
  private forwarded = 0;
  private dropped = 0;
  private isFailing = false;
  private isFull = false;
  private readonly toldRefusals = new Set<number>();
  private emptied: (() => void) | undefined;

  constructor(
    private readonly saas: Pick<SaasClient, 'registerTarget'>,
    private readonly backoff: Backoff = backoffMs,
    private readonly now: () => number = Date.now,
  ) {}

  /** Returns at once, whatever becomes of it. @param key the SDK key as it is, which is kept until it is told */
  offer(key: string, target: SignedInTarget): void {
    const text = JSON.stringify([key, target]);
    const characters = text.length;
    const digest = createHash('sha256').update(text).digest('base64');
    const knownAt = this.known.get(digest);
    if (knownAt !== undefined && this.now() - knownAt < KNOWN_FOR_MS) return;
    if (!this.hasRoomFor(characters)) {
      this.dropped++;
      return;
    }
    this.known.set(digest, this.now());
    this.waiting++;
    this.waitingCharacters += characters;
    void this.limit(async () => {
      const outcome = await this.forward(key, target);
      if (outcome === 'forwarded') this.forwarded++;
      else this.dropped++;
      if (outcome === 'failed') this.known.delete(digest);
      this.waiting--;
      this.waitingCharacters -= characters;
      if (this.waiting === 0) this.emptied?.();
    });
  }

  status(): { readonly forwarded: number; readonly waiting: number; readonly dropped: number } {
    return { forwarded: this.forwarded, waiting: this.waiting, dropped: this.dropped };
  }

  /** What is not told within a moment is dropped. */
  async stop(): Promise<void> {
    if (this.waiting > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.emptied = resolve;
      const patience = setTimeout(resolve, STOP_WITHIN_MS);
      await promise;
      clearTimeout(patience);
    }
    this.stopping.abort();
  }

  private hasRoomFor(characters: number): boolean {
    const { stopping, waiting, waitingCharacters } = this;
    if (stopping.signal.aborted) return false;
    const isFull = waiting >= MOST_WAITING || waitingCharacters + characters > MOST_WAITING_CHARACTERS;
    if (isFull && !this.isFull) {
      this.logger.warn(`Targets come faster than the upstream takes them: ${waiting} wait, more are dropped`);
    }
    // One that fits beside a large one that did not is no sign of relief.
    if (isFull || waiting === 0) this.isFull = isFull;
    return !isFull;
  }

  private async forward(key: string, target: SignedInTarget): Promise<'forwarded' | 'refused' | 'failed'> {
    const { signal } = this.stopping;
    for (let failures = 0; !signal.aborted;) {
      try {
        await this.saas.registerTarget(key, target, signal);
        if (this.isFailing) this.logger.log('The upstream takes targets again');
        this.isFailing = false;
        return 'forwarded';
      } catch (error) {
        if (signal.aborted) break;
        if (error instanceof UpstreamRefusal && !healsWithTime(error.status)) {
          this.tellRefusal(error);
          return 'refused';
        }
        if (!this.isFailing) {
          this.logger.warn(`Targets do not get through: ${String(error)}; each is tried ${TRIES} times`);
        }
        this.isFailing = true;
        if (++failures === TRIES) break;
        const asked = error instanceof UpstreamRefusal ? error.retryAfterMs : undefined;
        await pause(this.backoff(failures, Math.random(), asked), signal);
      }
    }
    return 'failed';
  }

  /** What is refused is the target's or its key's fault, so others get through: said once for each answer. */
  private tellRefusal({ status, message }: UpstreamRefusal): void {
    if (this.toldRefusals.has(status)) return;
    this.toldRefusals.add(status);
    this.logger.warn(`A target is dropped: ${message}; others that are refused so are only counted`);
  }
}

function healsWithTime(status: number): boolean {
  return status >= 500 || status === 408 || status === 429;
}
