import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect as dial, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import {
  jetstream,
  type JetStreamManager,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
} from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect, type NatsConnection, nkeys } from '@nats-io/transport-node';
import { Logger, type LoggerService } from '@nestjs/common';

import { StartupError } from '#libs/service';

import { eventLogContract, inWaves } from './event-log.suite.js';
import { type Bounds, type EventLog, LogUnreachable, MessageTooLarge, UnknownEpoch } from './index.js';
import { JetStreamEventLog, type JetStreamOptions } from './jetstream-event-log.js';

/** A server of its own, on a port that it keeps. */
class NatsServer {
  private process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    readonly folder: string,
  ) {}

  static async create(): Promise<NatsServer> {
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as { port: number };
    probe.close();
    return new NatsServer(port, await mkdtemp(join(tmpdir(), 'ff-relay-nats-')));
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async start(configuration = '', storage = '10GB'): Promise<void> {
    const file = join(this.folder, 'nats.conf');
    await writeFile(
      file,
      `listen: "${this.address}"\njetstream { store_dir: ${JSON.stringify(this.folder)}, max_file_store: ${storage} }\n${configuration}`,
    );
    this.process = spawn('nats-server', ['-c', file], { stdio: 'ignore' });
    for (let up = false; !up;) {
      if (this.process.exitCode !== null) throw new Error(`nats-server does not take ${file}`);
      const socket = dial(this.port, '127.0.0.1');
      up = await Promise.race([
        once(socket, 'data').then(() => true),
        once(socket, 'error').then(() => false),
      ]).catch(() => false);
      socket.destroy();
      if (!up) await delay(50);
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.process?.kill(signal);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const { process } = this;
    this.process = undefined;
    if (!process) return;
    process.kill(signal);
    await once(process, 'exit');
  }

  async wipe(): Promise<void> {
    await rm(join(this.folder, 'jetstream'), { recursive: true });
  }

  async dispose(): Promise<void> {
    await this.stop('SIGKILL');
    await rm(this.folder, { recursive: true });
  }

  /** The server as somebody else than the log sees and changes it. */
  async asAdministrator(
    work: (manager: JetStreamManager, connection: NatsConnection) => Promise<unknown>,
  ): Promise<void> {
    const connection = await connect({ servers: this.address });
    await work(await jetstreamManager(connection), connection);
    await connection.close();
  }
}

/** What was said, instead of printing it. */
const said: string[] = [];
const listen = (line: unknown) => void said.push(String(line));
const listener: LoggerService = { log: listen, warn: listen, error: listen };
beforeAll(() => Logger.overrideLogger(listener));
beforeEach(() => void said.splice(0));

type KeyPair = ReturnType<typeof nkeys.createUser>;

/** A server that trusts an operator's key, and what a user of it shows. */
function operatorMode(): { configuration: string; credentials: string } {
  const [operator, account, system, user] = [
    nkeys.createOperator(),
    nkeys.createAccount(),
    nkeys.createAccount(),
    nkeys.createUser(),
  ];
  const token = (type: string, signer: KeyPair, subject: KeyPair, rights: object) => {
    const claims = {
      iss: signer.getPublicKey(),
      sub: subject.getPublicKey(),
      iat: Math.floor(Date.now() / 1000),
      nats: { type, version: 2, ...rights },
    };
    const signed = [{ typ: 'JWT', alg: 'ed25519-nkey' }, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.');
    return `${signed}.${Buffer.from(signer.sign(Buffer.from(signed))).toString('base64url')}`;
  };
  const connections = { subs: -1, data: -1, payload: -1, conn: -1 };
  const storage = { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 };
  const preloaded = (key: KeyPair, limits: object) =>
    `${key.getPublicKey()}: ${token('account', operator, key, { limits })}`;
  const show = (name: string, content: string) =>
    `-----BEGIN ${name}-----\n${content}\n------END ${name}------\n`;
  return {
    configuration: `
      operator: ${token('operator', operator, operator, {})}
      system_account: ${system.getPublicKey()}
      resolver: MEMORY
      resolver_preload: {
        ${preloaded(account, { ...connections, ...storage })}
        ${preloaded(system, connections)}
      }`,
    credentials:
      show('NATS USER JWT', token('user', account, user, connections)) +
      show('USER NKEY SEED', Buffer.from(user.getSeed()).toString()),
  };
}

const message = (body: string, id = body) => ({ subject: 'ff.facts.v1.dev.flag.a', id, body });
const forever = () => new AbortController().signal;
/** Resolves once it is so; the test runs out of time if it never is. */
const until = async (isSo: () => boolean) => {
  while (!isSo()) await delay(20);
};

describe('The log of a server that runs', () => {
  let server: NatsServer;
  const open = (metrics?: Bounds) =>
    JetStreamEventLog.open({
      servers: `nats://${server.address}`,
      replicas: 1,
      ...(metrics && { metrics }),
    });
  const clear = () =>
    server.asAdministrator(async ({ streams }) => {
      for await (const { config } of streams.list()) await streams.delete(config.name);
    });
  beforeAll(async () => {
    server = await NatsServer.create();
    await server.start();
  });
  afterAll(() => server.dispose());

  eventLogContract('JetStream', async () => ({ open, dispose: clear }));

  describe('A stream of JetStream', () => {
    afterEach(clear);

    it('that is deleted under a running log is made anew with another epoch, and its readers are told', async () => {
      const log = await open();
      const before = await log.append('FF_FACTS', message('1'));
      const reading = log.tail('FF_FACTS', undefined, forever())[Symbol.asyncIterator]();
      await reading.next();
      await server.asAdministrator(({ streams }) => streams.delete('FF_FACTS'));

      await expect(reading.next()).rejects.toThrow(UnknownEpoch);
      const after = await log.append('FF_FACTS', message('2'));
      expect(after.epoch).not.toBe(before.epoch);
      await expect(Array.fromAsync(log.tail('FF_FACTS', before, forever()))).rejects.toThrow(UnknownEpoch);
      await log.close();
    });

    it('that was made anew and filled by somebody else takes an append under its own epoch', async () => {
      const log = await open();
      const before = await log.append('FF_FACTS', message('1'));
      await server.asAdministrator(async ({ streams }, connection) => {
        const { config } = await streams.info('FF_FACTS');
        await streams.delete('FF_FACTS');
        await streams.add(config);
        for (const body of ['a', 'b', 'c']) await connection.request(message('').subject, body);
      });

      const after = await log.append('FF_FACTS', message('2'));
      expect(after.epoch).not.toBe(before.epoch);
      expect(after).toEqual({ ...(await log.head('FF_FACTS')), sequence: 4 });
      await log.close();
    });

    it('with settings that are not ours keeps them', async () => {
      await server.asAdministrator(({ streams }) =>
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
      expect(said).toContainEqual(expect.stringContaining('max_msgs_per_subject is 3 and should be 64'));
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

    it('is read on when somebody deletes the consumer that it is read with', async () => {
      const log = await open();
      await log.append('FF_FACTS', message('1'));
      const seen: string[] = [];
      const stop = new AbortController();
      const reading = (async () => {
        for await (const messages of log.tail('FF_FACTS', undefined, stop.signal)) {
          seen.push(...messages.map(({ body }) => body));
        }
      })();
      await until(() => seen.length === 1);
      await server.asAdministrator(async ({ consumers }) => {
        for await (const { name } of consumers.list('FF_FACTS')) await consumers.delete('FF_FACTS', name);
      });
      await log.append('FF_FACTS', message('2'));
      await until(() => seen.length === 2);
      expect(seen).toEqual(['1', '2']);
      stop.abort();
      await reading;
      await log.close();
    });
  });

  describe('The queue of JetStream', () => {
    afterEach(clear);

    it('has the bounds of whoever has a setting for them, and others keep to those', async () => {
      const gateway = await open();
      await put(gateway, 'x'.repeat(20_000));
      expect(await gateway.backlog()).toMatchObject({ messages: 1 });
      const forwarder = await open({ keepForMs: 3_600_000, keepBytes: 10_000 });
      await until(() => forwarder.reachable);
      await put(gateway, 'y'.repeat(5000));
      await put(gateway, 'z'.repeat(6000));
      expect(await gateway.backlog()).toMatchObject({ messages: 1, dropped: 2 });
      expect(await forwarder.backlog()).toMatchObject({ messages: 1, dropped: 2 });
      await gateway.close();
      await forwarder.close();
    });

    it('that somebody else made loses nothing to who has no setting', async () => {
      await server.asAdministrator(({ streams }) =>
        streams.add({
          name: 'FF_METRICS',
          subjects: ['ff.metrics.v1.>'],
          retention: RetentionPolicy.Workqueue,
          max_bytes: 100_000,
        }),
      );
      const log = await open();
      await put(log, 'x'.repeat(90_000));
      expect(await log.backlog()).toMatchObject({ messages: 1, dropped: 0 });
      await log.close();
    });

    it('loses what is too old, and nothing that is younger', async () => {
      const log = await open({ keepForMs: 3_600_000, keepBytes: 1e9 });
      await inWaves(500, (i) => put(log, `old-${i}`));
      const between = Date.now() + 1;
      await until(() => Date.now() > between);
      await inWaves(300, (i) => put(log, `young-${i}`));
      const clock = jest.spyOn(Date, 'now').mockReturnValue(between + 3_600_000);
      expect(await log.backlog()).toMatchObject({ messages: 300, dropped: 500 });
      clock.mockRestore();
      expect((await takeOne(log)).body).toMatch('young');
      await log.close();
    });

    const put = (log: EventLog, body: string) =>
      log.append('FF_METRICS', { subject: 'ff.metrics.v1.dev', id: body.slice(0, 20), body });
    const takeOne = async (log: EventLog) => {
      for await (const taken of log.take(forever())) return taken;
      throw new Error('there is nothing more to take');
    };
    /** 30 s is long for a test. */
    const shorten = (ackWaitMs: number) =>
      server.asAdministrator(({ consumers }) =>
        consumers.update('FF_METRICS', 'metrics-forwarder', { ack_wait: ackWaitMs * 1_000_000 }),
      );

    it('gives to another what somebody took who then died', async () => {
      const log = await open();
      await put(log, '0');
      await (await takeOne(log)).back();
      await shorten(1000);
      await server.asAdministrator(async (_, connection) => {
        const dying = await jetstream(connection).consumers.get('FF_METRICS', 'metrics-forwarder');
        expect((await dying.next())?.string()).toBe('0');
      });
      expect((await takeOne(log)).body).toBe('0');
      await log.close();
    });

    it('leaves a message with who says that it is still at it', async () => {
      const [one, two] = [await open(), await open()];
      await put(one, '0');
      const mine = await takeOne(one);
      await mine.back();
      await shorten(2000);
      const again = await takeOne(one);
      let other: string | undefined;
      const others = takeOne(two).then(({ body }) => (other = body));
      for (const since = performance.now(); performance.now() - since < 4000; await delay(200))
        await again.keep();
      expect(other).toBeUndefined();
      await put(one, '1');
      await others;
      expect(other).toBe('1');
      await one.close();
      await two.close();
    });

    it('is handed out again when somebody deletes the consumer that it is taken with', async () => {
      const log = await open();
      await put(log, '0');
      const taking = log.take(forever())[Symbol.asyncIterator]();
      await (await taking.next()).value?.done();
      const next = taking.next();
      await server.asAdministrator(({ consumers }) => consumers.delete('FF_METRICS', 'metrics-forwarder'));
      await put(log, '1');
      expect((await next).value?.body).toBe('1');
      await log.close();
    });
  });

  describe('Of two processes that would lead', () => {
    afterEach(clear);

    it('one does, and the other takes over when it leaves', async () => {
      const [one, two] = [await open(), await open()];
      const stop = new AbortController();
      const lost = await one.lead('ingestor', forever());
      let led = false;
      const second = two.lead('ingestor', stop.signal).then((signal) => {
        led = true;
        return signal;
      });
      await one.lead('projector', forever());
      expect(led).toBe(false);
      await one.close();
      expect(lost.aborted).toBe(true);
      expect((await second).aborted).toBe(false);
      stop.abort();
      await two.close();
    });

    it('the other takes over when the first says nothing any more, and the first is told', async () => {
      const [one, two] = [await open(), await open()];
      const lost = await one.lead('ingestor', forever());
      // As if it had been paused past its lease.
      await server.asAdministrator(async (_, connection) =>
        (await new Kvm(connection).open('ff_leases')).purge('ingestor'),
      );
      expect((await two.lead('ingestor', forever())).aborted).toBe(false);
      if (!lost.aborted) await once(lost, 'abort');
      await one.close();
      await two.close();
    });
  });
});

describe('When the server', () => {
  let server: NatsServer;
  let log: EventLog;
  let stop: AbortController;
  beforeEach(async () => {
    server = await NatsServer.create();
    stop = new AbortController();
  });
  afterEach(async () => {
    stop.abort();
    await log.close();
    await server.dispose();
  });
  const open = async (more: Partial<JetStreamOptions> = {}) => {
    log = await JetStreamEventLog.open({ servers: server.address, replicas: 1, ...more });
  };
  /** A tail that goes on for the whole test, and what it has seen. */
  const tail = () => {
    const seen: string[] = [];
    const ended = (async () => {
      for await (const messages of log.tail('FF_FACTS', undefined, stop.signal)) {
        seen.push(...messages.map(({ body }) => body));
      }
    })();
    return { seen, ended };
  };
  const append = async (body: string) => void (await log.append('FF_FACTS', message(body)));

  it('is not there yet, the log opens, says so once, and works when it is', async () => {
    await open();
    expect(log.reachable).toBe(false);
    const tries = [
      append('1'),
      log.head('FF_FACTS'),
      log.recall('a'),
      Array.fromAsync(log.latest('FF_FACTS')),
      Array.fromAsync(log.tail('FF_FACTS', undefined, stop.signal)),
    ];
    for (const { status, ...result } of await Promise.allSettled(tries)) {
      expect([status, result]).toEqual(['rejected', { reason: expect.any(LogUnreachable) }]);
    }
    await expect(append('1')).rejects.toThrow(
      `NATS at ${server.address} cannot be reached: connection refused`,
    );
    const lead = log.lead('ingestor', stop.signal);

    await server.start();
    await until(() => log.reachable);
    await append('1');
    expect((await lead).aborted).toBe(false);
    const lines = said.filter((line) => !line.includes('power failure'));
    expect(lines).toEqual([
      expect.stringContaining(`NATS at ${server.address} cannot be reached: connection refused`),
      `NATS at ${server.address} is connected`,
    ]);
  });

  it.each(['SIGTERM', 'SIGKILL'] as const)(
    'ends by %s and comes back, tails go on without loss or repeat, and all that was kept is there',
    async (signal) => {
      await server.start();
      await open();
      await log.remember('projector', { sequence: 1 });
      const { seen } = tail();
      for (let i = 1; i <= 20; i++) await append(String(i));
      await until(() => seen.length === 20);
      const lead = await log.lead('ingestor', stop.signal);

      await server.stop(signal);
      await until(() => !log.reachable);
      await expect(append('21')).rejects.toThrow(LogUnreachable);
      await server.start();
      await until(() => log.reachable);

      for (let i = 21; i <= 40; i++) await append(String(i));
      await until(() => seen.length >= 40);
      expect(seen).toEqual(Array.from({ length: 40 }, (_, i) => String(i + 1)));
      expect(await log.recall('projector')).toEqual({ sequence: 1 });
      // Leases are kept in memory: the lead is lost, and can be had again.
      if (!lead.aborted) await once(lead, 'abort');
      expect((await log.lead('ingestor', stop.signal)).aborted).toBe(false);
    },
  );

  it('comes back without its data, readers are told, and everything is made anew', async () => {
    await server.start();
    await open();
    await append('1');
    const { seen, ended } = tail();
    await until(() => seen.length === 1);
    const before = await log.head('FF_FACTS');
    await log.remember('projector', before);

    await server.stop();
    await server.wipe();
    await server.start();

    await expect(ended).rejects.toThrow(UnknownEpoch);
    expect(seen).toEqual(['1']);
    const after = await log.append('FF_FACTS', message('2'));
    expect(after).toEqual({ epoch: expect.not.stringContaining(before.epoch), sequence: 1 });
    expect(await log.recall('projector')).toBeUndefined();
    await log.remember('projector', after);
    expect(await log.recall('projector')).toEqual(after);
    expect((await log.lead('ingestor', stop.signal)).aborted).toBe(false);
  });

  it('comes back, what was taken before is not kept, can be done, and is done', async () => {
    await server.start();
    await open();
    const taking = log.take(stop.signal)[Symbol.asyncIterator]();
    for (const body of ['0', '1']) {
      await log.append('FF_METRICS', { subject: 'ff.metrics.v1.dev', id: body, body });
    }
    const first = (await taking.next()).value;
    await server.stop('SIGKILL');
    await server.start();
    await until(() => log.reachable);
    // It may not know any more who has it.
    await expect(first?.keep()).rejects.toThrow(LogUnreachable);
    await first?.done();
    expect(await log.backlog()).toMatchObject({ messages: 1 });
    expect((await taking.next()).value?.body).toBe('1');
  });

  it('comes back without its data, what was taken before does not stand for what came after', async () => {
    await server.start();
    await open();
    const taking = log.take(stop.signal)[Symbol.asyncIterator]();
    const put = (body: string) => log.append('FF_METRICS', { subject: 'ff.metrics.v1.dev', id: body, body });
    await put('before');
    const before = (await taking.next()).value;
    await server.stop();
    await server.wipe();
    await server.start();
    await put('after');
    const after = (await taking.next()).value;
    expect(after?.body).toBe('after');
    await before?.done();
    expect(await log.backlog()).toMatchObject({ messages: 1 });
    await after?.done();
    expect(await log.backlog()).toMatchObject({ messages: 0 });
  });

  it('stops answering for a while, appends fail meanwhile, and then all goes on without loss or repeat', async () => {
    await server.start();
    await open();
    const { seen } = tail();
    await append('1');
    await until(() => seen.length === 1);

    server.signal('SIGSTOP');
    // One may still get through. Repeated, it is the same message.
    const appendOn = async () => {
      for (;;) await append('2');
    };
    await expect(appendOn()).rejects.toThrow(LogUnreachable);
    await until(() => said.some((line) => line.includes(`NATS at ${server.address} cannot be reached`)));
    expect(log.reachable).toBe(false);
    server.signal('SIGCONT');
    await until(() => log.reachable);

    for (const body of ['2', '3']) await append(body);
    await until(() => seen.length >= 3);
    expect(seen).toEqual(['1', '2', '3']);
  });

  it('has lost the last message of a stream to an administrator, what is left is read to its end', async () => {
    await server.start();
    await open();
    for (const body of ['1', '2', '3']) {
      await log.append('FF_FACTS', { ...message(body), subject: `ff.facts.v1.dev.flag.${body}` });
    }
    await server.asAdministrator(async ({ streams }) => void (await streams.deleteMessage('FF_FACTS', 3)));
    const seen = (await Array.fromAsync(log.latest('FF_FACTS'))).flat();
    expect(seen.map(({ body }) => body)).toEqual(['1', '2']);
  });

  it('is lost in the middle of a long read, that goes on where it was', async () => {
    await server.start();
    await open();
    const count = 3000;
    const bodies = Array.from({ length: count }, (_, i) => String(i));
    await inWaves(count, (i) =>
      log.append('FF_FACTS', { ...message(String(i)), subject: `ff.facts.v1.dev.flag.f${i}` }),
    );
    const seen: string[] = [];
    for await (const messages of log.latest('FF_FACTS')) {
      if (seen.length === 0) {
        await server.stop('SIGKILL');
        await server.start();
      }
      seen.push(...messages.map(({ body }) => body));
    }
    expect(seen.toSorted()).toEqual(bodies.toSorted());
  });

  describe('asks for a password', () => {
    const users = 'authorization { users: [{ user: relay, password: "s3cret/1" }] }';

    it('which the address holds, it is given', async () => {
      await server.start(users);
      await open({ servers: `nats://relay:s3cret%2F1@${server.address}` });
      await append('1');
    });

    it('which is another, that is said, and not what was given', async () => {
      await server.start(users);
      await open({ servers: `nats://relay:wr0ng@${server.address}` });
      const refusal = `NATS at ${server.address} cannot be reached: it refuses the credentials. Check NATS_URL`;
      await expect(append('1')).rejects.toThrow(refusal);
      expect(said).toEqual([expect.stringContaining(refusal)]);
      expect(said.join()).not.toContain('wr0ng');
    });

    it('which is a token, the address may hold that', async () => {
      await server.start('authorization { token: t0ken }');
      await open({ servers: `nats://t0ken@${server.address}` });
      await append('1');
    });
  });

  it('lets in who has a credentials file, the log shows that file, as it is then', async () => {
    const { configuration, credentials } = operatorMode();
    const credentialsFile = join(server.folder, 'relay.creds');
    await server.start(configuration);
    await open({ credentialsFile });
    await expect(append('1')).rejects.toThrow(`no such file or directory, open '${credentialsFile}'`);
    await writeFile(credentialsFile, credentials);
    await until(() => log.reachable);
    await append('1');
  });

  it('has no room for the queue, that is said, and the rest works', async () => {
    await server.start('', '100MB');
    await open();
    await append('1');
    expect(log.reachable).toBe(true);
    expect(said).toContainEqual(
      expect.stringContaining(
        'The stream FF_METRICS cannot be made: JetStreamApiError: insufficient storage',
      ),
    );
    await expect(log.backlog()).rejects.toThrow('insufficient storage');
  });

  it('has no TLS and is asked for it, it is not spoken to', async () => {
    await server.start();
    await open({ servers: `tls://relay:s3cret@${server.address}` });
    await expect(append('1')).rejects.toThrow("server does not support 'tls'");
  });

  it('does not flush what it acknowledges, that is said once', async () => {
    await server.start();
    await open();
    await append('1');
    await server.stop();
    await server.start();
    await until(() => said.includes(`NATS at ${server.address} is connected`));
    expect(said.filter((line) => line.includes('power failure'))).toEqual([
      expect.stringContaining('2.10.23 or newer is recommended'),
    ]);
  });
});

it('An address that cannot be read is refused without repeating it', async () => {
  for (const servers of ['', 'http://host', 'nats://', 'nats://relay:s3cret@host:port', 'a, ,b']) {
    const opening = JetStreamEventLog.open({ servers, replicas: 1 });
    await expect(opening).rejects.toThrow(StartupError);
    await expect(opening).rejects.not.toThrow('s3cret');
  }
});
