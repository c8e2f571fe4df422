import { LAGGING_READS } from './announcements.js';

/** The upstream lets a proxy key have 1,000 environments. */
const MOST = 1000;

/** Environments that the upstream said were added and has not listed yet, by UUID. */
export class AddedEnvironments {
  /** How many reads of the account did not list it. */
  private readonly reads = new Map<string, number>();

  get ids(): readonly string[] {
    return [...this.reads.keys()];
  }

  add(ids: readonly string[]): void {
    for (const id of ids) if (this.reads.size < MOST || this.reads.has(id)) this.reads.set(id, 0);
  }

  /** It is listed, or was removed. */
  delete(id: string): void {
    this.reads.delete(id);
  }

  /** The account was read. @returns what it still lacks, and what it lacked so often that it is given up now */
  listed(ids: ReadonlySet<string>): {
    readonly missing: readonly string[];
    readonly givenUp: readonly string[];
  } {
    for (const [id, reads] of this.reads) {
      if (ids.has(id)) this.reads.delete(id);
      else this.reads.set(id, reads + 1);
    }
    const givenUp = this.ids.filter((id) => this.reads.get(id) === LAGGING_READS);
    for (const id of givenUp) this.reads.delete(id);
    return { missing: this.ids, givenUp };
  }
}
