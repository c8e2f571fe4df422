import { createHash } from 'node:crypto';

import {
  environmentFactsIn,
  type EnvironmentState,
  type Fact,
  factBody,
  factIn,
  factSubject,
  foldInto,
  isEnvironmentFact,
  type SequencedFact,
  unknownEnvironment,
} from '#libs/domain';
import { type EventLog, UnexpectedSequence } from '#libs/event-log';

/**
 * What the log holds, as the ingestor knows it, and the only way by which facts get in. Every append names the last
 * message of its subject that we know of, so that a second writer is refused and not merged.
 */
export class Ledger {
  private readonly states = new Map<string, EnvironmentState>();
  private lastSequences = new Map<string, number>();
  private appended = 0;
  /** The newest fact of its kind about the account. */
  private readonly accountFacts = new Map<Fact['type'], number>();

  constructor(
    private readonly log: EventLog,
    private readonly now: () => number,
  ) {}

  /** Reads everything from the log. Messages that cannot be read are left out: their entities are published anew. */
  async load(): Promise<void> {
    const lastSequences = new Map<string, number>();
    const facts: SequencedFact[] = [];
    for await (const messages of this.log.latest('FF_FACTS')) {
      for (const { subject, body, position } of messages) {
        lastSequences.set(subject, position.sequence);
        const fact = readable(body);
        if (fact) facts.push({ fact, sequence: position.sequence });
      }
    }
    this.lastSequences = lastSequences;
    this.accountFacts.clear();
    this.states.clear();
    this.fold(facts);
  }

  environment(id: string): EnvironmentState {
    return this.states.get(id) ?? unknownEnvironment(id);
  }

  /** How many facts this process has appended. */
  get appends(): number {
    return this.appended;
  }

  /** The UUIDs of all environments that exist. */
  environments(): string[] {
    return [...this.states.values()].filter((state) => state.exists).map((state) => state.id);
  }

  /** Whether the log has once held the whole account, since its proxy key was last deleted. */
  get snapshotCompleted(): boolean {
    const completed = this.accountFacts.get('SnapshotCompleted') ?? 0;
    return completed > (this.accountFacts.get('ProxyKeyDeleted') ?? 0);
  }

  /** Environments that are still there although the proxy key was deleted after they were added. */
  leftBehind(): string[] {
    const deleted = this.accountFacts.get('ProxyKeyDeleted') ?? 0;
    return this.environments().filter((id) => this.environment(id).lifeSequence < deleted);
  }

  /**
   * Appends facts in their order; on disk when it resolves. If another writer was there first it reads the log again
   * and throws UnexpectedSequence: the facts were decided on what is no longer so.
   */
  async append(facts: readonly Fact[]): Promise<void> {
    const appends = await Promise.allSettled(facts.map((fact) => this.appendOne(fact)));
    this.fold(appends.flatMap((append) => (append.status === 'fulfilled' ? [append.value] : [])));
    const failures = appends.flatMap((append) =>
      append.status === 'rejected' ? [append.reason as unknown] : [],
    );
    if (failures.length === 0) return;
    await this.load();
    throw failures.find((failure) => failure instanceof UnexpectedSequence) ?? failures[0];
  }

  private async appendOne(fact: Fact): Promise<SequencedFact> {
    const subject = factSubject(fact);
    const expectedSequence = this.lastSequences.get(subject) ?? 0;
    // The same fact after the same predecessor is the same append, however often it is tried.
    const id = createHash('sha256')
      .update(JSON.stringify([subject, expectedSequence, fact]))
      .digest('hex');
    const body = factBody(fact, { id, time: this.now() });
    const { sequence } = await this.log.append('FF_FACTS', { subject, id, body, expectedSequence });
    this.lastSequences.set(subject, sequence);
    this.appended++;
    return { fact, sequence };
  }

  private fold(facts: readonly SequencedFact[]): void {
    foldInto(this.states, environmentFactsIn(facts));
    for (const { fact, sequence } of facts) {
      if (!isEnvironmentFact(fact))
        this.accountFacts.set(fact.type, Math.max(sequence, this.accountFacts.get(fact.type) ?? 0));
    }
  }
}

function readable(body: string): Fact | undefined {
  try {
    return factIn(body);
  } catch {
    return undefined;
  }
}
