import { type Backoff, pause, UpstreamRefusal } from '#libs/saas-client';

/** A time to wait before the next try. */
export interface Delay {
  readonly ms: number;
  /** The part of it that the upstream asked for (`Retry-After`). */
  readonly askedMs: number;
}

/** How long to wait between tries: ever longer, until there is reason to believe that the next one goes better. */
export class Patience {
  private hurry = new AbortController();

  constructor(
    private readonly backoff: Backoff,
    private readonly stopping: AbortSignal,
  ) {}

  /** @param failures so far, 1 or more */
  after(failures: number, error?: unknown): Delay {
    const asked = askedMs(error);
    const ms = this.backoff(failures, Math.random(), asked);
    return { ms, askedMs: Math.min(asked, ms) };
  }

  /** The longest wait after so many tries that found nothing to do. */
  idle(tries: number): Delay {
    return { ms: this.backoff(tries, 1), askedMs: 0 };
  }

  /** What the upstream asked for is waited for whatever happens; the rest until `end`, or until it is wanted sooner. */
  async wait({ ms, askedMs }: Delay, sooner: readonly AbortSignal[] = []): Promise<void> {
    const { signal } = this.hurry;
    await pause(askedMs, this.stopping);
    await pause(ms - askedMs, AbortSignal.any([this.stopping, signal, ...sooner]));
  }

  /** Everyone who waits tries again now. */
  end(): void {
    this.hurry.abort();
    this.hurry = new AbortController();
  }
}

/** How long the upstream asked to wait, if it did. */
export function askedMs(error: unknown): number {
  return error instanceof UpstreamRefusal ? (error.retryAfterMs ?? 0) : 0;
}

/** For log lines. */
export function seconds({ ms }: Pick<Delay, 'ms'>): string {
  return `${Math.ceil(ms / 1000)} s`;
}
