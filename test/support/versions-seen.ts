import type { Flag, Segment } from '#libs/domain';

import type { Lived } from './upstream-world.js';

/** What one reader saw of flags and groups, one after the other, and which versions went back though nothing began anew. */
export class VersionsSeen {
  /** What went back, in words. */
  readonly wentBack: string[] = [];
  private readonly last = new Map<string, Lived & { readonly version: number }>();

  see(name: string, entity: (Flag | Segment) & Lived): void {
    const now = { life: entity.life, version: entity.version ?? 0 };
    const before = this.last.get(name) ?? { life: 0, version: 0 };
    this.last.set(name, now);
    const isSame = now.life === before.life && now.version === before.version;
    // An older life at a higher version is nothing that a reader could tell from a change.
    if (!isSame && now.life <= before.life && now.version <= before.version) {
      this.wentBack.push(
        `${name} went from version ${before.version} of life ${before.life} to ${now.version} of ${now.life}`,
      );
    }
  }
}
