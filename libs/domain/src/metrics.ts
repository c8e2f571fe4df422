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

/** A message with counts that the upstream will not take as it is. */
export interface ParkedReport {
  /** Of the message. */
  readonly id: string;
  readonly environment: string;
  /** What the upstream said, or what is wrong with the message. */
  readonly reason: string;
  /** What was refused; undefined if nobody can read it. */
  readonly report?: MetricsReport;
  /** What nobody can read. */
  readonly text?: string;
}
