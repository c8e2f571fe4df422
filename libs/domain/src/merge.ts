/**
 * Adding up evaluation counts. Sums per key are the same however reports are divided, put together, repeated in another
 * order and added again.
 */
import type { EvaluationCount, MetricsReport, ReportedTarget } from './metrics.js';

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
 * Reports of one environment as they become one. Counts of the same flag, variation, SDK, kind of target and minute are
 * added; each sum has the other attributes of its first count. A target is told once, as it was told last.
 */
export class Sum {
  private readonly counts = new Map<string, EvaluationCount>();
  private readonly targets = new Map<string, ReportedTarget>();
  private written = 0;

  constructor(private readonly environment: string) {}

  /** About as many characters as it takes to write it as JSON. */
  get characters(): number {
    return this.written;
  }

  get isEmpty(): boolean {
    return this.counts.size + this.targets.size === 0;
  }

  add({ counts, targets }: Pick<MetricsReport, 'counts' | 'targets'>): void {
    for (const count of counts) this.addCount(count);
    for (const target of targets) this.addTarget(target);
  }

  addCount(count: EvaluationCount): void {
    const key = keyOf(count);
    const sum = this.counts.get(key);
    if (!sum) this.written += JSON.stringify(count).length + 1;
    this.counts.set(key, sum ? added(sum, count) : count);
  }

  addTarget(target: ReportedTarget): void {
    this.written += JSON.stringify(target).length + 1;
    this.targets.set(target.identifier, target);
  }

  report(): MetricsReport {
    return {
      environment: this.environment,
      counts: [...this.counts.values()],
      targets: [...this.targets.values()],
    };
  }
}

export function merge(environment: string, reports: readonly MetricsReport[]): MetricsReport {
  const sum = new Sum(environment);
  for (const report of reports) sum.add(report);
  return sum.report();
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

export function evaluationsIn(report: Pick<MetricsReport, 'counts'>): number {
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
