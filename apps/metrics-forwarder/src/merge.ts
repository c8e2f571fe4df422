import type { EvaluationCount, MetricsReport, ReportedTarget } from '#libs/domain';

const MINUTE_MS = 60_000;
/** What tells counts apart, beside the kind of their target and their minute. */
const TELLING = [
  'featureIdentifier',
  'variationIdentifier',
  'SDK_TYPE',
  'SDK_LANGUAGE',
  'SDK_VERSION',
  'SDK_NAME',
  'JAR_VERSION',
];
/** How SDKs write that they do not tell targets apart. */
const EVERYBODY = new Set(['global', '__global__cf_target']);

/**
 * Many reports of one environment as one. Counts of the same flag, variation, SDK, kind of target and minute are added;
 * each sum has the other attributes of its first count. A target is told once, as it was told last.
 */
export function merge(environment: string, reports: readonly MetricsReport[]): MetricsReport {
  const counts = new Map<string, EvaluationCount>();
  const targets = new Map<string, ReportedTarget>();
  for (const report of reports) {
    for (const count of report.counts) {
      const key = keyOf(count);
      const sum = counts.get(key);
      counts.set(key, sum ? added(sum, count) : count);
    }
    for (const target of report.targets) targets.set(target.identifier, target);
  }
  return { environment, counts: [...counts.values()], targets: [...targets.values()] };
}

/** Two reports that together say the same; undefined if there is nothing to divide. */
export function halvesOf({
  environment,
  counts,
  targets,
}: MetricsReport): readonly [MetricsReport, MetricsReport] | undefined {
  if (counts.length + targets.length < 2) return undefined;
  const half = Math.ceil((counts.length + targets.length) / 2);
  const cut = Math.max(0, half - counts.length);
  return [
    { environment, counts: counts.slice(0, half), targets: targets.slice(0, cut) },
    { environment, counts: counts.slice(half), targets: targets.slice(cut) },
  ];
}

export function evaluationsIn(report: MetricsReport): number {
  return report.counts.reduce((sum, { count }) => sum + count, 0);
}

/** As JSON, in which no two lists are written the same way. */
export function keyOf({ timestamp, attributes }: EvaluationCount): string {
  const { target } = attributes;
  const kind = !target ? 'none' : EVERYBODY.has(target) ? 'everybody' : 'somebody';
  const minute = Math.floor(timestamp / MINUTE_MS);
  return JSON.stringify([minute, kind, ...TELLING.map((name) => attributes[name] ?? null)]);
}

function added(sum: EvaluationCount, next: EvaluationCount): EvaluationCount {
  return {
    ...sum,
    timestamp: Math.min(sum.timestamp, next.timestamp),
    count: sum.count + next.count,
  };
}
