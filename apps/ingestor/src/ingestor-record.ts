import { Logger } from '@nestjs/common';

import type { Fact } from '#libs/domain';
import type { StreamMessage } from '#libs/saas-client';

const MOST_UNKNOWN_KINDS = 100;
/** What those beyond are counted as. */
const OTHERS = 'others';

/** What is tried again. Times in ms since the epoch. */
export interface Failure {
  readonly failures: number;
  readonly since: number;
  readonly reason: string;
  readonly nextTryAt: number;
}

/** What a comparison of the whole account came to. */
export interface ComparisonResult {
  /** When it ended, in ms since the epoch. */
  readonly at: number;
  readonly tookMs: number;
  readonly environments: number;
  /** The facts that it brought into the log, by type. */
  readonly found: Readonly<Record<string, number>>;
}

/** What the ingestor went through, for whoever looks at /status and /metrics. Nothing is decided by it. */
export class IngestorRecord {
  private readonly logger = new Logger('Ingestor');
  readonly messages = { read: 0, unreadable: 0 };
  readonly comparisons = { agreed: 0, failed: 0 };
  retries = 0;
  /** Facts that this process appended, by type. */
  readonly facts = new Map<Fact['type'], number>();
  /** What this relay does not know and the upstream sends: kinds of messages, fields. */
  readonly unknown = new Map<string, number>();
  /** What fails at present, by what it is: `stream`, `account`, or the UUID of an environment and a part of it. */
  readonly failing = new Map<string, Failure>();
  /** When the log last agreed with a read of the whole environment, in ms since the epoch, by UUID. */
  readonly comparedAt = new Map<string, number>();
  lastMessage: { readonly at: number; readonly kind: string; readonly environment: string } | undefined;
  lastComparison: ComparisonResult | undefined;

  /** @param tookIn is told how long a change took from the upstream's message to its fact in the log */
  constructor(readonly tookIn: (ms: number) => void = () => undefined) {}

  heard({ domain, event, environment, unknownFields }: StreamMessage): void {
    this.messages.read++;
    this.lastMessage = { at: Date.now(), kind: `${domain} ${event}`.slice(0, 100), environment };
    this.unknownFields(unknownFields);
  }

  unknownFields(fields: readonly string[]): void {
    for (const field of fields) this.unknownKind(`field ${field}`, 'kept, and otherwise passed over');
  }

  /** Counts it, and logs the first of its kind. */
  unknownKind(kind: string, consequence: string): void {
    const isNew = !this.unknown.has(kind);
    const counted = isNew && this.unknown.size >= MOST_UNKNOWN_KINDS ? OTHERS : kind;
    this.unknown.set(counted, (this.unknown.get(counted) ?? 0) + 1);
    if (!isNew || counted === OTHERS) return;
    this.logger.warn(
      `The upstream sends what this relay does not know, and it is ${consequence}: ${JSON.stringify(kind)}`,
    );
  }

  appended(fact: Fact): void {
    this.facts.set(fact.type, (this.facts.get(fact.type) ?? 0) + 1);
    if (fact.type !== 'EnvironmentRemoved') return;
    this.comparedAt.delete(fact.environment);
    for (const what of this.failing.keys()) if (what.startsWith(fact.environment)) this.failing.delete(what);
  }

  fails(what: string, error: unknown, failures: number, waitMs: number): void {
    this.retries++;
    const now = Date.now();
    const since = this.failing.get(what)?.since ?? now;
    this.failing.set(what, { failures, since, reason: String(error), nextTryAt: now + waitMs });
  }

  succeeds(what: string): void {
    this.failing.delete(what);
  }

  environmentAgreed(environment: string): void {
    this.comparedAt.set(environment, Date.now());
  }

  /** What went on goes on in another process, if at all. */
  stopped(): void {
    this.failing.clear();
    this.comparedAt.clear();
  }

  /** @param environments that exist now */
  status(environments: readonly string[]): object {
    return {
      messages: { ...this.messages, last: this.lastMessage },
      comparisons: { ...this.comparisons, last: this.lastComparison },
      retries: this.retries,
      failing: Object.fromEntries(this.failing),
      unknown: Object.fromEntries(this.unknown),
      facts: Object.fromEntries(this.facts),
      environments: Object.fromEntries(
        environments.map((id) => [id, { comparedAt: this.comparedAt.get(id) ?? null }]),
      ),
    };
  }
}
