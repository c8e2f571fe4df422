import { createHash } from 'node:crypto';

import { byIdentifier, type Flag, type Segment } from '#libs/domain';

import {
  ScriptedUpstream,
  type UpstreamEnvironment,
} from '../../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag, aSegment } from '../../libs/domain/src/builders.suite.js';

import type { Chance } from './chance.js';
import { STALE_HEADER } from './fault-link.js';

type Environments = Readonly<Record<string, UpstreamEnvironment>>;

/** What is made anew, or comes back from a backup, begins a later life; within one, versions rise. */
export interface Lived {
  readonly life: number;
}

export const ENVIRONMENTS = ['env-a', 'env-b', 'env-c', 'env-d', 'env-e'];
const FLAGS = Array.from({ length: 6 }, (_, i) => `flag-${i}`);
const GROUPS = Array.from({ length: 3 }, (_, i) => `group-${i}`);

/** The SDK key of an environment that a reader has; the environment may have others, or lose it. */
export const keyOf = (environment: string) => `key-of-${environment}`;
export const hashOf = (key: string) => createHash('sha256').update(key).digest('hex');

/** An account of which anything may change at any time, told on the stream as the upstream tells it. */
export class UpstreamWorld {
  /** What was done, the newest last. */
  readonly done: string[] = [];
  private lives = 0;
  /** The flag that was changed last, and its environment. */
  private last = { id: '', feature: '' };
  /** All that ever was, so that a backup does not depend on the time; `at` as `performance.now()` tells it. */
  private readonly past: { readonly at: number; readonly environments: Environments }[] = [];
  private heartbeat: NodeJS.Timeout | undefined;

  private constructor(
    readonly server: ScriptedUpstream,
    private readonly chance: Chance,
  ) {
    server.environmentsPerPage = 2;
    server.readBy = ({ headers }) => this.asOf(Number(headers[STALE_HEADER] ?? 0));
  }

  /** @param heartbeatMs between the signs of life on the stream */
  static async start(chance: Chance, heartbeatMs: number): Promise<UpstreamWorld> {
    const world = new UpstreamWorld(await ScriptedUpstream.start({}), chance);
    for (const id of ENVIRONMENTS.slice(0, 4)) world.becomes(id, world.newEnvironment(id));
    world.heartbeat = setInterval(() => world.server.say(':\n\n'), heartbeatMs);
    return world;
  }

  get environments(): Environments {
    return this.server.environments;
  }

  close(): void {
    clearInterval(this.heartbeat);
    this.server.close();
  }

  /** One change of any kind; who changes a flag often does so again. */
  change(): void {
    const { last } = this;
    if (this.environments[last.id] && this.chance.happens(0.4)) {
      this.changeFlag(last.id, last.feature);
      return;
    }
    const id = this.chance.of(Object.keys(this.environments)) ?? '';
    const kinds: [number, () => void][] = [
      [4, () => this.addEnvironment(this.chance.of(ENVIRONMENTS.filter((each) => !this.environments[each])))],
      [3, () => this.removeEnvironment(id)],
      [4, () => this.restore(id)],
      [2, () => this.revokeTokens()],
      [5, () => this.listOtherwise()],
      [10, () => this.changeKeys(id)],
      [20, () => this.changeGroup(id)],
      [52, () => this.changeFlag(id, this.chance.of(FLAGS) ?? '')],
    ];
    let roll = this.chance.below(100);
    kinds.find(([percent]) => (roll -= percent) < 0)?.[1]();
  }

  private changeFlag(id: string, feature: string): void {
    this.last = { id, feature };
    const { chance } = this;
    const { flags } = this.environment(id);
    const known = flags.find((flag) => flag.feature === feature) as (Flag & Lived) | undefined;
    const others = flags.filter((flag) => flag !== known);
    const version = known?.version ?? 0;
    if (known && chance.happens(0.2)) {
      this.becomes(id, { flags: others });
      this.tell('flag', 'delete', id, feature, version);
      if (chance.happens(0.5)) return;
      // Deleted and at once made again.
      this.becomes(id, { flags: [...others, this.newFlag(feature)] });
      this.tell('flag', 'create', id, feature, 1);
    } else if (known) {
      const state = known.state === 'on' ? 'off' : 'on';
      this.becomes(id, { flags: [...others, { ...known, state, version: version + 1 }] });
      this.tell('flag', 'patch', id, feature, version + 1);
    } else {
      this.becomes(id, { flags: [...others, this.newFlag(feature)] });
      this.tell('flag', 'create', id, feature, 1);
    }
  }

  private changeGroup(id: string): void {
    const { chance } = this;
    const identifier = chance.of(GROUPS) ?? '';
    const { segments } = this.environment(id);
    const known = segments.find((segment) => segment.identifier === identifier) as
      (Segment & Lived) | undefined;
    const others = segments.filter((segment) => segment !== known);
    const version = known?.version ?? 0;
    if (known && chance.happens(0.3)) {
      this.becomes(id, { segments: others });
      this.tell('target-segment', 'delete', id, identifier, version);
    } else if (known) {
      const included = [
        { identifier: `target-${version}`, name: 'T', account: '', org: '', project: '', environment: '' },
      ];
      this.becomes(id, { segments: [...others, { ...known, included, version: version + 1 }] });
      this.tell('target-segment', 'patch', id, identifier, version + 1);
    } else {
      this.becomes(id, { segments: [...others, this.newGroup(identifier)] });
      this.tell('target-segment', 'create', id, identifier, 1);
    }
  }

  private changeKeys(id: string): void {
    const key = this.chance.happens(0.5) ? keyOf(id) : `other-${keyOf(id)}`;
    const apiKey = hashOf(key);
    const { apiKeys } = this.environment(id);
    const isThere = apiKeys.includes(apiKey);
    this.becomes(id, { apiKeys: isThere ? apiKeys.filter((each) => each !== apiKey) : [...apiKeys, apiKey] });
    this.note(`${id}: ${isThere ? 'removes' : 'adds'} ${key}`);
    this.server.tell({
      domain: 'proxy',
      event: isThere ? 'apiKeyRemoved' : 'apiKeyAdded',
      environments: [id],
      apiKey,
    });
  }

  private addEnvironment(id: string | undefined): void {
    if (id === undefined) return;
    this.becomes(id, this.newEnvironment(id));
    this.note(`adds ${id}`);
    this.server.tell({ domain: 'proxy', event: 'environmentsAdded', environments: [id] });
  }

  private removeEnvironment(id: string): void {
    const { [id]: _, ...others } = this.environments;
    if (Object.keys(others).length === 0) return;
    this.remember(others);
    this.note(`removes ${id}`);
    this.server.tell({ domain: 'proxy', event: 'environmentsRemoved', environments: [id] });
    if (this.chance.happens(0.3)) this.addEnvironment(id);
  }

  /** The flags and groups of an environment as they were a while ago; each may be told of, or not. */
  private restore(id: string): void {
    const backup = this.chance.of(this.past)?.environments[id];
    if (!backup) return;
    const flags = backup.flags.map((flag) => ({ ...flag, life: ++this.lives }));
    const segments = backup.segments.map((segment) => ({ ...segment, life: ++this.lives }));
    this.becomes(id, { flags, segments });
    this.note(`${id}: is restored from a backup`);
    if (this.chance.happens(0.5)) return;
    for (const { feature, version } of flags) this.tell('flag', 'patch', id, feature, version ?? 0);
    for (const { identifier, version } of segments)
      this.tell('target-segment', 'patch', id, identifier, version ?? 0);
  }

  private revokeTokens(): void {
    this.note('revokes tokens');
    this.server.revokeTokens();
    if (this.chance.happens(0.5)) this.server.endStreams();
  }

  /** The same in another order: pages that are being read shift. */
  private listOtherwise(): void {
    const [first, ...others] = Object.entries(this.environments);
    if (first) this.remember(Object.fromEntries([...others, first]));
    this.note('lists its environments in another order');
  }

  private newEnvironment(id: string): UpstreamEnvironment {
    return {
      flags: FLAGS.slice(0, 3).map((feature) => this.newFlag(feature)),
      segments: GROUPS.slice(0, 1).map((identifier) => this.newGroup(identifier)),
      apiKeys: [hashOf(keyOf(id))],
    };
  }

  private newFlag(feature: string): Flag & Lived {
    return { ...aFlag(feature), life: ++this.lives };
  }

  /** In the shape that SDKs are given, so that bytes can be compared. */
  private newGroup(identifier: string): Segment & Lived {
    const { servingRules: _, rules, ...group } = aSegment(identifier);
    return { ...group, life: ++this.lives, rules };
  }

  private environment(id: string): UpstreamEnvironment {
    return this.environments[id] ?? { flags: [], segments: [], apiKeys: [] };
  }

  private becomes(id: string, changes: Partial<UpstreamEnvironment>): void {
    this.remember({ ...this.environments, [id]: { ...this.environment(id), ...changes } });
  }

  private remember(environments: Environments): void {
    this.past.push({ at: performance.now(), environments });
    this.server.environments = { ...environments };
  }

  private asOf(agoMs: number): Record<string, UpstreamEnvironment> {
    if (agoMs === 0) return this.server.environments;
    const then = performance.now() - agoMs;
    const snapshot = this.past.findLast(({ at }) => at <= then) ?? this.past[0];
    return { ...(snapshot?.environments ?? this.server.environments) };
  }

  private tell(
    domain: string,
    event: string,
    environment: string,
    identifier: string,
    version: number,
  ): void {
    this.note(`${environment}: ${event} ${domain} ${identifier} at version ${version}`);
    this.server.tell({ domain, event, environment, identifier, version });
  }

  private note(what: string): void {
    this.done.push(`${Math.round(performance.now())} ${what}`);
  }
}

/** An environment with its lists in the order of the relay. */
export interface Listed {
  readonly flags: readonly (Flag & Lived)[];
  readonly segments: readonly (Segment & Lived)[];
  readonly apiKeys: readonly string[];
}

export function listed({ flags, segments, apiKeys }: UpstreamEnvironment): Listed {
  return {
    flags: (flags as (Flag & Lived)[]).toSorted((a, b) => byIdentifier(a.feature, b.feature)),
    segments: (segments as (Segment & Lived)[]).toSorted((a, b) => byIdentifier(a.identifier, b.identifier)),
    apiKeys: apiKeys.toSorted(byIdentifier),
  };
}
