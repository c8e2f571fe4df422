import { apiKeysOf, type EnvironmentState, flagIn, flagsOf, segmentIn, segmentsOf } from './environment.js';
import type { EnvironmentFact } from './facts.js';
import { reconcile } from './reconcile.js';

/** "This changed and is readable now": what SDKs and external tools are told, after the store holds it. */
export interface Notice {
  readonly event: 'create' | 'patch' | 'delete';
  readonly kind: 'flag' | 'segment' | 'apikey' | 'environment';
  readonly environment: string;
  readonly identifier: string;
  /** The entity's version; 0 for what has none. */
  readonly version: number;
}

/** The notice of a fact, given the environment as it was before it. */
export function noticeOf(before: EnvironmentState, fact: EnvironmentFact): Notice {
  const { environment } = fact;
  switch (fact.type) {
    case 'FlagPublished': {
      const { feature: identifier, version } = fact.flag;
      const event = flagIn(before, identifier) ? 'patch' : 'create';
      return { event, kind: 'flag', environment, identifier, version: version ?? 0 };
    }
    case 'FlagRemoved':
      return {
        event: 'delete',
        kind: 'flag',
        environment,
        identifier: fact.identifier,
        version: fact.version,
      };
    case 'SegmentPublished': {
      const { identifier, version } = fact.segment;
      const event = segmentIn(before, identifier) ? 'patch' : 'create';
      return { event, kind: 'segment', environment, identifier, version: version ?? 0 };
    }
    case 'SegmentRemoved':
      return {
        event: 'delete',
        kind: 'segment',
        environment,
        identifier: fact.identifier,
        version: fact.version,
      };
    case 'ApiKeyAdded':
      return { event: 'create', kind: 'apikey', environment, identifier: fact.apiKey, version: 0 };
    case 'ApiKeyRemoved':
      return { event: 'delete', kind: 'apikey', environment, identifier: fact.apiKey, version: 0 };
    case 'EnvironmentAdded':
      return { event: 'create', kind: 'environment', environment, identifier: environment, version: 0 };
    case 'EnvironmentRemoved':
      return { event: 'delete', kind: 'environment', environment, identifier: environment, version: 0 };
  }
}

/** The notices of all that differs between two states of an environment, whatever facts led from one to the other. */
export function differences(before: EnvironmentState, after: EnvironmentState): readonly Notice[] {
  if (!after.exists) {
    return before.exists ? [noticeOf(before, { type: 'EnvironmentRemoved', environment: before.id })] : [];
  }
  const fetched = {
    id: after.id,
    flags: flagsOf(after),
    segments: segmentsOf(after),
    apiKeys: apiKeysOf(after),
  };
  return reconcile(before, fetched).map((fact) => noticeOf(before, fact));
}
