import { Logger } from '@nestjs/common';
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

/** Says one series of a gauge. */
export type SetSeries<Label extends string> = (
  value: number,
  labels?: Readonly<Record<Label, string>>,
) => void;

/** What walks over every socket, and tells no more than `process_open_fds` does. */
const COSTLY = [
  'nodejs_active_handles',
  'nodejs_active_handles_total',
  'nodejs_active_resources',
  'nodejs_active_resources_total',
];

/**
 * What a process counts and measures of itself, as Prometheus reads it. One for each process, never the registry that
 * prom-client shares: several relays may run in one process.
 *
 * A label takes only values whose number has a bound. What strangers send is never one.
 */
export class Telemetry {
  static readonly CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

  private readonly logger = new Logger(Telemetry.name);
  private readonly registry = new Registry();
  private readonly kept = new KeptPage(() => this.registry.metrics());

  /** With what Node says about itself. */
  static ofProcess(): Telemetry {
    const telemetry = new Telemetry();
    collectDefaultMetrics({ register: telemetry.registry });
    for (const name of COSTLY) telemetry.registry.removeSingleMetric(name);
    return telemetry;
  }

  /** The counter of that name; whoever asks for it again gets the same. */
  counter<Label extends string = never>(
    name: string,
    help: string,
    labelNames: readonly Label[] = [],
  ): Counter<Label> {
    const known = this.registry.getSingleMetric(name) as Counter<Label> | undefined;
    return known ?? new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  /** The histogram of that name; whoever asks for it again gets the same. */
  histogram<Label extends string = never>(
    name: string,
    help: string,
    buckets: readonly number[],
    labelNames: readonly Label[] = [],
  ): Histogram<Label> {
    const known = this.registry.getSingleMetric(name) as Histogram<Label> | undefined;
    return (
      known ?? new Histogram({ name, help, buckets: [...buckets], labelNames, registers: [this.registry] })
    );
  }

  /**
   * A gauge that is read when somebody looks.
   *
   * @param read says every series that there is now, and must be quick. What it does not say is absent
   */
  gauge<Label extends string = never>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    read: (set: SetSeries<Label>) => void,
  ): void {
    this.show(Gauge, name, help, labelNames, read);
  }

  /** The same, of what only grows as long as the process lives. */
  total<Label extends string = never>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    read: (set: SetSeries<Label>) => void,
  ): void {
    this.show(Counter, name, help, labelNames, read);
  }

  private show<Label extends string>(
    Kind: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    labelNames: readonly Label[],
    read: (set: SetSeries<Label>) => void,
  ): void {
    const look = this.lookFor(name, read);
    const metric = new Kind<Label>({
      name,
      help,
      labelNames,
      registers: [],
      collect() {
        this.reset();
        // Without labels, it would be 0 now.
        this.remove({});
        look((value, labels) => this.inc((labels ?? {}) as Record<Label, string>, value));
      },
    });
    this.registry.registerMetric(metric);
  }

  /** A look that fails leaves out what it did not say, and is logged once. */
  private lookFor<Label extends string>(
    name: string,
    read: (set: SetSeries<Label>) => void,
  ): (set: SetSeries<Label>) => void {
    let isBroken = false;
    return (set) => {
      try {
        read(set);
      } catch (error) {
        if (!isBroken) this.logger.error(`${name} cannot be read: ${String(error)}`);
        isBroken = true;
      }
    };
  }

  /** Labels that each series has beside its own, where another process has the same series. */
  nameSeries(labels: Readonly<Record<string, string>>): void {
    this.registry.setDefaultLabels(labels);
  }

  /** Everything, in the text format of Prometheus. @param maxAgeMs a page so old will do */
  page(maxAgeMs?: number): Promise<string> {
    return this.kept.page(maxAgeMs);
  }
}

/** A page that takes its time to make, with thousands of sockets and series. Those who ask together share one look. */
export class KeptPage {
  private making: Promise<string> | undefined;
  private last = { page: '', at: Number.NEGATIVE_INFINITY };

  constructor(private readonly make: () => Promise<string>) {}

  /** @param maxAgeMs a page so old will do */
  async page(maxAgeMs = 0): Promise<string> {
    if (performance.now() - this.last.at < maxAgeMs) return this.last.page;
    return (this.making ??= this.remade().finally(() => (this.making = undefined)));
  }

  private async remade(): Promise<string> {
    const page = await this.make();
    this.last = { page, at: performance.now() };
    return page;
  }
}

/** Pages of several processes as one: each metric is introduced once. The labels of its series tell them apart. */
export function joinedPages(pages: readonly string[]): string {
  const metrics = new Map<string, string[]>();
  for (const metric of pages.flatMap((page) => page.trimEnd().split('\n\n'))) {
    const [help, type, ...series] = metric.split('\n');
    if (!help) continue;
    const lines = metrics.get(help) ?? [help, type ?? ''];
    for (const line of series) lines.push(line);
    metrics.set(help, lines);
  }
  return `${[...metrics.values()].map((lines) => lines.join('\n')).join('\n\n')}\n`;
}

/** Seconds of a change on its way, from one room of the relay to the next. */
export const PROPAGATION_BUCKETS_S = [0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** What gateway and forwarder both count, by the same name. */
export const UNSENT_EVALUATIONS = [
  'ff_relay_metrics_unsent_evaluations_total',
  'Evaluations that were taken and dropped, since the settings say that counts are not sent',
] as const;
