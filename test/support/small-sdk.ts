import { setTimeout as delay } from 'node:timers/promises';

import type { Flag, Segment } from '#libs/domain';

import { type SdkEvent, SdkSession } from './clients.js';
import { VersionsSeen } from './versions-seen.js';
import { keyOf, type Lived } from './upstream-world.js';

const RETRY_MS = 20;

type Entity = (Flag | Segment) & Lived;

/**
 * What a server SDK holds: all flags and groups, read once when its stream is open, and from then on by what it is told.
 * It notes what it sees go back.
 */
export class SmallSdk {
  readonly seen = new VersionsSeen();
  private readonly stopping = new AbortController();
  private flags: Map<string, string> | undefined;
  private segments: Map<string, string> | undefined;
  private work: Promise<void> | undefined;

  constructor(
    private readonly relay: string,
    private readonly environment: string,
  ) {}

  start(): void {
    this.work = this.listen();
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  /** Its flags and groups, as JSON; undefined while it is not let in. */
  get knows(): { readonly flags: string; readonly segments: string } | undefined {
    if (!this.flags || !this.segments) return undefined;
    return { flags: listOf(this.flags), segments: listOf(this.segments) };
  }

  private async listen(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        const session = await SdkSession.signIn(this.relay, {
          id: this.environment,
          serverKey: keyOf(this.environment),
        });
        const events = await session.stream(signal);
        this.flags = await this.read(session, 'feature-configs');
        this.segments = await this.read(session, 'target-segments?rules=v2');
        for await (const event of events) await this.hear(session, event);
      } catch {
        // Not let in, or no longer.
      }
      if (signal.aborted) return;
      this.flags = undefined;
      this.segments = undefined;
      await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  private async read(session: SdkSession, list: string): Promise<Map<string, string>> {
    const response = await session.get(list);
    if (response.status !== 200) throw new Error(`${list} was answered with ${response.status}`);
    const entities = (await response.json()) as Entity[];
    return new Map(entities.map((entity) => [nameOf(entity), this.noted(entity)]));
  }

  private async hear(session: SdkSession, { event, domain, identifier }: SdkEvent): Promise<void> {
    const [path, kept] =
      domain === 'flag' ? ['feature-configs', this.flags] : ['target-segments', this.segments];
    if (event === 'delete') {
      kept?.delete(identifier);
      return;
    }
    const response = await session.get(`${path}/${identifier}?rules=v2`);
    // Gone again: its removal is told next.
    if (response.status === 404) return;
    if (response.status !== 200) throw new Error(`${identifier} was answered with ${response.status}`);
    kept?.set(identifier, this.noted((await response.json()) as Entity));
  }

  private noted(entity: Entity): string {
    const name = `${this.environment} ${'feature' in entity ? 'flag' : 'group'} ${nameOf(entity)}`;
    this.seen.see(name, entity);
    return JSON.stringify(entity);
  }
}

function nameOf(entity: Entity): string {
  return 'feature' in entity ? entity.feature : entity.identifier;
}

function listOf(entities: ReadonlyMap<string, string>): string {
  const names = [...entities.keys()].toSorted((a, b) => (a < b ? -1 : 1));
  return `[${names.map((name) => entities.get(name)).join(',')}]`;
}
