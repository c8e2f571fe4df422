/**
 * The thread that owns the SQLite file of the embedded log. It takes requests in order and answers each.
 *
 * Writes are gathered: all that are waiting when the thread gets to them share one transaction, and so one flush to
 * disk. A write that is refused (its subject moved on) changes nothing and takes no other with it.
 *
 * Node runs this file as it is, in tests too: no imports of ours but types.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { parentPort, workerData } from 'node:worker_threads';

export interface StreamSettings {
  readonly name: string;
  readonly keepPerSubject?: number;
  readonly keepForMs?: number;
  /** With it, what goes beyond the bounds is counted. */
  readonly keepBytes?: number;
  /** Ids of what was taken out are known for a while. */
  readonly isQueue?: boolean;
}

export interface WorkerSettings {
  readonly dataDir: string;
  readonly streams: readonly StreamSettings[];
  /** Nothing is written, not even the lock: another process may write meanwhile. */
  readonly readsOnly: boolean;
}

export interface StoredMessage {
  readonly sequence: number;
  readonly subject: string;
  readonly body: string;
  readonly time: number;
}

export interface StoredBacklog {
  readonly messages: number;
  readonly bytes: number;
  readonly dropped: number;
  /** When the oldest was appended. */
  readonly oldest: unknown;
}

export type Request =
  | {
      op: 'append';
      stream: string;
      subject: string;
      id: string;
      body: string;
      expectedSequence?: number | undefined;
    }
  | { op: 'remember'; name: string; value: string }
  | { op: 'recall'; name: string }
  | { op: 'done'; stream: string; sequence: number }
  | { op: 'backlog'; stream: string }
  | { op: 'head'; stream: string }
  | { op: 'beginning'; stream: string }
  | { op: 'after'; stream: string; sequence: number }
  | { op: 'lastOfSubjects'; stream: string; prefix: string }
  | { op: 'ofSubject'; stream: string; subject: string }
  | { op: 'messages'; stream: string; sequences: readonly number[] }
  | { op: 'close' };

export type Response =
  | { ok: true; value: unknown }
  | { ok: false; error: 'unexpected sequence'; actual: number }
  | { ok: false; error: 'failed'; reason: string };

/** How opening went: the epochs of the streams, or why the folder cannot be used. */
export type Opened =
  | { ok: true; epochs: Record<string, string> }
  | { ok: false; problem: 'locked'; holder: string }
  | { ok: false; problem: 'unusable'; reason: string }
  | { ok: false; problem: 'absent' };

/** A portion that is read at once: enough to be fast, little enough to hold. */
const PORTION_MESSAGES = 500;
const PORTION_BYTES = 4 * 1024 * 1024;
const TRIM_EVERY_MS = 60_000;
/** How long the id of a message is known after it was taken out of the queue. */
const KNOWN_FOR_MS = 120_000;
/** How long a reader waits while the process that writes begins or ends. */
const BUSY_MS = 5000;

type Write = Extract<Request, { op: 'append' | 'remember' | 'done' }>;
type Read = Exclude<Request, Write | { op: 'close' }>;

class LogFile {
  private readonly database: DatabaseSync;
  private readonly statements = new Map<string, StatementSync>();
  private readonly tables = new Map<string, StreamSettings>();
  private trimmedAt = 0;
  /** The bytes in each stream with bounds. Of a reader nothing: it keeps no bounds. */
  private bytes = new Map<string, number>();

  constructor(database: DatabaseSync, streams: readonly StreamSettings[]) {
    this.database = database;
    for (const stream of streams) this.tables.set(stream.name, stream);
  }

  /** Makes what is missing. */
  prepare(): void {
    const { database } = this;
    database.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = FULL;
      CREATE TABLE IF NOT EXISTS streams (name TEXT PRIMARY KEY, epoch TEXT NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    `);
    for (const { name, keepBytes, isQueue } of this.tables.values()) {
      database.exec(`
        CREATE TABLE IF NOT EXISTS ${name} (
          sequence INTEGER PRIMARY KEY AUTOINCREMENT,
          subject TEXT NOT NULL, id TEXT NOT NULL UNIQUE, time INTEGER NOT NULL, body TEXT NOT NULL
        ) STRICT;
        CREATE INDEX IF NOT EXISTS ${name}_by_subject ON ${name} (subject, sequence);
        CREATE INDEX IF NOT EXISTS ${name}_by_time ON ${name} (time);
      `);
      this.sql('INSERT OR IGNORE INTO streams VALUES (?, ?)').run(name, randomUUID());
      if (isQueue) {
        database.exec(
          `CREATE TABLE IF NOT EXISTS ${name}_done (id TEXT PRIMARY KEY, sequence INTEGER, time INTEGER) STRICT`,
        );
      }
      if (keepBytes !== undefined) {
        this.bytes.set(name, this.bytesIn(name));
      }
    }
  }

  epochs(): Record<string, string> {
    const rows = this.sql('SELECT name, epoch FROM streams').all();
    return Object.fromEntries(rows.map(({ name, epoch }) => [String(name), String(epoch)]));
  }

  /** All in one transaction; one answer for each. */
  write(requests: readonly Write[]): Response[] {
    const bytes = new Map(this.bytes);
    try {
      this.database.exec('BEGIN IMMEDIATE');
      const responses = requests.map((request) => this.change(request));
      this.trim();
      this.database.exec('COMMIT');
      return responses;
    } catch (error) {
      if (this.database.isTransaction) this.database.exec('ROLLBACK');
      this.bytes = bytes;
      const reason = error instanceof Error ? error.message : String(error);
      return requests.map(() => ({ ok: false, error: 'failed', reason }));
    }
  }

  read(request: Read): Response {
    try {
      if ('stream' in request && this.bytes.has(request.stream)) this.write([]);
      return { ok: true, value: this.answer(request) };
    } catch (error) {
      return { ok: false, error: 'failed', reason: error instanceof Error ? error.message : String(error) };
    }
  }

  close(): void {
    this.database.close();
  }

  private change(request: Write): Response {
    switch (request.op) {
      case 'append':
        return this.append(request);
      case 'remember':
        return this.remember(request);
      case 'done':
        return this.done(request);
    }
  }

  private append({
    stream,
    subject,
    id,
    body,
    expectedSequence,
  }: Extract<Write, { op: 'append' }>): Response {
    const table = this.table(stream);
    const isQueue = this.tables.get(stream)?.isQueue;
    const repeated =
      this.sql(`SELECT sequence FROM ${table} WHERE id = ?`).get(id) ??
      (isQueue ? this.sql(`SELECT sequence FROM ${table}_done WHERE id = ?`).get(id) : undefined);
    if (repeated) return { ok: true, value: repeated['sequence'] };
    if (expectedSequence !== undefined) {
      const actual = this.number(`SELECT max(sequence) AS n FROM ${table} WHERE subject = ?`, subject);
      if (actual !== expectedSequence) return { ok: false, error: 'unexpected sequence', actual };
    }
    const { lastInsertRowid } = this.sql(
      `INSERT INTO ${table} (subject, id, time, body) VALUES (?, ?, ?, ?)`,
    ).run(subject, id, Date.now(), body);
    this.count(stream, Buffer.byteLength(body));
    const keep = this.tables.get(stream)?.keepPerSubject;
    if (keep !== undefined) {
      this.sql(
        `DELETE FROM ${table} WHERE subject = ?1 AND sequence <=
          (SELECT sequence FROM ${table} WHERE subject = ?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)`,
      ).run(subject, keep);
    }
    return { ok: true, value: Number(lastInsertRowid) };
  }

  private remember({ name, value }: Omit<Extract<Write, { op: 'remember' }>, 'op'>): Response {
    this.sql('INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value').run(
      name,
      value,
    );
    return { ok: true, value: undefined };
  }

  private done({ stream, sequence }: Extract<Write, { op: 'done' }>): Response {
    const table = this.table(stream);
    const gone = this.sql(
      `DELETE FROM ${table} WHERE sequence = ? RETURNING id, octet_length(body) AS bytes`,
    ).get(sequence);
    if (gone) this.count(stream, -Number(gone['bytes']));
    if (gone && this.tables.get(stream)?.isQueue) {
      this.sql(`INSERT OR REPLACE INTO ${table}_done VALUES (?, ?, ?)`).run(
        String(gone['id']),
        sequence,
        Date.now(),
      );
    }
    return { ok: true, value: undefined };
  }

  private count(stream: string, bytes: number): void {
    const before = this.bytes.get(stream);
    if (before !== undefined) this.bytes.set(stream, before + bytes);
  }

  private trim(): void {
    const now = Date.now();
    const isTime = now - this.trimmedAt >= TRIM_EVERY_MS;
    if (isTime) this.trimmedAt = now;
    for (const { name, isQueue, keepForMs = Number.POSITIVE_INFINITY, keepBytes } of this.tables.values()) {
      if (keepBytes !== undefined) this.dropOldest(name, now - keepForMs, keepBytes);
      else if (isTime && keepForMs < now) this.sql(`DELETE FROM ${name} WHERE time < ?`).run(now - keepForMs);
      if (isTime && isQueue) {
        this.sql(`DELETE FROM ${name}_done WHERE time < ?`).run(now - KNOWN_FOR_MS);
      }
    }
  }

  private dropOldest(stream: string, since: number, keepBytes: number): void {
    let dropped = 0;
    for (;;) {
      const oldest = this.sql(
        `SELECT sequence, time, octet_length(body) AS bytes FROM ${stream} ORDER BY sequence LIMIT 1`,
      ).get();
      if (!oldest || (Number(oldest['time']) >= since && (this.bytes.get(stream) ?? 0) <= keepBytes)) break;
      this.sql(`DELETE FROM ${stream} WHERE sequence = ?`).run(Number(oldest['sequence']));
      this.count(stream, -Number(oldest['bytes']));
      dropped++;
    }
    if (dropped > 0)
      this.remember({ name: droppedOf(stream), value: String(this.dropped(stream) + dropped) });
  }

  private dropped(stream: string): number {
    return Number(this.noted(droppedOf(stream)) ?? 0);
  }

  private noted(name: string): unknown {
    return this.sql('SELECT value FROM notes WHERE name = ?').get(name)?.['value'];
  }

  private answer(request: Read): unknown {
    if (request.op === 'recall') return this.noted(request.name);
    const table = this.table(request.stream);
    switch (request.op) {
      case 'head':
        return this.number('SELECT seq AS n FROM sqlite_sequence WHERE name = ?', table);
      case 'beginning':
        return this.number(
          `SELECT coalesce((SELECT min(sequence) - 1 FROM ${table}), (SELECT seq FROM sqlite_sequence WHERE name = ?)) AS n`,
          table,
        );
      case 'backlog':
        return {
          bytes: this.bytes.get(table) ?? this.bytesIn(table),
          dropped: this.dropped(table),
          messages: this.number(`SELECT count(*) AS n FROM ${table}`),
          oldest: this.sql(`SELECT time FROM ${table} ORDER BY sequence LIMIT 1`).get()?.['time'],
        } satisfies StoredBacklog;
      case 'after':
        return this.portion(
          `SELECT sequence, subject, body, time FROM ${table} WHERE sequence > ? ORDER BY sequence LIMIT ${PORTION_MESSAGES}`,
          request.sequence,
        );
      case 'messages':
        return this.portion(
          `SELECT sequence, subject, body, time FROM ${table}
            WHERE sequence IN (SELECT value FROM json_each(?)) ORDER BY sequence`,
          JSON.stringify(request.sequences.slice(0, PORTION_MESSAGES)),
        );
      case 'ofSubject':
        return this.sequences(
          `SELECT sequence FROM ${table} WHERE subject = ? ORDER BY sequence`,
          request.subject,
        );
      case 'lastOfSubjects':
        return this.sequences(
          `SELECT max(sequence) AS sequence FROM ${table} WHERE subject >= ?1 AND subject < ?1 || char(0x10FFFF)
            GROUP BY subject ORDER BY sequence`,
          request.prefix,
        );
    }
  }

  /** As many rows as fit in a portion, at least one. */
  private portion(sql: string, parameter: number | string): StoredMessage[] {
    const portion: StoredMessage[] = [];
    let bytes = 0;
    for (const row of this.sql(sql).iterate(parameter)) {
      const message = row as unknown as StoredMessage;
      bytes += message.body.length;
      if (portion.length > 0 && bytes > PORTION_BYTES) break;
      portion.push({ ...message });
    }
    return portion;
  }

  private sequences(sql: string, parameter: string): number[] {
    return this.sql(sql)
      .all(parameter)
      .map((row) => Number(row['sequence']));
  }

  private bytesIn(stream: string): number {
    return this.number(`SELECT sum(octet_length(body)) AS n FROM ${stream}`);
  }

  private number(sql: string, ...parameters: string[]): number {
    return Number(this.sql(sql).get(...parameters)?.['n'] ?? 0);
  }

  private table(stream: string): string {
    if (!this.tables.has(stream)) throw new Error(`there is no stream ${stream}`);
    return stream;
  }

  private sql(text: string): StatementSync {
    let statement = this.statements.get(text);
    if (!statement) this.statements.set(text, (statement = this.database.prepare(text)));
    return statement;
  }
}

/** The note of how many messages of a stream its bounds have cost. */
function droppedOf(stream: string): string {
  return `dropped-${stream}`;
}

/** The folder is ours as long as this stays open: the system lets go of the lock when the process dies, however it dies. */
function lock(dataDir: string): DatabaseSync | { holder: string } {
  const holderFile = join(dataDir, 'relay.pid');
  const guard = new DatabaseSync(join(dataDir, 'relay.lock'));
  try {
    guard.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;');
  } catch (error) {
    guard.close();
    if (!String(error).includes('locked')) throw error;
    return { holder: existsSync(holderFile) ? readFileSync(holderFile, 'utf8').trim() : 'another process' };
  }
  writeFileSync(holderFile, `process ${process.pid}, since ${new Date().toISOString()}\n`);
  return guard;
}

function open({
  dataDir,
  streams,
  readsOnly,
}: WorkerSettings):
  { log: LogFile; epochs: Record<string, string>; guard?: DatabaseSync } | Exclude<Opened, { ok: true }> {
  const file = join(dataDir, 'log.sqlite');
  try {
    if (readsOnly) {
      if (!existsSync(file)) return { ok: false, problem: 'absent' };
      const log = new LogFile(new DatabaseSync(file, { readOnly: true, timeout: BUSY_MS }), streams);
      return { log, epochs: log.epochs() };
    }
    mkdirSync(dataDir, { recursive: true });
    const guard = lock(dataDir);
    if (!(guard instanceof DatabaseSync)) return { ok: false, problem: 'locked', holder: guard.holder };
    const log = new LogFile(new DatabaseSync(file), streams);
    log.prepare();
    return { log, epochs: log.epochs(), guard };
  } catch (error) {
    return { ok: false, problem: 'unusable', reason: error instanceof Error ? error.message : String(error) };
  }
}

function serve(port: NonNullable<typeof parentPort>, log: LogFile, guard: DatabaseSync | undefined): void {
  let waiting: { call: number; request: Write }[] = [];
  const flush = () => {
    const batch = waiting;
    waiting = [];
    if (batch.length === 0) return;
    const responses = log.write(batch.map(({ request }) => request));
    batch.forEach(({ call }, i) => port.postMessage({ call, response: responses[i] }));
  };
  port.on('message', ({ call, request }: { call: number; request: Request }) => {
    if (request.op === 'append' || request.op === 'remember' || request.op === 'done') {
      if (waiting.push({ call, request }) === 1) setImmediate(flush);
      return;
    }
    flush();
    if (request.op !== 'close') {
      port.postMessage({ call, response: log.read(request) });
      return;
    }
    log.close();
    guard?.close();
    port.postMessage({ call, response: { ok: true, value: undefined } satisfies Response });
    port.close();
  });
}

if (parentPort) {
  const opened = open(workerData as WorkerSettings);
  if ('log' in opened) {
    serve(parentPort, opened.log, opened.guard);
    parentPort.postMessage({ ok: true, epochs: opened.epochs } satisfies Opened);
  } else {
    parentPort.postMessage(opened);
  }
}
