import pLimit from 'p-limit';

import { type Notice, noticeIn, noticeSubjectsOf } from '#libs/domain';
import type { EventLog } from '#libs/event-log';

/** Of all environments together. Beyond that, those that nobody asked for longest are read from the log again. */
const MOST_CHANGES = 100_000;
const MOST_READS_AT_ONCE = 4;

/** The last notice about an entity. */
export interface Change extends Notice {
  readonly sequence: number;
  /** When it was appended, in ms since the epoch. */
  readonly time: number;
}

/** The last notice about each entity of one environment. */
export class EnvironmentChanges {
  /** By kind and identifier, in the order of the log. */
  private readonly last = new Map<string, Change>();
  /** What was told up to here is not kept any more, and only known if it was told since. */
  keptAfter = 0;

  get size(): number {
    return this.last.size;
  }

  /** The last notice about each flag and group. */
  get entities(): readonly Change[] {
    return [...this.last.values()].filter(isEntity);
  }

  put(change: Change): void {
    const entity = `${change.kind}/${change.identifier}`;
    if ((this.last.get(entity)?.sequence ?? 0) >= change.sequence) return;
    this.last.delete(entity);
    this.last.set(entity, change);
  }

  /** Adds what was read from the log while some was put already. */
  merge(read: readonly Change[]): void {
    const all = [...read, ...this.last.values()].toSorted((a, b) => a.sequence - b.sequence);
    this.last.clear();
    for (const change of all) this.put(change);
  }

  /** What comes in the log before the first notice that is not older than that. */
  before(time: number): number {
    const first = this.last.values().find((change) => change.time >= time);
    return first ? first.sequence - 1 : Number.MAX_SAFE_INTEGER;
  }

  /**
   * The last notices, later than `after` and not later than `until`, about flags and groups that somebody who heard
   * everything up to `after` may know otherwise; 'unknown' if it takes more than these to tell.
   */
  between(after: number, until: number): readonly Change[] | 'unknown' {
    const began = this.began();
    let from = after;
    if (began && began.sequence > after && began.sequence <= until) {
      if (began.isAgain) return 'unknown';
      from = began.servedFrom;
    }
    return this.entities.filter(({ sequence }) => sequence > from && sequence <= until);
  }

  /** When the environment's present life began. Nobody could read it before it had an SDK key, which comes last. */
  private began() {
    const all = [...this.last.values()];
    const environment = all.find(({ kind }) => kind === 'environment');
    if (environment?.event !== 'create') return undefined;
    const { sequence } = environment;
    const keys = all.filter((change) => change.kind === 'apikey' && change.sequence > sequence);
    return {
      sequence,
      isAgain: all.some((change) => change.sequence < sequence),
      // The first key may be one that is gone: when it came is not known then.
      servedFrom: keys.every(({ event }) => event === 'create')
        ? (keys[0]?.sequence ?? Number.MAX_SAFE_INTEGER)
        : sequence,
    };
  }
}

/** What changed last in the environments whose streams ask for it: read from the log once, then kept up with what is told. */
export class LastChanges {
  private readonly known = new Map<string, EnvironmentChanges>();
  private readonly loading = new Map<string, Promise<EnvironmentChanges>>();
  private readonly limit = pLimit(MOST_READS_AT_ONCE);
  private count = 0;

  constructor(
    private readonly log: EventLog,
    private readonly most = MOST_CHANGES,
  ) {}

  take(change: Change): void {
    const changes = this.known.get(change.environment);
    if (!changes) return;
    const before = changes.size;
    changes.put(change);
    if (this.loading.has(change.environment)) return;
    this.count += changes.size - before;
    this.bound();
  }

  /** Undefined if it must be loaded first. */
  of(environment: string): EnvironmentChanges | undefined {
    const changes = this.loading.has(environment) ? undefined : this.known.get(environment);
    if (!changes) return undefined;
    this.known.delete(environment);
    this.known.set(environment, changes);
    return changes;
  }

  /** Holds all notices that were in the log when this was called, and those taken since. Fails when the log is away. */
  load(environment: string): Promise<EnvironmentChanges> {
    const known = this.of(environment);
    if (known) return Promise.resolve(known);
    const underWay = this.loading.get(environment);
    if (underWay) return underWay;
    const changes = new EnvironmentChanges();
    this.known.set(environment, changes);
    const loading = this.limit(() => this.read(environment, changes)).then(
      () => {
        if (this.loading.get(environment) === loading) {
          this.loading.delete(environment);
          this.count += changes.size;
          this.bound();
        }
        return changes;
      },
      (error: unknown) => {
        if (this.loading.get(environment) === loading) {
          this.loading.delete(environment);
          this.known.delete(environment);
        }
        throw error;
      },
    );
    this.loading.set(environment, loading);
    return loading;
  }

  /** The log is another now. */
  forget(): void {
    this.known.clear();
    this.loading.clear();
    this.count = 0;
  }

  private async read(environment: string, changes: EnvironmentChanges): Promise<void> {
    const found: Change[] = [];
    for await (const messages of this.log.latest('FF_CHANGES', noticeSubjectsOf(environment))) {
      for (const { body, position, time } of messages) {
        const notice = readable(body);
        if (notice) found.push({ ...notice, sequence: position.sequence, time });
      }
    }
    changes.keptAfter = (await this.log.beginning('FF_CHANGES')).sequence;
    changes.merge(found);
  }

  private bound(): void {
    for (const [environment, changes] of this.known) {
      if (this.count <= this.most) return;
      if (this.loading.has(environment)) continue;
      this.known.delete(environment);
      this.count -= changes.size;
    }
  }
}

function isEntity({ kind }: Change): boolean {
  return kind === 'flag' || kind === 'segment';
}

function readable(body: string): Notice | undefined {
  try {
    return noticeIn(body).notice;
  } catch {
    return undefined;
  }
}
