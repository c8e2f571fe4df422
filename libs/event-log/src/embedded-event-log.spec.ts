import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { StartupError } from '#libs/service';

import { eventLogContract } from './event-log.suite.js';
import { EmbeddedEventLog, UnknownEpoch } from './index.js';

const newFolder = () => mkdtemp(join(tmpdir(), 'ff-relay-log-'));

eventLogContract('embedded', async () => {
  const folder = await newFolder();
  return {
    open: (metrics) => EmbeddedEventLog.open(folder, metrics && { metrics }),
    dispose: () => rm(folder, { recursive: true }),
  };
});

describe('A reader of an embedded log', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await newFolder();
  });
  afterEach(() => rm(folder, { recursive: true }));

  const append = (log: EmbeddedEventLog, id: string) =>
    log.append('FF_FACTS', { subject: 's', id, body: id });

  it('follows what another writes meanwhile, in the same epoch', async () => {
    const log = await EmbeddedEventLog.open(folder);
    await append(log, '1');
    const reader = await EmbeddedEventLog.reader(folder);
    expect(await reader.head('FF_FACTS')).toEqual(await log.head('FF_FACTS'));
    const read: string[] = [];
    for await (const messages of reader.tail('FF_FACTS', undefined, AbortSignal.timeout(10_000))) {
      read.push(...messages.map(({ body }) => body));
      if (read.length === 3) break;
      await append(log, String(read.length + 1));
    }
    expect(read).toEqual(['1', '2', '3']);
    await expect(append(reader, '4')).rejects.toThrow('readonly');
    await reader.close();
    await log.close();
  });

  it('reads a log whose relay has stopped, and hinders none that starts', async () => {
    const log = await EmbeddedEventLog.open(folder);
    await append(log, '1');
    await log.close();
    const reader = await EmbeddedEventLog.reader(folder);
    expect((await reader.head('FF_FACTS')).sequence).toBe(1);
    const next = await EmbeddedEventLog.open(folder);
    await append(next, '2');
    await next.close();
    expect((await reader.head('FF_FACTS')).sequence).toBe(2);
    await reader.close();
  });

  it('sees what waits and what is parked as the log that is written does, and takes nothing out', async () => {
    const log = await EmbeddedEventLog.open(folder, { metrics: { keepForMs: 3_600_000, keepBytes: 3000 } });
    const metrics = (id: string) => log.append('FF_METRICS', { subject: 'm', id, body: id.repeat(1000) });
    for (const id of ['1', '2', '3', '4']) await metrics(id);
    const park = (id: string) => log.append('FF_METRICS_PARKED', { subject: `p.${id}`, id, body: id });
    const position = await park('ä');

    const reader = await EmbeddedEventLog.reader(folder);
    expect(await reader.backlog()).toMatchObject({ messages: 3, bytes: 3000, dropped: 1 });
    expect(await reader.backlog('FF_METRICS_PARKED')).toMatchObject({ messages: 1, bytes: 2, dropped: 0 });
    await park('b');
    const read: string[] = [];
    for await (const messages of reader.latest('FF_METRICS_PARKED', 'p.'))
      read.push(...messages.map(({ body }) => body));
    for await (const messages of reader.history('FF_METRICS_PARKED', 'p.b'))
      read.push(...messages.map(({ body }) => body));
    for await (const messages of reader.tail('FF_METRICS_PARKED', position, AbortSignal.timeout(10_000))) {
      read.push(...messages.map(({ body }) => body));
      break;
    }
    expect(read).toEqual(['ä', 'b', 'b', 'b']);
    await expect(reader.remove('FF_METRICS_PARKED', position)).rejects.toThrow('readonly');
    expect(await log.backlog('FF_METRICS_PARKED')).toMatchObject({ messages: 2, bytes: 3 });
    await reader.close();
    await log.close();
  });

  it('ends when the log is removed', async () => {
    await (await EmbeddedEventLog.open(folder)).close();
    const reader = await EmbeddedEventLog.reader(folder);
    const reading = (async () => {
      for await (const _ of reader.tail('FF_FACTS', undefined, AbortSignal.timeout(10_000)));
    })();
    await rm(join(folder, 'log.sqlite'));
    await expect(reading).rejects.toThrow(UnknownEpoch);
    await reader.close();
  });

  it('makes nothing where there is no log, and says so', async () => {
    await expect(EmbeddedEventLog.reader(folder)).rejects.toThrow(/DATA_DIR .* holds no log\. Set /);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('The folder of an embedded log', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await newFolder();
  });
  afterEach(() => rm(folder, { recursive: true }));

  it('is made when it is not there', async () => {
    const log = await EmbeddedEventLog.open(join(folder, 'a', 'b'));
    await log.append('FF_FACTS', { subject: 's', id: 'i', body: '' });
    await log.close();
  });

  it('serves one log at a time, and the second is told who has it', async () => {
    const log = await EmbeddedEventLog.open(folder);
    const second = EmbeddedEventLog.open(folder);
    await expect(second).rejects.toThrow(StartupError);
    await expect(second).rejects.toThrow(`in use by process ${process.pid}`);
    expect(EmbeddedEventLog.holder(folder)).toMatch(new RegExp(`^process ${process.pid}, since `));
    await log.close();
    expect(EmbeddedEventLog.holder(folder)).toBeUndefined();
    await (await EmbeddedEventLog.open(folder)).close();
  });

  it('that is a file is refused with the reason', async () => {
    const file = join(folder, 'file');
    await writeFile(file, '');
    await expect(EmbeddedEventLog.open(file)).rejects.toThrow(/DATA_DIR .*file cannot be used: .*EEXIST/);
  });

  it('with a log that is no database is refused with the reason', async () => {
    await writeFile(join(folder, 'log.sqlite'), 'this is not what SQLite writes'.repeat(100));
    await expect(EmbeddedEventLog.open(folder)).rejects.toThrow(/cannot be used: file is not a database/);
  });

  it('loses notices that are older than a week, and no facts', async () => {
    await (await EmbeddedEventLog.open(folder)).close();
    const file = new DatabaseSync(join(folder, 'log.sqlite'));
    const eightDaysAgo = Date.now() - 8 * 24 * 3600 * 1000;
    for (const stream of ['FF_FACTS', 'FF_CHANGES']) {
      file
        .prepare(`INSERT INTO ${stream} (subject, id, time, body) VALUES ('s', 'old', ?, 'old')`)
        .run(eightDaysAgo);
    }
    file.close();

    const log = await EmbeddedEventLog.open(folder);
    await log.append('FF_CHANGES', { subject: 's', id: 'new', body: 'new' });
    const bodies = async (stream: 'FF_FACTS' | 'FF_CHANGES') =>
      (await Array.fromAsync(log.history(stream, 's'))).flat().map(({ body }) => body);
    expect(await bodies('FF_CHANGES')).toEqual(['new']);
    expect((await log.beginning('FF_CHANGES')).sequence).toBe(1);
    expect(await bodies('FF_FACTS')).toEqual(['old']);
    await log.close();
  });

  it('of a version that had neither notes nor a queue is taken over with its facts', async () => {
    const before = await EmbeddedEventLog.open(folder);
    const position = await before.append('FF_FACTS', { subject: 's', id: 'i', body: 'fact' });
    await before.close();
    const file = new DatabaseSync(join(folder, 'log.sqlite'));
    file.exec(`
      DROP TABLE notes; DROP TABLE FF_METRICS; DROP TABLE FF_METRICS_done;
      DELETE FROM streams WHERE name = 'FF_METRICS';
      CREATE TABLE followers (
        stream TEXT NOT NULL, name TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (stream, name)
      ) STRICT;
    `);
    file.close();

    const log = await EmbeddedEventLog.open(folder);
    expect(await log.head('FF_FACTS')).toEqual(position);
    await log.remember('projector', position);
    await log.append('FF_METRICS', { subject: 'm', id: 'm', body: '' });
    expect(await log.backlog()).toMatchObject({ messages: 1 });
    await log.close();
  });

  it('made anew begins a new epoch', async () => {
    const log = await EmbeddedEventLog.open(folder);
    const { epoch } = await log.head('FF_FACTS');
    await log.close();
    await rm(folder, { recursive: true });
    const anew = await EmbeddedEventLog.open(folder);
    expect((await anew.head('FF_FACTS')).epoch).not.toBe(epoch);
    await anew.close();
  });
});
