import { createHash } from 'node:crypto';

import { Cluster, Redis } from 'ioredis';

import {
  apiKeysOf,
  entityOf,
  type EnvironmentFact,
  type EnvironmentState,
  type Flag,
  flagIn,
  flagsOf,
  type Position,
  type Segment,
  segmentIn,
  segmentsOf,
} from '#libs/domain';
import { StartupError } from '#libs/service';

import { type Progress, StateStore, type StoredEnvironment } from './state-store.js';

export interface RedisSettings {
  /** `host:port`, `redis://…`, `rediss://…` (TLS), or several of them divided by commas: a cluster. */
  readonly address: string;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly db: number;
}

const RECONNECT_AT_MOST_MS = 2000;
const ENVIRONMENTS = 'ff-relay-environments';
const PROGRESS = 'ff-relay-progress';
const KEY_PREFIX = 'auth-key-';

/** What `env-<environment>-position` holds. */
interface StoredPosition extends Position {
  readonly exists: boolean;
  readonly account?: string | undefined;
}

/** Keys to set and keys to delete, all of one environment and so of one slot. */
interface Writes {
  readonly set: ReadonlyMap<string, string>;
  readonly remove: readonly string[];
}

/**
 * Writes an environment in one step, with its position. KEYS: position, then those to set, then those to delete. ARGV:
 * whether anything may be overwritten, epoch, sequence, the position's text, how many to set, their values. Returns
 * whether it wrote: 1, or 0 for a stored state that is newer or of another epoch, or 2 for this very one.
 */
const WRITE = `
local stored = redis.call('GET', KEYS[1])
if ARGV[1] ~= 'replace' and stored then
  local position = cjson.decode(stored)
  if position.epoch == ARGV[2] and position.sequence == tonumber(ARGV[3]) then return 2 end
  if position.epoch ~= ARGV[2] or position.sequence > tonumber(ARGV[3]) then return 0 end
end
local sets = tonumber(ARGV[5])
for i = 1, sets do redis.call('SET', KEYS[1 + i], ARGV[5 + i]) end
for i = 2 + sets, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('SET', KEYS[1], ARGV[4])
return 1`;

/** KEYS: progress. ARGV: epoch, sequence, the progress's text. */
const ADVANCE = `
local stored = redis.call('GET', KEYS[1])
if stored then
  local position = cjson.decode(stored).position
  if position.epoch == ARGV[1] and position.sequence > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[3])
return 1`;

/**
 * The state in Redis, under the keys and in the JSON of the Go relay (protocol §5), and a position beside each
 * environment. On a cluster the environment's id is a hash tag, so that one script can write all of it.
 */
export class RedisStateStore extends StateStore {
  private constructor(
    private readonly redis: Redis | Cluster,
    private readonly tagged: boolean,
  ) {
    super();
  }

  /** Throws StartupError when nobody answers, or the credentials are refused. */
  static async open(settings: RedisSettings): Promise<RedisStateStore> {
    const nodes = settings.address.split(',').map((address) => parseAddress(address.trim()));
    let opened = false;
    const options = {
      ...(settings.username && { username: settings.username }),
      ...(settings.password && { password: settings.password }),
      maxRetriesPerRequest: 1,
      retryStrategy: (times: number) => (opened ? Math.min(times * 100, RECONNECT_AT_MOST_MS) : null),
    };
    const [only] = nodes;
    const redis =
      nodes.length === 1 && only
        ? new Redis({ ...only, ...options, db: settings.db, lazyConnect: true })
        : new Cluster(nodes, {
            clusterRetryStrategy: options.retryStrategy,
            redisOptions: { ...options, ...(only?.tls && { tls: only.tls }) },
            lazyConnect: true,
          });
    redis.on('error', () => undefined);
    try {
      await redis.connect();
    } catch (cause) {
      if (redis.status !== 'end') redis.disconnect();
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new StartupError(
        `REDIS_ADDRESS ${nodes.map(({ host, port }) => `${host}:${port}`).join(',')} cannot be used: ${reason}. ` +
          'Check that Redis runs there, and REDIS_USERNAME and REDIS_PASSWORD.',
        { cause },
      );
    }
    opened = true;
    return new RedisStateStore(redis, redis instanceof Cluster);
  }

  async apply(
    state: EnvironmentState,
    facts: readonly EnvironmentFact[],
    position: Position,
  ): Promise<boolean> {
    const wholly = facts.some(({ type }) => type === 'EnvironmentAdded' || type === 'EnvironmentRemoved');
    if (wholly) {
      const stored = await this.environment(state.id);
      if (stored && !isBefore(stored.position, position)) return false;
      return this.writeWhole(state, stored?.state, position, 'next');
    }
    const written = await this.write(state, this.changesIn(state, facts), position, 'next');
    // Also when this very state was there: a writer that died in between has not come so far.
    if (written !== 'older')
      await this.indexKeys(
        state,
        facts.flatMap((fact) => ('apiKey' in fact ? [fact.apiKey] : [])),
      );
    return written === 'written';
  }

  async replace(state: EnvironmentState, position: Position): Promise<void> {
    const stored = await this.environment(state.id);
    await this.writeWhole(state, stored?.state, position, 'replace');
  }

  async advance(progress: Progress): Promise<void> {
    const { epoch, sequence } = progress.position;
    await this.redis.eval(ADVANCE, 1, PROGRESS, epoch, sequence, JSON.stringify(progress));
  }

  async progress(): Promise<Progress | undefined> {
    return parsed<Progress>(await this.redis.get(PROGRESS));
  }

  async environments(): Promise<readonly string[]> {
    const ids = await this.redis.smembers(ENVIRONMENTS);
    const positions = await Promise.all(ids.map((id) => this.redis.get(this.key(id, 'position'))));
    return ids.filter((_, i) => parsed<StoredPosition>(positions[i])?.exists);
  }

  async environment(id: string): Promise<StoredEnvironment | undefined> {
    const names = ['position', 'feature-configs', 'segments', 'api-configs'];
    const [at, flags, segments, keys] = await this.redis.mget(names.map((name) => this.key(id, name)));
    const position = parsed<StoredPosition>(at);
    if (!position?.exists) return undefined;
    const { epoch, sequence, account } = position;
    const entries = <Value>(values: readonly (readonly [string, Value])[]) =>
      new Map(values.map(([identifier, value]) => [identifier, { sequence, value }]));
    return {
      position: { epoch, sequence },
      state: {
        id,
        exists: true,
        account,
        lifeSequence: sequence,
        sequence,
        flags: entries((parsed<Flag[]>(flags) ?? []).map((flag) => [flag.feature, flag])),
        segments: entries(
          (parsed<Segment[]>(segments) ?? []).map((segment) => [segment.identifier, segment]),
        ),
        apiKeys: entries(
          (parsed<string[]>(keys) ?? []).map((key) => [key.slice(KEY_PREFIX.length), true as const]),
        ),
      },
    };
  }

  async flag(environment: string, identifier: string): Promise<Flag | undefined> {
    return parsed<Flag>(await this.redis.get(this.key(environment, `feature-config-${identifier}`)));
  }

  async segment(environment: string, identifier: string): Promise<Segment | undefined> {
    return parsed<Segment>(await this.redis.get(this.key(environment, `segment-${identifier}`)));
  }

  async environmentOf(apiKey: string): Promise<string | undefined> {
    return parsed<string>(await this.redis.get(`${KEY_PREFIX}${apiKey}`));
  }

  override async close(): Promise<void> {
    await this.redis.quit().catch(() => this.redis.disconnect());
  }

  /** Revokes first and admits last, so that a writer that dies in between leaves nothing open, and is repeated. */
  private async writeWhole(
    state: EnvironmentState,
    before: EnvironmentState | undefined,
    position: Position,
    mode: 'next' | 'replace',
  ): Promise<boolean> {
    if (before) await this.indexKeys(state, apiKeysOf(before));
    if (state.exists) await this.redis.sadd(ENVIRONMENTS, state.id);
    const written = await this.write(state, this.wholeOf(state, before), position, mode);
    await this.indexKeys(state, apiKeysOf(state));
    if (!state.exists) await this.redis.srem(ENVIRONMENTS, state.id);
    return written === 'written';
  }

  private async write(
    state: EnvironmentState,
    { set, remove }: Writes,
    { epoch, sequence }: Position,
    mode: 'next' | 'replace',
  ): Promise<'written' | 'older' | 'same'> {
    const at: StoredPosition = { epoch, sequence, exists: state.exists, account: state.account };
    const keys = [this.key(state.id, 'position'), ...set.keys(), ...remove];
    const result = await this.redis.eval(
      WRITE,
      keys.length,
      ...keys,
      mode,
      epoch,
      sequence,
      JSON.stringify(at),
      set.size,
      ...set.values(),
    );
    return result === 1 ? 'written' : result === 2 ? 'same' : 'older';
  }

  /** What the facts touch: the entities, and the lists that they are in. */
  private changesIn(state: EnvironmentState, facts: readonly EnvironmentFact[]): Writes {
    const set = new Map<string, string>();
    const remove: string[] = [];
    const put = (name: string, value: object | undefined) => {
      const key = this.key(state.id, name);
      if (value) set.set(key, JSON.stringify(value));
      else remove.push(key);
    };
    for (const { kind, identifier } of facts.map(entityOf)) {
      if (kind === 'flag') put(`feature-config-${identifier}`, flagIn(state, identifier));
      if (kind === 'segment') put(`segment-${identifier}`, segmentIn(state, identifier));
    }
    const kinds = new Set(facts.map((fact) => entityOf(fact).kind));
    if (kinds.has('flag')) this.setList(set, state.id, 'feature-configs', flagsOf(state));
    if (kinds.has('segment')) this.setList(set, state.id, 'segments', segmentsOf(state));
    if (kinds.has('apikey')) put('api-configs', prefixed(apiKeysOf(state)));
    return { set, remove };
  }

  /** Everything, and the removal of what is stored and not in the state. */
  private wholeOf(state: EnvironmentState, before: EnvironmentState | undefined): Writes {
    const itemsOf = (of: EnvironmentState) => [
      ...flagsOf(of).map((flag) => [`feature-config-${flag.feature}`, flag] as const),
      ...segmentsOf(of).map((segment) => [`segment-${segment.identifier}`, segment] as const),
    ];
    const set = new Map<string, string>();
    for (const [name, item] of itemsOf(state)) set.set(this.key(state.id, name), JSON.stringify(item));
    const lists = ['feature-configs', 'feature-configs-latest', 'segments', 'segments-latest', 'api-configs'];
    if (state.exists) {
      this.setList(set, state.id, 'feature-configs', flagsOf(state));
      this.setList(set, state.id, 'segments', segmentsOf(state));
      set.set(this.key(state.id, 'api-configs'), JSON.stringify(prefixed(apiKeysOf(state))));
    }
    const stored = [...lists, ...(before ? itemsOf(before).map(([name]) => name) : [])].map((name) =>
      this.key(state.id, name),
    );
    return { set, remove: stored.filter((key) => !set.has(key)) };
  }

  /** A list, and the digest by which readers know whether their copy is current. */
  private setList(set: Map<string, string>, id: string, name: string, items: readonly object[]): void {
    const list = JSON.stringify(items);
    set.set(this.key(id, name), list);
    set.set(this.key(id, `${name}-latest`), JSON.stringify(createHash('sha256').update(list).digest('hex')));
  }

  /** Lets the keys of SDKs lead to their environment, or nowhere. */
  private async indexKeys(state: EnvironmentState, apiKeys: readonly string[]): Promise<void> {
    const held = new Set(apiKeysOf(state));
    for (const apiKey of apiKeys) {
      const key = `${KEY_PREFIX}${apiKey}`;
      if (held.has(apiKey)) await this.redis.set(key, JSON.stringify(state.id));
      else if (parsed<string>(await this.redis.get(key)) === state.id) await this.redis.del(key);
    }
  }

  private key(environment: string, name: string): string {
    return `env-${this.tagged ? `{${environment}}` : environment}-${name}`;
  }
}

function isBefore(stored: Position, position: Position): boolean {
  return stored.epoch === position.epoch && stored.sequence < position.sequence;
}

function prefixed(apiKeys: readonly string[]): string[] {
  return apiKeys.map((key) => `${KEY_PREFIX}${key}`);
}

// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller names what was stored under the key
function parsed<Value>(text: string | null | undefined): Value | undefined {
  return text ? (JSON.parse(text) as Value) : undefined;
}

function parseAddress(address: string) {
  const url = new URL(/^rediss?:\/\//.test(address) ? address : `redis://${address}`);
  return {
    host: url.hostname,
    port: Number(url.port || 6379),
    ...(url.username && { username: decodeURIComponent(url.username) }),
    ...(url.password && { password: decodeURIComponent(url.password) }),
    ...(url.protocol === 'rediss:' && { tls: {} }),
  };
}
