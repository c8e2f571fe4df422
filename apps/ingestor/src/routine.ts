/** What is due once in an interval, whatever else happens meanwhile. The first time an interval from now. */
export class Routine {
  private due = false;
  private timer: NodeJS.Timeout | undefined;

  /** @param whenDue is told once each time */
  constructor(
    private readonly intervalMs: number,
    private readonly whenDue: () => void,
  ) {
    this.isSeenTo();
  }

  get isDue(): boolean {
    return this.due;
  }

  /** It is due again after an interval. */
  isSeenTo(): void {
    this.due = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.due = true;
      this.whenDue();
    }, this.intervalMs);
  }

  end(): void {
    clearTimeout(this.timer);
  }
}
