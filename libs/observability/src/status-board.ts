/** What a part of a process says about itself. */
export interface PartStatus extends Record<string, unknown> {
  /** Whether it does what it is there for, or stands by to do it. */
  readonly ready: boolean;
}

/** What the parts of a process say about themselves, for whoever looks. */
export class StatusBoard {
  private readonly parts = new Map<string, () => PartStatus>();

  /** @param look is called whenever somebody asks, so it must be quick */
  show(part: string, look: () => PartStatus): void {
    this.parts.set(part, look);
  }

  /** Every part, by its name. */
  look(): Record<string, PartStatus> {
    return Object.fromEntries([...this.parts].map(([part, look]) => [part, look()]));
  }
}
