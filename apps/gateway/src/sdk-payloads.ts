/**
 * What SDKs read, in the shapes that every one of them can: lists are never null, absent things are left out and not
 * null, and what some SDK cannot do without is always there (reference: the SDKs' own parsers). The words of the SDK
 * protocol stay in here.
 */
import type { Clause, Flag, ListedTarget, Notice, Segment, ServingRule } from '#libs/domain';
import type { Evaluation } from '#libs/evaluation';

/** Java reads versions of events as 32-bit integers. */
const GREATEST_EVENT_VERSION = 2 ** 31 - 1;

export function sdkFlag(flag: Flag): object {
  const told = withoutNulls(flag);
  return {
    ...told,
    rules: told.rules?.map((rule) => ({ ...rule, clauses: sdkClauses(rule.clauses) })),
    prerequisites: told.prerequisites?.map((each) => ({ ...each, variations: each.variations ?? [] })),
    variationToTargetMap: (told.variationToTargetMap ?? []).map((mapping) => ({
      ...mapping,
      targets: mapping.targets ?? [],
    })),
    version: sdkVersion(told.version),
  };
}

/**
 * A target group for those who read serving rules (`rules=v2`), and for those who do not. The latter know no AND: they
 * get the clauses that decide alone, so the group may match fewer targets, never more.
 */
export function sdkSegment(segment: Segment, servingRules: boolean): object {
  const { rules = [], servingRules: andRules = [], ...rest } = withoutNulls(segment);
  return {
    ...rest,
    included: rest.included?.map(sdkTarget),
    excluded: rest.excluded?.map(sdkTarget),
    ...(andRules.length > 0 && servingRules
      ? { servingRules: andRules.map(sdkServingRule) }
      : { rules: (andRules.length > 0 ? decidingAlone(andRules) : rules).map(sdkClause) }),
    version: sdkVersion(rest.version),
  };
}

function decidingAlone(rules: readonly ServingRule[]): readonly Clause[] {
  return rules.flatMap(({ clauses }) => (clauses?.length === 1 ? clauses : []));
}

/** The message on an SDK's stream; undefined for what SDKs are not told. */
export function sdkEvent({ event, kind, identifier, version, environment }: Notice): string | undefined {
  const domain = { flag: 'flag', segment: 'target-segment', apikey: undefined, environment: undefined }[kind];
  if (!domain) return undefined;
  return JSON.stringify({
    event,
    domain,
    identifier,
    version: Math.min(sdkVersion(version), GREATEST_EVENT_VERSION),
    environment,
  });
}

/** What a client SDK is told of a flag. @param goRelayJson JSON values as the Go relay writes them: once more as text */
export function sdkEvaluation({ flag, variation, kind, value }: Evaluation, goRelayJson: boolean): object {
  return {
    flag,
    identifier: variation,
    kind,
    value: goRelayJson && kind === 'json' ? goText(value) : value,
  };
}

/** Where Go's JSON differs from JavaScript's. */
const GO_ESCAPES: Readonly<Record<string, string>> = {
  '<': '\\u003c',
  '>': '\\u003e',
  '&': '\\u0026',
  '\u2028': '\\u2028',
  '\u2029': '\\u2029',
  '\\b': '\\u0008',
  '\\f': '\\u000c',
};

function goText(text: string): string {
  return JSON.stringify(text).replaceAll(/\\.|[<>&\u2028\u2029]/g, (found) => GO_ESCAPES[found] ?? found);
}

export function sdkVersion(version: number | null | undefined): number {
  return Math.max(1, version ?? 1);
}

function sdkClauses(clauses: readonly Clause[] | null | undefined): readonly object[] {
  return (clauses ?? []).map(sdkClause);
}

function sdkClause(clause: Clause): object {
  return { ...clause, values: clause.values ?? [], negate: clause.negate ?? false };
}

function sdkServingRule(rule: ServingRule): object {
  return {
    ...rule,
    ruleId: rule.ruleId ?? `rule-${rule.priority}`,
    clauses: sdkClauses(rule.clauses),
  };
}

function sdkTarget(target: ListedTarget): object {
  return {
    ...target,
    account: target.account ?? '',
    org: target.org ?? '',
    project: target.project ?? '',
    environment: target.environment ?? '',
  };
}

/** An entity whose fields are there or not, and never null. */
type Told<Entity> = { readonly [Field in keyof Entity]: Exclude<Entity[Field], null> };

/** The same, without the fields that are null, at any depth. */
function withoutNulls<Value>(value: Value): Told<Value> {
  if (Array.isArray(value)) return value.map(withoutNulls) as Told<Value>;
  if (typeof value !== 'object' || value === null) return value as Told<Value>;
  const fields = Object.entries(value).filter(([, field]) => field !== null);
  return Object.fromEntries(fields.map(([name, field]) => [name, withoutNulls(field)])) as Told<Value>;
}
