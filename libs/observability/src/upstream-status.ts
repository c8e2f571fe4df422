import { z } from 'zod';

export type UpstreamState = 'INITIALIZING' | 'CONNECTED' | 'DISCONNECTED';

/** Under which name the log keeps how the link stands, for processes that have none. */
export const UPSTREAM_NOTE = 'upstream';
/** A report this old is from somebody who reports no more. */
const OUTDATED_MS = 20_000;

const since = <State extends z.ZodType>(state: State) => z.object({ state, since: z.number() });
const snapshot = z.object({
  stream: since(z.enum(['INITIALIZING', 'CONNECTED', 'DISCONNECTED'])),
  config: since(z.enum(['SYNCED', 'FAILED_TO_SYNC'])),
  lastAgreedMs: z.number().optional(),
  at: z.number(),
});
/** How the link stood at a time; times in ms since the epoch. */
export type UpstreamSnapshot = z.infer<typeof snapshot>;

/** How the link to the upstream stands, in the words of the Go relay's /health (protocol §4.4). */
export class UpstreamStatus {
  private current: { readonly state: UpstreamState; readonly since: number };
  private readonly startedAt: number;
  private firstAgreedAt: number | undefined;
  private lastAgreedAt: number | undefined;
  /** When the report that this stands on was made, if it is somebody else's. */
  private reportedAt: number | undefined;
  /** Whether this process has the link itself, and needs no report of it. */
  reporting = false;

  constructor(private readonly now: () => number = Date.now) {
    this.startedAt = now();
    this.current = { state: 'INITIALIZING', since: this.startedAt };
  }

  /** Says where the stream stands; `since` moves only when the state changes. */
  stream(state: UpstreamState): void {
    if (state !== this.current.state) this.current = { state, since: this.now() };
  }

  /** Says that the log and the upstream were compared and agree. */
  agreed(): void {
    this.lastAgreedAt = this.now();
    this.firstAgreedAt ??= this.lastAgreedAt;
  }

  get streamStatus(): { readonly state: UpstreamState; readonly since: number } {
    return this.current;
  }

  /** Whether this process has the link itself, or was told of it by the one that has. */
  get isKnown(): boolean {
    return this.reporting || this.reportedAt !== undefined;
  }

  /** When the log last agreed with the upstream, in ms since the epoch; undefined until it did. */
  get lastAgreedMs(): number | undefined {
    return this.lastAgreedAt;
  }

  /** Whole seconds since the log last agreed with the upstream; undefined until it did. */
  get dataAgeS(): number | undefined {
    if (this.lastAgreedAt === undefined) return undefined;
    // Clocks of processes differ.
    return Math.max(0, Math.floor((this.now() - this.lastAgreedAt) / 1000));
  }

  /** Whether this process has once compared everything with the upstream. */
  get configStatus(): { readonly state: 'SYNCED' | 'FAILED_TO_SYNC'; readonly since: number } {
    return this.firstAgreedAt === undefined
      ? { state: 'FAILED_TO_SYNC', since: this.startedAt }
      : { state: 'SYNCED', since: this.firstAgreedAt };
  }

  snapshot(): UpstreamSnapshot {
    return {
      stream: this.streamStatus,
      config: this.configStatus,
      ...(this.lastAgreedAt !== undefined && { lastAgreedMs: this.lastAgreedAt }),
      at: this.reporting ? this.now() : (this.reportedAt ?? this.now()),
    };
  }

  /** Takes over what the process that has the link reported, unless it is this one. Anything else is passed over. */
  adopt(report: unknown): void {
    const read = snapshot.safeParse(report);
    if (this.reporting || !read.success) return;
    const { stream, config, lastAgreedMs, at } = read.data;
    this.reportedAt = at;
    const outdated = this.now() - at > OUTDATED_MS;
    this.current =
      outdated && stream.state !== 'DISCONNECTED' ? { state: 'DISCONNECTED', since: at } : stream;
    this.lastAgreedAt = lastAgreedMs;
    this.firstAgreedAt = config.state === 'SYNCED' ? config.since : undefined;
  }
}
