import type { EnvironmentFact, Flag, Segment } from './index.js';

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
    rules: [],
    prerequisites: [],
    variationToTargetMap: [],
    version: 1,
    ...changes,
  };
}

export function aSegment(identifier: string, changes: Partial<Segment> = {}): Segment {
  return {
    identifier,
    name: identifier,
    included: [],
    excluded: [],
    rules: [],
    servingRules: [],
    version: 1,
    ...changes,
  };
}

export const flagPublished = (feature: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'FlagPublished',
  environment,
  flag: aFlag(feature, { version }),
});

export const flagRemoved = (identifier: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'FlagRemoved',
  environment,
  identifier,
  version,
});

export const segmentPublished = (identifier: string, version = 1, environment = 'dev'): EnvironmentFact => ({
  type: 'SegmentPublished',
  environment,
  segment: aSegment(identifier, { version }),
});

export const apiKeyAdded = (apiKey: string, environment = 'dev'): EnvironmentFact => ({
  type: 'ApiKeyAdded',
  environment,
  apiKey,
});

export const environmentAdded = (environment = 'dev'): EnvironmentFact => ({
  type: 'EnvironmentAdded',
  environment,
  account: 'demo',
});

export const environmentRemoved = (environment = 'dev'): EnvironmentFact => ({
  type: 'EnvironmentRemoved',
  environment,
});
