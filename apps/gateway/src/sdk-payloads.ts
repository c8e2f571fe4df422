/**
 * What SDKs read, in the shapes that every one of them can: lists are never null, absent things are left out and not
 * null, and what some SDK cannot do without is always there (reference: the SDKs' own parsers). The words of the SDK
 * protocol stay in here.
 */
import type { Clause, Flag, ListedTarget, Notice, Segment, Serve } from '#libs/domain';

/** Java reads versions of events as 32-bit integers. */
const GREATEST_EVENT_VERSION = 2 ** 31 - 1;

export function sdkFlag(flag: Flag): object {
  return {
    ...present(flag),
    defaultServe: sdkServe(flag.defaultServe),
    rules: flag.rules?.map((rule) => ({
      ...present(rule),
      clauses: rule.clauses.map(sdkClause),
      serve: sdkServe(rule.serve),
    })),
    prerequisites: flag.prerequisites ?? undefined,
    variationToTargetMap: (flag.variationToTargetMap ?? []).map((mapping) => ({
      ...present(mapping),
      targets: mapping.targets ?? [],
    })),
    version: sdkVersion(flag.version),
  };
}

/**
 * A target group for those who read serving rules (`rules=v2`), and for those who do not. The latter know no AND: they
 * get the clauses that decide alone, so the group may match fewer targets, never more.
 */
export function sdkSegment(segment: Segment, servingRules: boolean): object {
  const { rules, servingRules: andRules, ...rest } = segment;
  const hasAndRules = (andRules?.length ?? 0) > 0;
  return {
    ...present(rest),
    included: segment.included?.map(sdkTarget),
    excluded: segment.excluded?.map(sdkTarget),
    ...(hasAndRules && servingRules
      ? {
          servingRules: andRules?.map((rule) => ({
            ...present(rule),
            ruleId: rule.ruleId ?? `rule-${rule.priority}`,
            clauses: rule.clauses.map(sdkClause),
          })),
        }
      : { rules: (hasAndRules ? decidingAlone(segment) : (rules ?? [])).map(sdkClause) }),
    version: sdkVersion(segment.version),
  };
}

function decidingAlone({ servingRules }: Segment): readonly Clause[] {
  return (servingRules ?? []).flatMap(({ clauses }) => (clauses.length === 1 ? clauses : []));
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

function sdkVersion(version: number | null | undefined): number {
  return Math.max(1, version ?? 1);
}

function sdkServe(serve: Serve): object {
  return present(serve);
}

function sdkClause(clause: Clause): object {
  return { ...clause, negate: clause.negate ?? false };
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

/** The object without what is null. */
function present<T extends object>(object: T): Partial<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null)) as Partial<T>;
}
