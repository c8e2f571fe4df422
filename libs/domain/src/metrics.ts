/** How often flags of one environment were evaluated, as one SDK or several counted it (protocol §2.1, §4.4). */
export interface MetricsReport {
  /** UUID. */
  readonly environment: string;
  readonly counts: readonly EvaluationCount[];
  /** Who the flags were evaluated for; not everybody, and each at least once in the life of an SDK. */
  readonly targets: readonly ReportedTarget[];
}

/** So many evaluations that gave the same variation. */
export interface EvaluationCount {
  /** When they were counted, in ms since the epoch. */
  readonly timestamp: number;
  readonly count: number;
  /** As the SDK named them; `featureIdentifier` and `variationIdentifier` are always among them. */
  readonly attributes: Readonly<Record<string, string>>;
}

export interface ReportedTarget {
  readonly identifier: string;
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
}
