import { createHash, randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';

import { byIdentifier, type Flag, type Prerequisite, type Segment, type Variation } from '#libs/domain';
import { StartupError } from '#libs/service';

import type { AccountMessage } from './account-stream.js';
import { EvaluationCounts } from './evaluation-counts.js';

/** What a flag is in every environment of its project (admin API §5, the fields of its POST). */
export interface Feature {
  readonly identifier: string;
  readonly name: string;
  readonly description?: string | undefined;
  readonly kind: Flag['kind'];
  readonly permanent: boolean;
  readonly owner?: string | undefined;
  readonly tags: readonly { readonly name: string; readonly identifier: string }[];
  readonly variations: readonly Variation[];
  readonly defaultOnVariation: string;
  readonly defaultOffVariation: string;
  readonly prerequisites: readonly Prerequisite[];
}

/** Times in ms since the epoch. */
export interface StoredFeature {
  readonly feature: Feature;
  readonly createdAt: number;
  readonly modifiedAt: number;
}

export interface StoredFlag {
  readonly flag: Flag;
  readonly modifiedAt: number;
}

export interface Project {
  /** Of this registry alone; the identifiers are what the world knows. */
  readonly id: number;
  readonly account: string;
  readonly organization: string;
  readonly identifier: string;
  readonly name: string;
}

export interface Environment {
  /** UUID. */
  readonly id: string;
  readonly identifier: string;
  readonly name: string;
  readonly type: 'PreProduction' | 'Production';
}

export interface SdkKey {
  readonly identifier: string;
  readonly name: string;
  /** Of a key that was imported, nobody knows. */
  readonly type: 'Server' | 'Client' | 'Unknown';
  /** Lower-case hex SHA-256 of the key's text, which is not kept. */
  readonly hash: string;
}

export interface ProxyKey {
  readonly hash: string;
  readonly account: string;
  readonly organization: string;
  readonly version: number;
  /** UUIDs of the environments in its scope, in order. */
  readonly environments: readonly string[];
}

/** What a new registry starts with. */
export interface Seed {
  readonly account: string;
  readonly organization: string;
  readonly project: { readonly identifier: string; readonly name: string };
  readonly proxyKey: { readonly identifier: string; readonly hash: string };
  readonly features: readonly Feature[];
  readonly environments: readonly (Environment & {
    readonly sdkKeys: readonly SdkKey[];
    readonly flags: readonly Flag[];
    readonly segments: readonly Segment[];
  })[];
}

/** What a bundle says, to be taken over with its ids, versions and hashes of keys. */
export interface Imported {
  readonly account: string;
  readonly organization: string;
  /** The key by which relays come. If it was made for the import, it is added only if the organization has none. */
  readonly proxyKey: { readonly identifier: string; readonly hash: string; readonly isNew: boolean };
  readonly environments: readonly {
    /** UUID. */
    readonly id: string;
    /** Undefined where it is not told: the one that it is in, or else `default`. */
    readonly project?: string | undefined;
    readonly identifier: string;
    /** Lower-case hex SHA-256. */
    readonly apiKeys: readonly string[];
    readonly flags: readonly Flag[];
    readonly segments: readonly Segment[];
  }[];
}

/** All that is kept of a key: the lower-case hex SHA-256 of its text, as `/proxy/config` lists it. */
export const hashOf = (key: string) => createHash('sha256').update(key).digest('hex');

/** How a flag begins in an environment (admin API §5). */
export function newFlag(feature: Feature, project: string, environment: string): Flag {
  return {
    project,
    environment,
    feature: feature.identifier,
    kind: feature.kind,
    state: 'off',
    variations: feature.variations,
    offVariation: feature.defaultOffVariation,
    defaultServe: { variation: feature.defaultOnVariation },
    rules: [],
    prerequisites: feature.prerequisites,
    variationToTargetMap: [],
    version: 1,
  };
}

/** What can be said of a feature that is only known as a flag. */
function featureOf({
  feature: identifier,
  kind,
  variations,
  defaultServe,
  offVariation,
  prerequisites,
}: Flag): Feature {
  return {
    identifier,
    name: identifier,
    kind,
    permanent: false,
    tags: [],
    variations,
    defaultOnVariation: defaultServe.variation ?? variations[0]?.identifier ?? '',
    defaultOffVariation: offVariation,
    prerequisites: prerequisites ?? [],
  };
}

/** Of environments whose project is not told: they move once it is. */
const DEFAULT_PROJECT = 'default';

/** Marks the file as ours ("ffcp"), so that no other program's database is written to by mistake. */
const APPLICATION_ID = 0x66666370;
const SCHEMA_VERSION = 3;

const SCHEMA = `
  CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
  CREATE TABLE projects (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, organization TEXT NOT NULL, identifier TEXT NOT NULL,
    name TEXT NOT NULL, UNIQUE (account, organization, identifier)
  ) STRICT;
  CREATE TABLE environments (
    id TEXT PRIMARY KEY, project INTEGER NOT NULL REFERENCES projects, identifier TEXT NOT NULL, name TEXT NOT NULL,
    type TEXT NOT NULL, UNIQUE (project, identifier)
  ) STRICT;
  CREATE TABLE sdk_keys (
    hash TEXT PRIMARY KEY, environment TEXT NOT NULL REFERENCES environments, identifier TEXT NOT NULL,
    name TEXT NOT NULL, type TEXT NOT NULL, UNIQUE (environment, identifier)
  ) STRICT;
  CREATE TABLE proxy_keys (
    hash TEXT PRIMARY KEY, account TEXT NOT NULL, organization TEXT NOT NULL, identifier TEXT NOT NULL,
    version INTEGER NOT NULL, UNIQUE (account, identifier)
  ) STRICT;
  CREATE TABLE features (
    project INTEGER NOT NULL REFERENCES projects, identifier TEXT NOT NULL, feature TEXT NOT NULL,
    created_at INTEGER NOT NULL, modified_at INTEGER NOT NULL, PRIMARY KEY (project, identifier)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE flags (
    environment TEXT NOT NULL REFERENCES environments, identifier TEXT NOT NULL, flag TEXT NOT NULL,
    modified_at INTEGER NOT NULL, PRIMARY KEY (environment, identifier)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE segments (
    environment TEXT NOT NULL REFERENCES environments, identifier TEXT NOT NULL, segment TEXT NOT NULL,
    PRIMARY KEY (environment, identifier)
  ) STRICT, WITHOUT ROWID;
`;

/**
 * All that the control plane knows, in one SQLite file. A change is on disk, and readable, before its method
 * returns and before `announce` hears of it; `announce` hears in the order of the writes. One process at a time.
 *
 * Flags and segments are kept as the text that was written, so they are served with their fields in one order for
 * ever. Lists are in the order of `byIdentifier`.
 */
export class FlagRegistry {
  readonly counts: EvaluationCounts;
  private readonly statements = new Map<string, StatementSync>();

  private constructor(
    private readonly db: DatabaseSync,
    private readonly holderFile: string,
    private readonly announce: (message: AccountMessage) => void,
    private readonly now: () => number,
  ) {
    this.counts = new EvaluationCounts(db, announce, now);
  }

  /**
   * Opens `control-plane.sqlite` in `dataDir`, which is made if it is missing. A new file is filled with `seed`, if any.
   * Throws StartupError when the folder or the file cannot be used, or another process holds it.
   */
  static open(
    dataDir: string,
    seed: ((now: number) => Seed) | undefined,
    announce: (message: AccountMessage) => void,
    now: () => number = Date.now,
  ): FlagRegistry {
    const file = join(dataDir, 'control-plane.sqlite');
    const holderFile = join(dataDir, 'control-plane.pid');
    let db: DatabaseSync | undefined;
    try {
      mkdirSync(dataDir, { recursive: true });
      // It holds the secret that signs tokens: a file that SQLite makes would be readable by everyone.
      closeSync(openSync(file, 'a', 0o600));
      db = new DatabaseSync(file);
      // Exclusive before WAL: the file stays locked for as long as this process lives, however that ends.
      db.exec('PRAGMA locking_mode = EXCLUSIVE');
      db.exec('BEGIN IMMEDIATE');
      const made = isNew(db, file);
      if (made) db.exec(SCHEMA);
      const registry = new FlagRegistry(db, holderFile, announce, now);
      db.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${SCHEMA_VERSION}`);
      if (made) registry.begin();
      if (made && seed) registry.fill(seed(now()));
      db.exec('COMMIT');
      db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON');
      writeFileSync(holderFile, `process ${process.pid} on ${hostname()}`);
      return registry;
    } catch (error) {
      db?.close();
      throw openFailure(error, dataDir, file, holderFile);
    }
  }

  close(): void {
    if (!this.db.isOpen) return;
    rmSync(this.holderFile, { force: true });
    this.db.close();
  }

  /** Signs proxy tokens: made once at random, and kept, so that tokens outlive a restart. */
  get tokenSecret(): Uint8Array {
    const row = this.sql("SELECT value FROM secrets WHERE name = 'token'").get() as { value: Uint8Array };
    return row.value;
  }

  proxyKey(hash: string): ProxyKey | undefined {
    const key = this.sql('SELECT hash, account, organization, version FROM proxy_keys WHERE hash = ?').get(
      hash,
    ) as Omit<ProxyKey, 'environments'> | undefined;
    if (!key) return undefined;
    const environments = this.sql(
      `SELECT environments.id FROM environments JOIN projects ON projects.id = environments.project
       WHERE account = ? AND organization = ? ORDER BY environments.id`,
    ).all(key.account, key.organization);
    return { ...key, environments: environments.map(({ id }) => String(id)) };
  }

  projects(): Project[] {
    return this.sql(`${PROJECTS} ORDER BY account, organization, identifier`).all() as unknown as Project[];
  }

  project(account: string, organization: string, identifier: string): Project | undefined {
    return this.sql(`${PROJECTS} WHERE account = ? AND organization = ? AND identifier = ?`).get(
      account,
      organization,
      identifier,
    ) as Project | undefined;
  }

  environments(project: Project): Environment[] {
    return inOrder(this.sql(ENVIRONMENTS).all(project.id) as unknown as Environment[]);
  }

  environment(project: Project, identifier: string): Environment | undefined {
    return this.sql(`${ENVIRONMENTS} AND identifier = ?`).get(project.id, identifier) as
      Environment | undefined;
  }

  sdkKeys(environment: string): SdkKey[] {
    const keys = this.sql('SELECT hash, identifier, name, type FROM sdk_keys WHERE environment = ?').all(
      environment,
    );
    return inOrder(keys as unknown as SdkKey[]);
  }

  /** The flags of an environment (UUID). */
  flags(environment: string): StoredFlag[] {
    return inOrder(this.sql(FLAGS).all(environment) as FlagRow[]).map(storedFlag);
  }

  flag(environment: string, identifier: string): StoredFlag | undefined {
    const row = this.sql(`${FLAGS} AND identifier = ?`).get(environment, identifier) as FlagRow | undefined;
    return row && storedFlag(row);
  }

  /** The target groups of an environment (UUID). */
  segments(environment: string): Segment[] {
    return inOrder(this.sql(SEGMENTS).all(environment) as SegmentRow[]).map(storedSegment);
  }

  segment(environment: string, identifier: string): Segment | undefined {
    const row = this.sql(`${SEGMENTS} AND identifier = ?`).get(environment, identifier) as
      SegmentRow | undefined;
    return row && storedSegment(row);
  }

  features(project: Project): StoredFeature[] {
    return inOrder(this.sql(FEATURES).all(project.id) as FeatureRow[]).map(storedFeature);
  }

  feature(project: Project, identifier: string): StoredFeature | undefined {
    const row = this.sql(`${FEATURES} AND identifier = ?`).get(project.id, identifier) as
      FeatureRow | undefined;
    return row && storedFeature(row);
  }

  featureCount(project: Project): number {
    return Number(
      this.sql('SELECT count(*) AS count FROM features WHERE project = ?').get(project.id)?.['count'],
    );
  }

  /** Adds a flag, off, to every environment of the project. False, and nothing done, if it is there already. */
  createFeature(project: Project, feature: Feature): boolean {
    return this.write((messages) => {
      if (this.feature(project, feature.identifier)) return false;
      this.addFeature(project, feature);
      for (const { id, identifier } of this.environments(project)) {
        this.addFlag(id, newFlag(feature, project.identifier, identifier));
        messages.push(aboutFlag('create', feature.identifier, id, 1));
      }
      return true;
    });
  }

  /** Changes a flag in one environment and raises its version, also when nothing else differs. False if unknown. */
  changeFlag(environment: string, identifier: string, change: Partial<Pick<Flag, 'state'>>): boolean {
    return this.write((messages) => {
      const stored = this.flag(environment, identifier);
      if (!stored) return false;
      const version = (stored.flag.version ?? 0) + 1;
      const text = JSON.stringify({ ...stored.flag, ...change, version });
      this.sql('UPDATE flags SET flag = ?, modified_at = ? WHERE environment = ? AND identifier = ?').run(
        text,
        this.now(),
        environment,
        identifier,
      );
      messages.push(aboutFlag('patch', identifier, environment, version));
      return true;
    });
  }

  /** Removes a flag from every environment. False if unknown. */
  deleteFeature(project: Project, identifier: string): boolean {
    return this.write((messages) => {
      if (!this.feature(project, identifier)) return false;
      for (const { id } of this.environments(project)) {
        const stored = this.flag(id, identifier);
        if (!stored) continue;
        this.sql('DELETE FROM flags WHERE environment = ? AND identifier = ?').run(id, identifier);
        messages.push(aboutFlag('delete', identifier, id, stored.flag.version ?? 1));
      }
      this.sql('DELETE FROM features WHERE project = ? AND identifier = ?').run(project.id, identifier);
      return true;
    });
  }

  /**
   * Takes over what a bundle says, all of it or nothing.
   *
   * @param replaces whether environments that are here may become as the bundle has them
   * @returns whether the proxy key was added, or what stands in the way: then nothing was done
   */
  import(
    imported: Imported,
    replaces: boolean,
  ): { readonly proxyKeyAdded: boolean } | { readonly conflicts: readonly string[] } {
    return this.write((messages) => {
      const conflicts = this.conflictsWith(imported, replaces);
      if (conflicts.length > 0) return { conflicts };
      const { account, organization, environments } = imported;
      const projects = new Map<number, Project>();
      for (const environment of environments) {
        const former = this.projectOf(environment.id);
        const told = environment.project ?? former?.identifier ?? DEFAULT_PROJECT;
        const project = this.projectFor(account, organization, told);
        for (const touched of [former ?? project, project]) projects.set(touched.id, touched);
        this.placeEnvironment(project, former, environment);
        this.placeKeys(environment.id, environment.apiKeys);
        this.placeFlags(environment.id, environment.flags);
        this.placeSegments(environment.id, environment.segments);
        for (const flag of environment.flags)
          if (!this.feature(project, flag.feature)) this.addFeature(project, featureOf(flag));
      }
      for (const project of projects.values()) this.sql(FORGET_FEATURES).run(project.id, project.id);
      const proxyKeyAdded = this.placeProxyKey(imported);
      messages.push({
        event: 'environmentsAdded',
        domain: 'proxy',
        identifier: '',
        version: 0,
        environment: '',
        environments: environments.map(({ id }) => id),
        apiKey: '',
      });
      return { proxyKeyAdded };
    });
  }

  private conflictsWith({ account, organization, proxyKey, environments }: Imported, replaces: boolean) {
    const conflicts: string[] = [];
    const ids = new Set(environments.map(({ id }) => id));
    for (const { id, project, apiKeys } of environments) {
      const here = this.projectOf(id);
      const isSame =
        here?.account === account &&
        here.organization === organization &&
        [project ?? here.identifier, DEFAULT_PROJECT].includes(here.identifier);
      if (here && !isSame)
        conflicts.push(
          `environment ${id} belongs to project ${here.identifier} of account ${here.account}, organization ${here.organization}`,
        );
      else if (here && !replaces) conflicts.push(`environment ${id} is here already`);
      for (const hash of apiKeys) {
        const holder = this.sql('SELECT environment FROM sdk_keys WHERE hash = ?').get(hash)?.['environment'];
        if (holder !== undefined && !ids.has(String(holder)))
          conflicts.push(`SDK key ${hash.slice(0, 8)}… opens environment ${String(holder)}`);
      }
    }
    const known = this.proxyKey(proxyKey.hash);
    if (known && (known.account !== account || known.organization !== organization))
      conflicts.push(`the proxy key belongs to account ${known.account}, organization ${known.organization}`);
    return conflicts;
  }

  /** Of an environment (UUID). */
  private projectOf(environment: string): Project | undefined {
    return this.sql(`${PROJECTS} WHERE id = (SELECT project FROM environments WHERE id = ?)`).get(
      environment,
    ) as Project | undefined;
  }

  private projectFor(account: string, organization: string, identifier: string): Project {
    this.sql(
      'INSERT INTO projects (account, organization, identifier, name) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
    ).run(account, organization, identifier, identifier);
    return this.project(account, organization, identifier)!;
  }

  private placeEnvironment(
    project: Project,
    former: Project | undefined,
    { id, identifier }: Imported['environments'][number],
  ): void {
    if (former?.id === project.id) return;
    // Two organizations may have had projects of one name.
    const isTaken = this.environment(project, identifier) !== undefined;
    const name = isTaken ? `${identifier}-${id.slice(0, 8)}` : identifier;
    const type = /^prod/i.test(identifier) ? 'Production' : 'PreProduction';
    if (!former) this.addEnvironment(project, { id, identifier: name, name, type });
    else
      this.sql('UPDATE environments SET project = ?, identifier = ?, name = ?, type = ? WHERE id = ?').run(
        project.id,
        name,
        name,
        type,
        id,
      );
  }

  private placeKeys(environment: string, hashes: readonly string[]): void {
    const wanted = new Set(hashes);
    for (const { hash } of this.sdkKeys(environment))
      if (!wanted.has(hash)) this.sql('DELETE FROM sdk_keys WHERE hash = ?').run(hash);
    for (const hash of wanted) {
      const identifier = `key-${hash.slice(0, 16)}`;
      this.sql(
        `INSERT INTO sdk_keys (hash, environment, identifier, name, type) VALUES (?, ?, ?, ?, 'Unknown')
         ON CONFLICT (hash) DO UPDATE SET environment = excluded.environment`,
      ).run(hash, environment, identifier, identifier);
    }
  }

  private placeFlags(environment: string, flags: readonly Flag[]): void {
    const wanted = new Set(flags.map(({ feature }) => feature));
    for (const { flag } of this.flags(environment)) {
      if (!wanted.has(flag.feature))
        this.sql('DELETE FROM flags WHERE environment = ? AND identifier = ?').run(environment, flag.feature);
    }
    for (const flag of flags) {
      this.sql(
        `INSERT INTO flags (environment, identifier, flag, modified_at) VALUES (?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET flag = excluded.flag, modified_at = excluded.modified_at
         WHERE flag <> excluded.flag`,
      ).run(environment, flag.feature, JSON.stringify(flag), this.now());
    }
  }

  private placeSegments(environment: string, segments: readonly Segment[]): void {
    this.sql('DELETE FROM segments WHERE environment = ?').run(environment);
    for (const segment of segments) this.addSegment(environment, segment);
  }

  /** @returns whether it was added */
  private placeProxyKey({ account, organization, proxyKey }: Imported): boolean {
    if (this.proxyKey(proxyKey.hash)) return false;
    const others = this.sql('SELECT hash FROM proxy_keys WHERE account = ? AND organization = ?');
    if (proxyKey.isNew && others.get(account, organization)) return false;
    this.addProxyKey(account, organization, proxyKey);
    return true;
  }

  private write<Result>(change: (messages: AccountMessage[]) => Result): Result {
    const messages: AccountMessage[] = [];
    this.db.exec('BEGIN IMMEDIATE');
    let result: Result;
    try {
      result = change(messages);
      this.db.exec('COMMIT');
    } catch (error) {
      if (this.db.isTransaction) this.db.exec('ROLLBACK');
      throw error;
    }
    for (const message of messages) this.announce(message);
    return result;
  }

  private begin(): void {
    this.sql("INSERT INTO secrets (name, value) VALUES ('token', ?)").run(randomBytes(32));
  }

  private fill(seed: Seed): void {
    const { account, organization, proxyKey } = seed;
    this.sql('INSERT INTO projects (account, organization, identifier, name) VALUES (?, ?, ?, ?)').run(
      account,
      organization,
      seed.project.identifier,
      seed.project.name,
    );
    this.addProxyKey(account, organization, proxyKey);
    const project = this.project(account, organization, seed.project.identifier)!;
    for (const feature of seed.features) this.addFeature(project, feature);
    for (const environment of seed.environments) {
      const { id } = environment;
      this.addEnvironment(project, environment);
      for (const key of environment.sdkKeys) {
        this.sql(
          'INSERT INTO sdk_keys (hash, environment, identifier, name, type) VALUES (?, ?, ?, ?, ?)',
        ).run(key.hash, id, key.identifier, key.name, key.type);
      }
      for (const flag of environment.flags) this.addFlag(id, flag);
      for (const segment of environment.segments) this.addSegment(id, segment);
    }
  }

  private addProxyKey(
    account: string,
    organization: string,
    { identifier, hash }: { readonly identifier: string; readonly hash: string },
  ): void {
    this.sql(
      'INSERT INTO proxy_keys (hash, account, organization, identifier, version) VALUES (?, ?, ?, ?, 1)',
    ).run(hash, account, organization, identifier);
  }

  private addEnvironment(project: Project, { id, identifier, name, type }: Environment): void {
    this.sql('INSERT INTO environments (id, project, identifier, name, type) VALUES (?, ?, ?, ?, ?)').run(
      id,
      project.id,
      identifier,
      name,
      type,
    );
  }

  private addSegment(environment: string, segment: Segment): void {
    this.sql('INSERT INTO segments (environment, identifier, segment) VALUES (?, ?, ?)').run(
      environment,
      segment.identifier,
      JSON.stringify(segment),
    );
  }

  private addFeature(project: Project, feature: Feature): void {
    const now = this.now();
    this.sql(
      'INSERT INTO features (project, identifier, feature, created_at, modified_at) VALUES (?, ?, ?, ?, ?)',
    ).run(project.id, feature.identifier, JSON.stringify(feature), now, now);
  }

  private addFlag(environment: string, flag: Flag): void {
    this.sql('INSERT INTO flags (environment, identifier, flag, modified_at) VALUES (?, ?, ?, ?)').run(
      environment,
      flag.feature,
      JSON.stringify(flag),
      this.now(),
    );
  }

  private sql(text: string): StatementSync {
    let statement = this.statements.get(text);
    if (!statement) this.statements.set(text, (statement = this.db.prepare(text)));
    return statement;
  }
}

const PROJECTS = 'SELECT id, account, organization, identifier, name FROM projects';
const ENVIRONMENTS = 'SELECT id, identifier, name, type FROM environments WHERE project = ?';
const FLAGS = 'SELECT identifier, flag, modified_at FROM flags WHERE environment = ?';
const SEGMENTS = 'SELECT identifier, segment FROM segments WHERE environment = ?';
/** Those that no environment of the project has a flag of any more. */
const FORGET_FEATURES = `
  DELETE FROM features WHERE project = ? AND identifier NOT IN (
    SELECT flags.identifier FROM flags JOIN environments ON environments.id = flags.environment WHERE project = ?
  )`;
const FEATURES = 'SELECT identifier, feature, created_at, modified_at FROM features WHERE project = ?';

const inOrder = <Row extends { readonly identifier: string }>(rows: Row[]) =>
  rows.toSorted((a, b) => byIdentifier(a.identifier, b.identifier));

type FlagRow = { identifier: string; flag: string; modified_at: number };
type SegmentRow = { identifier: string; segment: string };
type FeatureRow = { identifier: string; feature: string; created_at: number; modified_at: number };

const storedFlag = (row: FlagRow): StoredFlag => ({
  flag: JSON.parse(row.flag) as Flag,
  modifiedAt: row.modified_at,
});
const storedSegment = (row: SegmentRow) => JSON.parse(row.segment) as Segment;
const storedFeature = (row: FeatureRow): StoredFeature => ({
  feature: JSON.parse(row.feature) as Feature,
  createdAt: row.created_at,
  modifiedAt: row.modified_at,
});

const aboutFlag = (
  event: string,
  identifier: string,
  environment: string,
  version: number,
): AccountMessage => ({
  event,
  domain: 'flag',
  identifier,
  version,
  environment,
  apiKey: '',
});

/** Whether the file was just made. Throws StartupError when it belongs to another program or a later version. */
function isNew(db: DatabaseSync, file: string): boolean {
  const number = (pragma: string) => Number(Object.values(db.prepare(`PRAGMA ${pragma}`).get() ?? {})[0]);
  if (number('application_id') === APPLICATION_ID) {
    if (number('user_version') <= SCHEMA_VERSION) return false;
    throw new StartupError(`${file} was written by a later version of the control plane. Run that version.`);
  }
  const tables = Number(db.prepare('SELECT count(*) AS tables FROM sqlite_schema').get()?.['tables']);
  if (tables === 0) return true;
  throw new StartupError(
    `${file} is the database of another program. Move it away, or set DATA_DIR to another folder.`,
  );
}

/** SQLite's primary result codes that call for their own advice. */
const BUSY = 5;
const CORRUPT = 11;
const NOT_A_DATABASE = 26;

function openFailure(error: unknown, dataDir: string, file: string, holderFile: string): Error {
  const { code: kind, errcode, message } = error as NodeJS.ErrnoException & { errcode?: number };
  if (kind === undefined) return error as Error;
  const code = (errcode ?? 0) & 0xff;
  const cause = { cause: error };
  if (code === BUSY) {
    return new StartupError(
      `${file} is in use by ${holder(holderFile)}. Stop it, or set DATA_DIR to another folder.`,
      cause,
    );
  }
  if (code === CORRUPT || code === NOT_A_DATABASE) {
    return new StartupError(
      `${file} is no readable database. Put a backup in its place, or move it away to start anew.`,
      cause,
    );
  }
  return new StartupError(
    `DATA_DIR ${dataDir} cannot be used (${message}). Give this process the right to write there, or set DATA_DIR to another folder.`,
    cause,
  );
}

function holder(holderFile: string): string {
  try {
    return readFileSync(holderFile, 'utf8').slice(0, 200) || 'another process';
  } catch {
    return 'another process';
  }
}
