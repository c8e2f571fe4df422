import type { Flag, Segment } from '#libs/domain';

/** Entities for specs: whole and valid, with what the sentence at hand mentions. */

export function aFlag(feature: string, changes: Partial<Flag> = {}): Flag {
  return {
    feature,
    project: 'demo',
    environment: 'dev',
    kind: 'boolean',
    state: 'off',
    variations: [
      { identifier: 'true', value: 'true' },
      { identifier: 'false', value: 'false' },
    ],
    offVariation: 'false',
    defaultServe: { variation: 'true' },
    version: 1,
    ...changes,
  };
}

export function aSegment(identifier: string, changes: Partial<Segment> = {}): Segment {
  return { identifier, name: identifier, version: 1, ...changes };
}
