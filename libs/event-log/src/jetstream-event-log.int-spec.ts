import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect as dial, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { type JetStreamManager, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect } from '@nats-io/transport-node';

import { eventLogContract } from './event-log.suite.js';
import { MessageTooLarge, UnknownEpoch } from './index.js';
import { JetStreamEventLog } from './jetstream-event-log.js';

let server: ChildProcess;
let folder: string;
let port: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ff-relay-nats-'));
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  port = (probe.address() as { port: number }).port;
  probe.close();
  server = spawn('nats-server', ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', folder], {
    stdio: 'ignore',
  });
  for (let up = false; !up;) {
    const socket = dial(port, '127.0.0.1');
    up = await Promise.race([
      once(socket, 'data').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (!up) await delay(50);
  }
});
afterAll(async () => {
  server.kill('SIGTERM');
  await once(server, 'exit');
  await rm(folder, { recursive: true });
});

/** The streams of a server, as somebody else than the log sees and changes them. */
const asAdministrator = async (work: (manager: JetStreamManager) => Promise<unknown>) => {
  const connection = await connect({ servers: url() });
  await work(await jetstreamManager(connection));
  await connection.close();
};
const url = () => `nats://127.0.0.1:${port}`;
const open = () => JetStreamEventLog.open({ servers: url(), replicas: 1 });
const clear = () =>
  asAdministrator(async ({ streams }) => {
    for await (const { config } of streams.list()) await streams.delete(config.name);
  });

eventLogContract('JetStream', async () => ({ open, dispose: clear }));

describe('A stream of JetStream', () => {
  afterEach(clear);
  const message = (body: string, id = body) => ({ subject: 'ff.facts.v1.dev.flag.a', id, body });

  it('that is deleted under a running log is made anew with another epoch, and its readers are told', async () => {
    const log = await open();
    const before = await log.append('FF_FACTS', message('1'));
    const reading = Array.fromAsync(log.tail('FF_FACTS', undefined, new AbortController().signal));
    await asAdministrator(({ streams }) => streams.delete('FF_FACTS'));

    await expect(reading).rejects.toThrow(UnknownEpoch);
    const after = await log.append('FF_FACTS', message('2'));
    expect(after.epoch).not.toBe(before.epoch);
    await expect(Array.fromAsync(log.tail('FF_FACTS', before, new AbortController().signal))).rejects.toThrow(
      UnknownEpoch,
    );
    await log.close();
  });

  it('with settings that are not ours keeps them', async () => {
    await asAdministrator(({ streams }) =>
      streams.add({
        name: 'FF_FACTS',
        subjects: ['ff.facts.v1.>'],
        storage: StorageType.File,
        max_msgs_per_subject: 3,
      }),
    );
    const log = await open();
    for (const body of ['1', '2', '3', '4', '5']) await log.append('FF_FACTS', message(body));
    const kept = (await Array.fromAsync(log.history('FF_FACTS', message('').subject))).flat();
    expect(kept.map(({ body }) => body)).toEqual(['3', '4', '5']);
    await log.close();
  });

  it('takes messages up to its limit, refuses larger ones by name, and goes on', async () => {
    const log = await open();
    const largest = 1024 * 1024 - 1024;
    await log.append('FF_FACTS', message('x'.repeat(largest), 'largest'));
    await expect(log.append('FF_FACTS', message('x'.repeat(largest + 1), 'larger'))).rejects.toThrow(
      MessageTooLarge,
    );
    await log.append('FF_FACTS', message('next'));
    await log.close();
  });
});

describe('Of two processes that would lead', () => {
  afterEach(clear);

  it('one does, and the other takes over when it leaves', async () => {
    const [one, two] = [await open(), await open()];
    const stop = new AbortController();
    const lost = await one.lead('ingestor', new AbortController().signal);
    let led = false;
    const second = two.lead('ingestor', stop.signal).then((signal) => {
      led = true;
      return signal;
    });
    await one.lead('projector', new AbortController().signal);
    expect(led).toBe(false);
    await one.close();
    expect(lost.aborted).toBe(true);
    expect((await second).aborted).toBe(false);
    stop.abort();
    await two.close();
  });

  it('the other takes over when the first says nothing any more, and the first is told', async () => {
    const [one, two] = [await open(), await open()];
    const lost = await one.lead('ingestor', new AbortController().signal);
    // As if it had been paused past its lease.
    const connection = await connect({ servers: url() });
    await (await new Kvm(connection).open('ff_leases')).purge('ingestor');
    await connection.close();
    expect((await two.lead('ingestor', new AbortController().signal)).aborted).toBe(false);
    if (!lost.aborted) await once(lost, 'abort');
    await one.close();
    await two.close();
  });
});
