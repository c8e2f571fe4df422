/** A map that is bounded in entries and in weight: what was not used for longest goes first. */
export class RecentlyUsed<Value> {
  /** In the order of their last use. */
  private readonly entries = new Map<string, { readonly value: Value; readonly weight: number }>();
  private weight = 0;

  constructor(
    private readonly mostEntries: number,
    private readonly mostWeight = Number.POSITIVE_INFINITY,
  ) {}

  get(key: string): Value | undefined {
    const entry = this.entries.get(key);
    if (!entry) return undefined;
    this.entries.delete(key);
    this.entries.set(key, entry);
    return entry.value;
  }

  /** Keeps a value, unless it alone is over the weight that all may have. */
  set(key: string, value: Value, weight = 0): void {
    this.delete(key);
    if (weight > this.mostWeight) return;
    this.entries.set(key, { value, weight });
    this.weight += weight;
    for (const oldest of this.entries.keys()) {
      if (this.entries.size <= this.mostEntries && this.weight <= this.mostWeight) break;
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    this.weight -= this.entries.get(key)?.weight ?? 0;
    this.entries.delete(key);
  }

  get size(): number {
    return this.entries.size;
  }
}
