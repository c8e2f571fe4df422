import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';

import { Logger } from '@nestjs/common';
import { Cluster, Redis } from 'ioredis';

import {
  apiKeysOf,
  entityOf,
  type EnvironmentState,
  type Flag,
  flagIn,
  flagsOf,
  type Position,
  type Segment,
  segmentIn,
  segmentsOf,
} from '#libs/domain';

import { parseRedisAddress, type RedisAddress } from '#libs/config';
import { API_KEY, flagName, LISTS, RedisKeys, segmentName } from './redis-keys.js';
import { SCRIPTS } from './redis-scripts.js';
import {
  type Applied,
  type EnvironmentChange,
  type Progress,
  StateStore,
  type StoredEnvironment,
} from './state-store.js';

export interface RedisSettings {
  /** As `parseRedisAddress` takes it. */
  readonly address: string;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly db: number;
  /** What every key begins with: for a second set of keys beside the live one. */
  readonly prefix?: string | undefined;
}

const OPEN_WAIT_MS = 1000;
const CONNECT_TIMEOUT_MS = 2000;
const ANSWER_TIMEOUT_MS = 3000;
const RECONNECT_AT_MOST_MS = 2000;
const SLOTS_REFRESH_MS = 2000;
const SHADOW_EXPIRY_S = 3600;
/** What is under way to the server at a time while a whole environment is written. */
const PORTION_BYTES = 1_000_000;
/** Keys that one script compares: a few megabytes of values. */
const PORTION_KEYS = 500;
const SCAN_COUNT = 1000;

/** What `env-<environment>-position` holds. */
interface StoredPosition extends Position {
  readonly exists: boolean;
  readonly account?: string | undefined;
}

/** Values by the names of an environment's keys; undefined for those to be deleted. */
type Writes = Map<string, string | undefined>;

type Script = (
  keyCount: number,
  keys: readonly string[],
  values: readonly (string | number)[],
) => Promise<unknown>;
type Connection = (Redis | Cluster) & Readonly<Record<keyof typeof SCRIPTS, Script>>;

/**
 * The state in Redis, under the keys and in the JSON of the Go relay (protocol §5), and a position beside each
 * environment. On a cluster the environment's id is a hash tag, so that one script can write all of it; the index of SDK
 * keys lies elsewhere and follows after.
 *
 * The connection is made in the background, and again whenever it is lost. While there is none, every method throws at
 * once; and since nothing is sent a second time behind the caller's back, what a script answers is what it did.
 */
export class RedisStateStore extends StateStore {
  private readonly logger = new Logger(RedisStateStore.name);
  private readonly keys: RedisKeys;
  private readonly place: string;
  private readonly connection: Connection;
  /** Why there is no connection, while there is none. */
  private trouble = 'not connected yet';
  private closing = false;

  private constructor(settings: RedisSettings) {
    super();
    const address = parseRedisAddress(settings.address);
    this.place = address.hosts.map(({ host, port }) => `${host}:${port}`).join(',');
    this.keys = new RedisKeys(settings.prefix ?? '', address.kind === 'cluster');
    this.connection = connectionTo(address, settings);
    this.watchConnection();
  }

  /** Gives a server that is there the time to answer. One that is not is waited for in the background. */
  static async open(settings: RedisSettings): Promise<RedisStateStore> {
    const store = new RedisStateStore(settings);
    await once(store.connection, 'ready', { signal: AbortSignal.timeout(OPEN_WAIT_MS) }).catch(
      () => undefined,
    );
    return store;
  }

  get reachable(): boolean {
    return !this.closing && this.connection.status === 'ready';
  }

  async apply(change: EnvironmentChange, epoch: string): Promise<Applied> {
    const { before, after } = change;
    // First, so that no environment has a position that `positions` does not find.
    if (before.sequence === 0) await this.redis.sadd(this.keys.environments, after.id);
    const writes = [...changesIn(change)];
    const sets = writes.flatMap(([name, value]) => (value === undefined ? [] : [{ name, value }]));
    const names = [
      'position',
      ...sets.map(({ name }) => name),
      ...writes.flatMap(([name, value]) => (value === undefined ? [name] : [])),
    ];
    const applied = await this.run('applyChange', this.keysOf(after.id, names), [
      epoch,
      before.sequence,
      after.sequence,
      positionText(after, epoch),
      sets.length,
      ...sets.map(({ value }) => value),
    ]);
    // Also when this very state was there: a writer that died in between has not come so far.
    if (applied === 'written' || applied === 'held') await this.indexKeys(after, keysTouchedBy(change));
    return applied === 'newer' ? 'held' : (applied as Applied);
  }

  async replace(state: EnvironmentState, epoch: string, stored: Position | undefined): Promise<boolean> {
    const live = await this.live(state.id);
    if (live.position?.epoch !== stored?.epoch || live.position?.sequence !== stored?.sequence) return false;
    await this.redis.sadd(this.keys.environments, state.id);

    const entries = entriesOf(state);
    const shadow = `shadow-${randomUUID()}-`;
    const shadowed = [...entries].map(
      ([name, value]) => [this.keys.of(state.id, shadow + name), value] as const,
    );
    for (const portion of portionsOf(shadowed)) {
      await Promise.all(portion.map(([key, value]) => this.redis.set(key, value, 'EX', SHADOW_EXPIRY_S)));
    }
    const keys = [
      ...this.keysOf(state.id, ['position']),
      ...shadowed.map(([key]) => key),
      ...this.keysOf(state.id, [...entries.keys()]),
      ...this.keysOf(
        state.id,
        live.names.filter((name) => !entries.has(name)),
      ),
    ];
    const switched = await this.run('switchOver', keys, [
      stored?.epoch ?? '',
      stored?.sequence ?? 0,
      positionText(state, epoch),
      entries.size,
    ]);
    if (switched !== 1) return false;
    await this.indexKeys(state, [...live.apiKeys, ...apiKeysOf(state)]);
    return true;
  }

  async holds(state: EnvironmentState, epoch: string): Promise<boolean> {
    const entries: Writes = entriesOf(state);
    for (const name of LISTS) if (!entries.has(name)) entries.set(name, undefined);
    // Last: if it is still the same, so was what was compared before it.
    entries.set('position', positionText(state, epoch));
    const expected = [...entries];
    for (let from = 0; from < expected.length; from += PORTION_KEYS) {
      const portion = expected.slice(from, from + PORTION_KEYS);
      const names = portion.map(([name]) => name);
      const digests = (await this.run('digestsOf', this.keysOf(state.id, names), [])) as string[];
      if (portion.some(([, value], i) => digests[i] !== (value === undefined ? '' : digest('sha1', value))))
        return false;
    }
    const opens = JSON.stringify(state.id);
    const index = await Promise.all(apiKeysOf(state).map((hash) => this.redis.get(this.keys.apiKey(hash))));
    if (index.some((environment) => environment !== opens)) return false;
    return (await this.redis.sismember(this.keys.environments, state.id)) === 1;
  }

  async sweep(states: ReadonlyMap<string, EnvironmentState>, position: Position): Promise<number> {
    const ours = new Set(await this.redis.smembers(this.keys.environments));
    const beyond = await this.keysBeyond(states, ours);
    let removed = 0;
    for (const [environment, keys] of beyond) {
      const count = await this.run(
        'removeKeys',
        [this.keys.of(environment, 'position'), ...keys],
        [position.epoch, position.sequence],
      );
      if (Number(count) > 0) removed += Number(count);
      if (states.has(environment) || Number(count) <= 0) continue;
      await this.redis.srem(this.keys.environments, environment);
      // It may have been added again in between.
      if (await this.redis.exists(this.keys.of(environment, 'position')))
        await this.redis.sadd(this.keys.environments, environment);
    }
    const environments = new Set([...states.keys(), ...ours, ...beyond.keys()]);
    return removed + (await this.sweepIndex(environments, states, position));
  }

  async positions(): Promise<ReadonlyMap<string, Position>> {
    const stored = await this.storedPositions();
    return new Map(stored.map(([id, { epoch, sequence }]) => [id, { epoch, sequence }]));
  }

  async begin(progress: Progress): Promise<void> {
    await this.redis.set(this.keys.progress, JSON.stringify(progress));
  }

  async advance(progress: Progress): Promise<boolean> {
    const { writer, position } = progress;
    const values = [writer, position.epoch, position.sequence, JSON.stringify(progress)];
    return (await this.run('advanceProgress', [this.keys.progress], values)) === 1;
  }

  async progress(): Promise<Progress | undefined> {
    return parsed<Progress>(await this.redis.get(this.keys.progress));
  }

  async environments(): Promise<readonly string[]> {
    return (await this.storedPositions()).flatMap(([id, { exists }]) => (exists ? [id] : []));
  }

  async environment(id: string): Promise<StoredEnvironment | undefined> {
    const [at, flags, segments, keys] = await this.redis.mget(
      this.keysOf(id, ['position', 'feature-configs', 'segments', 'api-configs']),
    );
    const position = positionIn(at);
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
        apiKeys: entries(hashesIn(parsed<string[]>(keys) ?? []).map((hash) => [hash, true as const])),
      },
    };
  }

  async flag(environment: string, identifier: string): Promise<Flag | undefined> {
    return parsed<Flag>(await this.redis.get(this.keys.of(environment, flagName(identifier))));
  }

  async segment(environment: string, identifier: string): Promise<Segment | undefined> {
    return parsed<Segment>(await this.redis.get(this.keys.of(environment, segmentName(identifier))));
  }

  async environmentOf(apiKey: string): Promise<string | undefined> {
    return parsed<string>(await this.redis.get(this.keys.apiKey(apiKey)));
  }

  override async close(): Promise<void> {
    const { reachable } = this;
    this.closing = true;
    if (reachable) await this.connection.quit().catch(() => undefined);
    if (this.connection.status !== 'end') this.connection.disconnect();
  }

  /** The connection, where there is one. */
  private get redis(): Connection {
    if (!this.reachable) throw new Error(`Redis at ${this.place} cannot be reached: ${this.trouble}`);
    return this.connection;
  }

  private async run(
    script: keyof typeof SCRIPTS,
    keys: readonly string[],
    values: readonly (string | number)[],
  ): Promise<unknown> {
    return this.redis[script](keys.length, keys, values);
  }

  private keysOf(environment: string, names: readonly string[]): string[] {
    return names.map((name) => this.keys.of(environment, name));
  }

  /** What the lists say is there; a list that cannot be read says nothing, and `sweep` finds the rest. */
  private async live(
    id: string,
  ): Promise<{ position: Position | undefined; names: string[]; apiKeys: string[] }> {
    const [at, flags, segments, keys] = await this.redis.mget(
      this.keysOf(id, ['position', 'feature-configs', 'segments', 'api-configs']),
    );
    return {
      position: positionIn(at),
      names: [
        ...LISTS,
        ...listIn<Flag>(flags).map(({ feature }) => flagName(feature)),
        ...listIn<Segment>(segments).map(({ identifier }) => segmentName(identifier)),
      ],
      apiKeys: hashesIn(listIn<string>(keys)),
    };
  }

  private async storedPositions(): Promise<(readonly [string, StoredPosition])[]> {
    const ids = await this.redis.smembers(this.keys.environments);
    const texts = await Promise.all(ids.map((id) => this.redis.get(this.keys.of(id, 'position'))));
    return ids.flatMap((id, i) => {
      const position = positionIn(texts[i]);
      return position ? [[id, position] as const] : [];
    });
  }

  /** Lets the keys of SDKs lead to their environment, or nowhere. Closes before it opens. */
  private async indexKeys(state: EnvironmentState, touched: readonly string[]): Promise<void> {
    if (touched.length === 0) return;
    const opens = JSON.stringify(state.id);
    const held = new Set(apiKeysOf(state));
    const [open, closed] = [true, false].map((wanted) =>
      touched.filter((hash) => held.has(hash) === wanted).map((hash) => this.keys.apiKey(hash)),
    );
    await Promise.all((closed ?? []).map((key) => this.run('removeIfEqual', [key], [opens])));
    await Promise.all((open ?? []).map((key) => this.redis.set(key, opens)));
  }

  /**
   * Our keys that are not in the states, by environment. Environments that others keep in this Redis are not in it.
   * Shadow keys are, even those of a replacement under way: it fails then, and is done again.
   */
  private async keysBeyond(
    states: ReadonlyMap<string, EnvironmentState>,
    ours: ReadonlySet<string>,
  ): Promise<Map<string, Set<string>>> {
    const found = new Map<string, Set<string>>();
    const listed = new Map<string, ReadonlySet<string>>();
    for await (const keys of this.scan(this.keys.environmentPattern)) {
      for (const key of keys) {
        const at = this.keys.environmentKey(key);
        if (!at) continue;
        const state = states.get(at.environment);
        if (state) {
          const names = listed.get(state.id) ?? namesOf(state);
          listed.set(state.id, names);
          if (names.has(at.name)) continue;
        }
        found.set(at.environment, (found.get(at.environment) ?? new Set()).add(key));
      }
    }
    for (const [environment, keys] of found) {
      const position = this.keys.of(environment, 'position');
      if (states.has(environment) || ours.has(environment)) continue;
      if (!keys.has(position) || !positionIn(await this.redis.get(position))) found.delete(environment);
    }
    return found;
  }

  /** Closes the keys that lead to one of these environments, and that it does not list. */
  private async sweepIndex(
    environments: ReadonlySet<string>,
    states: ReadonlyMap<string, EnvironmentState>,
    position: Position,
  ): Promise<number> {
    const doubtful = new Map<string, Set<string>>();
    for await (const keys of this.scan(this.keys.apiKeyPattern)) {
      const values = await Promise.all(keys.map((key) => this.redis.get(key)));
      for (const [i, key] of keys.entries()) {
        const environment = jsonIn(values[i]);
        if (typeof environment !== 'string' || !environments.has(environment)) continue;
        const state = states.get(environment);
        const hash = this.keys.hashIn(key);
        if (state?.exists && state.apiKeys.get(hash)?.value) continue;
        doubtful.set(environment, (doubtful.get(environment) ?? new Set()).add(hash));
      }
    }
    let removed = 0;
    for (const [environment, hashes] of doubtful) {
      const live = await this.live(environment);
      if (live.position?.epoch === position.epoch && live.position.sequence > position.sequence) continue;
      for (const hash of hashes) {
        if (live.apiKeys.includes(hash)) continue;
        const key = this.keys.apiKey(hash);
        removed += Number(await this.run('removeIfEqual', [key], [JSON.stringify(environment)]));
      }
    }
    return removed;
  }

  private async *scan(pattern: string): AsyncIterable<string[]> {
    const { redis } = this;
    for (const server of redis instanceof Cluster ? redis.nodes('master') : [redis]) {
      let cursor = '0';
      do {
        const [next, keys] = await server.scan(
          cursor,
          'MATCH',
          pattern,
          'COUNT',
          SCAN_COUNT,
          'TYPE',
          'string',
        );
        yield keys;
        cursor = next;
      } while (cursor !== '0');
    }
  }

  /** Tells once that the connection is lost, or cannot be made, and once that it is back. */
  private watchConnection(): void {
    let told = false;
    const lost = (reason: string) => {
      this.trouble = reason;
      if (told || this.closing) return;
      told = true;
      this.logger.error(
        `Redis at ${this.place} cannot be reached: ${reason}. It is tried again until it answers. ` +
          'Check that it runs there (REDIS_ADDRESS), and REDIS_USERNAME, REDIS_PASSWORD and REDIS_DB.',
      );
    };
    // Of one node of a cluster: what is wrong, before the cluster says that something is.
    this.connection.on('node error', (error: unknown) => {
      this.trouble = reasonOf(error);
    });
    this.connection.on('error', (error: unknown) => {
      lost(reasonOf(error));
      // The client would go on in database 0, which is somebody else's.
      if (reasonOf(error).includes('DB index')) this.connection.disconnect(true);
    });
    this.connection.on('close', () => lost(this.trouble));
    this.connection.on('ready', () => {
      this.trouble = 'the connection was closed';
      if (told) this.logger.log(`Redis at ${this.place} answers again.`);
      told = false;
      void this.checkMemoryPolicy();
    });
  }

  private async checkMemoryPolicy(): Promise<void> {
    const servers = this.connection instanceof Cluster ? this.connection.nodes('master') : [this.connection];
    // Whoever may not ask, or lost the connection again, goes without.
    const answers = await Promise.all(servers.map((server) => server.info('memory').catch(() => '')));
    const policies = new Set(
      answers.map((answer) => /maxmemory_policy:(\S+)/.exec(answer)?.[1] ?? 'noeviction'),
    );
    policies.delete('noeviction');
    if (policies.size > 0) {
      this.logger.warn(
        `Redis at ${this.place} may drop keys when its memory is full (maxmemory-policy ` +
          `${[...policies].join(', ')}): set maxmemory-policy noeviction.`,
      );
    }
  }
}

function connectionTo(
  { kind, hosts, master, tls, ...user }: RedisAddress,
  { username, password, db }: RedisSettings,
): Connection {
  const backoff = (times: number) => Math.min(times * 100, RECONNECT_AT_MOST_MS);
  const name = username || user.username;
  const secret = password || user.password;
  const options = {
    ...(name && { username: name }),
    ...(secret && { password: secret }),
    ...(tls && { tls: {} }),
    connectTimeout: CONNECT_TIMEOUT_MS,
    commandTimeout: ANSWER_TIMEOUT_MS,
    // A server that says nothing at all is as good as gone.
    socketTimeout: ANSWER_TIMEOUT_MS,
    // All answers are in by then; where nobody answers, it would keep the process.
    disconnectTimeout: 100,
  };
  const server = {
    ...options,
    db,
    scripts: SCRIPTS,
    retryStrategy: backoff,
    // What is under way when the connection goes fails, instead of being sent again: it may have been done.
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    // A master that became a replica: whoever connects anew finds the one after it.
    reconnectOnError: ({ message }: Error) => message.startsWith('READONLY'),
  };
  const [host] = hosts;
  switch (kind) {
    case 'server':
      return new Redis({ ...host, ...server }) as Redis & Connection;
    case 'sentinel':
      return new Redis({
        ...server,
        sentinels: [...hosts],
        name: master,
        sentinelRetryStrategy: backoff,
        sentinelCommandTimeout: CONNECT_TIMEOUT_MS,
        enableTLSForSentinelMode: tls,
      }) as Redis & Connection;
    case 'cluster':
      return new Cluster([...hosts], {
        scripts: SCRIPTS,
        clusterRetryStrategy: backoff,
        // What a lost node had under way fails, as above; what another node refused is sent on.
        retryDelayOnFailover: 0,
        slotsRefreshInterval: SLOTS_REFRESH_MS,
        slotsRefreshTimeout: CONNECT_TIMEOUT_MS,
        redisOptions: options,
      }) as Cluster & Connection;
  }
}

/** What a change touches: the entities, and the lists that they are in. */
function changesIn({ before, facts, after }: EnvironmentChange): Writes {
  const entities = facts.map(entityOf);
  const kinds = new Set(entities.map(({ kind }) => kind));
  if (kinds.has('environment') || !after.exists) {
    const writes: Writes = new Map([...LISTS, ...itemNamesOf(before)].map((name) => [name, undefined]));
    for (const [name, value] of entriesOf(after)) writes.set(name, value);
    return writes;
  }
  const writes: Writes = new Map();
  const put = (name: string, value: object | undefined) => writes.set(name, value && JSON.stringify(value));
  for (const { kind, identifier } of entities) {
    if (kind === 'flag') put(flagName(identifier), flagIn(after, identifier));
    if (kind === 'segment') put(segmentName(identifier), segmentIn(after, identifier));
  }
  if (kinds.has('flag')) putList(writes, 'feature-configs', JSON.stringify(flagsOf(after)));
  if (kinds.has('segment')) putList(writes, 'segments', JSON.stringify(segmentsOf(after)));
  if (kinds.has('apikey')) put('api-configs', listedKeysOf(after));
  return writes;
}

/** The hashes of the SDK keys that a change may open or close. */
function keysTouchedBy({ before, facts, after }: EnvironmentChange): readonly string[] {
  return facts.some((fact) => entityOf(fact).kind === 'environment')
    ? [...apiKeysOf(before), ...apiKeysOf(after)]
    : facts.flatMap((fact) => ('apiKey' in fact ? [fact.apiKey] : []));
}

/** All that is stored of a state, but its position. */
function entriesOf(state: EnvironmentState): Map<string, string> {
  const entries = new Map<string, string>();
  if (!state.exists) return entries;
  const itemise = <Item>(items: readonly Item[], nameOf: (item: Item) => string) => {
    const texts = items.map((item) => JSON.stringify(item));
    for (const [i, item] of items.entries()) entries.set(nameOf(item), texts[i] ?? '');
    return `[${texts.join(',')}]`;
  };
  const flags = itemise(flagsOf(state), ({ feature }) => flagName(feature));
  const segments = itemise(segmentsOf(state), ({ identifier }) => segmentName(identifier));
  putList(entries, 'feature-configs', flags);
  putList(entries, 'segments', segments);
  entries.set('api-configs', JSON.stringify(listedKeysOf(state)));
  return entries;
}

/** A list, and the digest by which readers know whether their copy is current. */
function putList(
  writes: Map<string, string> | Writes,
  name: 'feature-configs' | 'segments',
  list: string,
): void {
  writes.set(name, list);
  writes.set(`${name}-latest`, JSON.stringify(digest('sha256', list)));
}

/** The names of all keys of a state. */
function namesOf(state: EnvironmentState): ReadonlySet<string> {
  return new Set(['position', ...(state.exists ? LISTS : []), ...itemNamesOf(state)]);
}

function itemNamesOf(state: EnvironmentState): string[] {
  return [
    ...flagsOf(state).map(({ feature }) => flagName(feature)),
    ...segmentsOf(state).map(({ identifier }) => segmentName(identifier)),
  ];
}

function listedKeysOf(state: EnvironmentState): string[] {
  return apiKeysOf(state).map((hash) => `${API_KEY}${hash}`);
}

function hashesIn(listedKeys: readonly string[]): string[] {
  return listedKeys.map((key) => key.slice(API_KEY.length));
}

function positionText({ sequence, exists, account }: EnvironmentState, epoch: string): string {
  return JSON.stringify({ epoch, sequence, exists, account } satisfies StoredPosition);
}

/** Undefined for none, and for what is none. */
function positionIn(text: string | null | undefined): StoredPosition | undefined {
  const value = jsonIn(text);
  const is = typeof value === 'object' && value !== null && 'epoch' in value && 'sequence' in value;
  return is ? (value as StoredPosition) : undefined;
}

function* portionsOf<Entry extends readonly [string, string]>(entries: readonly Entry[]): Iterable<Entry[]> {
  let portion: Entry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    portion.push(entry);
    bytes += entry[1].length;
    if (bytes < PORTION_BYTES) continue;
    yield portion;
    portion = [];
    bytes = 0;
  }
  yield portion;
}

function digest(algorithm: 'sha1' | 'sha256', text: string): string {
  return createHash(algorithm).update(text).digest('hex');
}

// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller names what was stored under the key
function parsed<Value>(text: string | null | undefined): Value | undefined {
  return text ? (JSON.parse(text) as Value) : undefined;
}

/** What others may have written: undefined if it is not JSON. */
function jsonIn(text: string | null | undefined): unknown {
  try {
    return parsed<unknown>(text);
  } catch {
    return undefined;
  }
}

// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as above
function listIn<Item>(text: string | null | undefined): readonly Item[] {
  const list = jsonIn(text);
  return Array.isArray(list) ? (list as Item[]) : [];
}

/** Errors of Node may hold others, and then say nothing themselves. */
function reasonOf(error: unknown): string {
  const { message, code, errors, lastNodeError } = error as {
    message?: string;
    code?: string;
    errors?: unknown[];
    lastNodeError?: unknown;
  };
  if (errors?.[0]) return reasonOf(errors[0]);
  if (lastNodeError) return reasonOf(lastNodeError);
  return (message || code || String(error)).replace(/\.$/, '');
}
