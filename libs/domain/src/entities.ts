/**
 * What the upstream publishes and SDKs read, in the shapes of the SDK protocol (OpenAPI `client-v1`).
 * Fields that are not named here are kept as they came. Optional lists may be absent or null.
 */

export interface Variation {
  readonly identifier: string;
  /** Always text, for every kind of flag. */
  readonly value: string;
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
}

export interface Serve {
  readonly variation?: string | null | undefined;
  readonly distribution?:
    | { readonly bucketBy: string; readonly variations: readonly { variation: string; weight: number }[] }
    | null
    | undefined;
}

export interface Clause {
  readonly id?: string | null | undefined;
  readonly attribute: string;
  readonly op: string;
  readonly values?: readonly string[] | null | undefined;
  readonly negate?: boolean | null | undefined;
}

export interface FlagRule {
  readonly ruleId?: string | null | undefined;
  readonly priority: number;
  readonly clauses?: readonly Clause[] | null | undefined;
  readonly serve: Serve;
}

export interface VariationMapping {
  readonly variation: string;
  readonly targets?: readonly { readonly identifier: string; readonly name: string }[] | null | undefined;
  readonly targetSegments?: readonly string[] | null | undefined;
}

export interface Prerequisite {
  readonly feature: string;
  readonly variations?: readonly string[] | null | undefined;
}

/** A flag in one environment (the protocol's FeatureConfig). */
export interface Flag {
  readonly feature: string;
  readonly project: string;
  /** The environment's identifier (`dev`), not its UUID. */
  readonly environment: string;
  readonly kind: 'boolean' | 'int' | 'string' | 'json';
  readonly state: 'on' | 'off';
  readonly variations: readonly Variation[];
  readonly offVariation: string;
  readonly defaultServe: Serve;
  readonly rules?: readonly FlagRule[] | null | undefined;
  readonly prerequisites?: readonly Prerequisite[] | null | undefined;
  readonly variationToTargetMap?: readonly VariationMapping[] | null | undefined;
  readonly version?: number | null | undefined;
}

/** A target as target groups list it. */
export interface ListedTarget {
  readonly identifier: string;
  readonly name: string;
  readonly account?: string | null | undefined;
  readonly org?: string | null | undefined;
  readonly project?: string | null | undefined;
  readonly environment?: string | null | undefined;
}

export interface ServingRule {
  readonly ruleId?: string | null | undefined;
  readonly priority: number;
  readonly clauses?: readonly Clause[] | null | undefined;
}

/** A target group. `rules`: any clause matches; `servingRules`: any rule whose clauses all match. */
export interface Segment {
  readonly identifier: string;
  readonly name: string;
  readonly environment?: string | null | undefined;
  readonly included?: readonly ListedTarget[] | null | undefined;
  readonly excluded?: readonly ListedTarget[] | null | undefined;
  readonly rules?: readonly Clause[] | null | undefined;
  readonly servingRules?: readonly ServingRule[] | null | undefined;
  readonly version?: number | null | undefined;
}

/** The order of lists everywhere: by identifier, code unit by code unit, so that equal sets are equal bytes. */
export function byIdentifier(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
