/** A job that runs when it is wanted; wanted while it runs, it runs once more, however often it was wanted. */
export class Coalesced {
  private wanted = false;
  private running = false;
  private wantedAgain = new AbortController();

  /** @param job deals with its own failures; its signal aborts when it is wanted once more */
  constructor(private readonly job: (wantedAgain: AbortSignal) => Promise<void>) {}

  want(): void {
    this.wanted = true;
    this.wantedAgain.abort();
    if (!this.running) void this.run();
  }

  private async run(): Promise<void> {
    this.running = true;
    while (this.wanted) {
      this.wanted = false;
      this.wantedAgain = new AbortController();
      await this.job(this.wantedAgain.signal);
    }
    this.running = false;
  }
}
