export type UpstreamState = 'INITIALIZING' | 'CONNECTED' | 'DISCONNECTED';

/** How the link to the upstream stands, in the words of the Go relay's /health (protocol §4.4). */
export class UpstreamStatus {
  private current: { readonly state: UpstreamState; readonly since: number };
  private readonly startedAt: number;
  private firstAgreedAt: number | undefined;
  private lastAgreedAt: number | undefined;

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

  /** When the log last agreed with the upstream, in ms since the epoch; undefined until it did. */
  get lastAgreedMs(): number | undefined {
    return this.lastAgreedAt;
  }

  /** Whether this process has once compared everything with the upstream. */
  get configStatus(): { readonly state: 'SYNCED' | 'FAILED_TO_SYNC'; readonly since: number } {
    return this.firstAgreedAt === undefined
      ? { state: 'FAILED_TO_SYNC', since: this.startedAt }
      : { state: 'SYNCED', since: this.firstAgreedAt };
  }
}
