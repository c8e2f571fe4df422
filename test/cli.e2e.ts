import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { DeliverPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { Redis } from 'ioredis';

import { readBundle } from '#libs/bundle';
import { type Fact, factBody, factSubject, parkedBody, parkedSubject } from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';

import { aFlag } from '../libs/domain/src/builders.suite.js';
import { Admin, eventually, upstreamFlags } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { A_SENTENCE, done, ffRelay, refused } from './support/ff-relay.js';
import { Link } from './support/link.js';
import { DEMO, freePort, run, Workspace } from './support/processes.js';

describe('ff-relay over a service set', () => {
  let set: ServiceSet;
  let redis: Redis;
  let nats: NatsConnection;
  let admin: Admin;
  let workspace: Workspace;
  let settings: { NATS_URL: string; REDIS_ADDRESS: string };

  beforeAll(async () => {
    workspace = new Workspace();
    set = await ServiceSet.start([
      'nats',
      'redis',
      'control-plane',
      'ingestor-1',
      'projector-1',
      'gateway-1',
    ]);
    redis = new Redis(`redis://${set.redisAddress}`);
    nats = await connect({ servers: set.natsUrl });
    admin = new Admin(set.controlPlane.url);
    settings = { NATS_URL: set.natsUrl, REDIS_ADDRESS: set.redisAddress };
    await projected();
  });
  afterAll(async () => {
    redis.disconnect();
    await nats.close();
    await set.dispose();
    await workspace.dispose();
  });

  const { dev, prod } = DEMO;
  const lastFact = async () => {
    const { streams } = await jetstreamManager(nats);
    return (await streams.info('FF_FACTS')).state.last_seq;
  };
  /** When the store has all facts that there are now. */
  const projected = async () => {
    const last = await lastFact();
    await eventually(
      async () =>
        JSON.parse((await redis.get('ff-relay-progress')) ?? '{}') as { position?: { sequence: number } },
      ({ position }) => (position?.sequence ?? 0) >= last,
    );
  };
  /** When Redis has all that the upstream has, so that no more facts are to come. */
  const asUpstream = async () => {
    for (const { id } of [dev, prod]) {
      const upstream = await upstreamFlags(set.controlPlane.url, id);
      await eventually(
        () => redis.get(`env-${id}-feature-configs`),
        (flags) => flags === upstream,
      );
    }
    await projected();
  };
  /** Every key and what it holds. */
  const dump = async (pattern = '*') => {
    const keys = (await redis.keys(pattern)).toSorted();
    const values = keys.map(async (key) =>
      (await redis.type(key)) === 'set' ? (await redis.smembers(key)).toSorted() : redis.get(key),
    );
    return Object.fromEntries((await Promise.all(values)).map((value, i) => [keys[i] ?? '', value]));
  };
  /** Does something upstream, and returns when a fact about it is in the log. */
  const changed = async (change: () => Promise<void>) => {
    const before = await lastFact();
    await change();
    await eventually(lastFact, (sequence) => sequence > before);
  };

  describe('rebuild', () => {
    it('heals what was changed by hand, says what, and changes nothing the second time', async () => {
      await redis.set('unrelated', 'of somebody else');
      const before = await dump();
      const tamper = async () => {
        await redis.set(`env-${dev.id}-feature-config-dark-mode`, '{"feature":"dark-mode","state":"on"}');
        await redis.set(`env-${prod.id}-feature-config-orphan`, '{"feature":"orphan"}');
        await redis.set(`auth-key-${'0'.repeat(64)}`, JSON.stringify(prod.id));
      };
      await tamper();
      const tampered = await dump();
      const dry = await done(['rebuild', '--dry-run'], settings);
      expect(dry).toMatch(
        /^Compared 2 environments with the log up to fact \d+: 1 agree, 1 to replace, 0 to remove\./,
      );
      expect(dry).toContain(`\n  replace ${dev.id}\n`);
      expect(await dump()).toEqual(tampered);

      const healed = await done(['rebuild'], settings);
      expect(healed).toContain(`: 1 agreed, 1 replaced, 2 keys removed.\n  replaced ${dev.id}\n`);
      expect(healed).not.toContain(prod.id);
      expect(await dump()).toEqual(before);

      await redis.del(`env-${prod.id}-feature-configs`);
      expect(await done(['rebuild'], settings)).toContain(
        `: 1 agreed, 1 replaced, 0 keys removed.\n  replaced ${prod.id}\n`,
      );
      expect(await dump()).toEqual(before);

      for (const args of [['rebuild'], ['rebuild', '--dry-run']])
        expect(await done(args, settings)).toMatch(/: all agree\. Nothing was changed\.\n$/);
      expect(await dump()).toEqual(before);
    });

    it('removes an environment that the log does not know', async () => {
      const before = await dump();
      const strange = '70000000-0000-4000-8000-000000000001';
      const { epoch } = JSON.parse((await redis.get(`env-${dev.id}-position`)) ?? '') as { epoch: string };
      await redis.sadd('ff-relay-environments', strange);
      await redis.set(
        `env-${strange}-position`,
        JSON.stringify({ epoch, sequence: 1, exists: true, account: 'demo' }),
      );
      await redis.set(`env-${strange}-feature-configs`, '[]');
      expect(await done(['rebuild', '--dry-run'], settings)).toContain(
        `: 2 agree, 0 to replace, 1 to remove. Nothing was changed.\n  remove  ${strange}\n`,
      );
      expect(await done(['rebuild'], settings)).toContain(': 2 agreed, 0 replaced, 2 keys removed.\n');
      expect(await dump()).toEqual(before);
    });

    it('beside 200 changes heals what is wrong and nothing else, and all is as upstream in the end', async () => {
      const names = Array.from({ length: 20 }, (_, i) => `busy-${i}`);
      for (const name of names) await admin.createFlag(name);
      const changing = { over: false };
      const changes = (async () => {
        for (let round = 0; round < 10; round++)
          for (const name of names) await admin.setState(name, round % 2 ? 'off' : 'on');
      })().finally(() => (changing.over = true));
      const said: string[] = [];
      await redis.set(`env-${prod.id}-feature-config-dark-mode`, '{"feature":"dark-mode"}');
      try {
        while (!changing.over) said.push(await done(['rebuild'], settings));
      } finally {
        await changes;
      }
      const [first, ...others] = said;
      expect(first).toContain(`: 1 agreed, 1 replaced, 0 keys removed.\n  replaced ${prod.id}\n`);
      expect(others.filter((line) => !line.includes('all agree'))).toEqual([]);
      await asUpstream();
      expect(await done(['rebuild'], settings)).toContain('all agree');
      expect(set.output('projector-1')).not.toContain('starting from the log again');
    });

    it('fills a Redis that lost everything while no projector ran', async () => {
      await projected();
      const before = await dump('env-*');
      await set.stop('projector-1');
      await redis.flushall();
      const rebuilding = ffRelay(['rebuild'], settings);
      await rebuilding.exited;
      const after = await dump('env-*');
      await set.start('projector-1');
      await projected();
      expect(rebuilding.output).toContain(': 0 agreed, 2 replaced, 0 keys removed.');
      expect(after).toEqual(before);
    });

    it('refuses a log that does not hold the whole account', async () => {
      const empty = await ServiceSet.start(['nats', 'redis']);
      const other = new Redis(`redis://${empty.redisAddress}`);
      await other.set('env-a-position', '{"epoch":"e","sequence":1,"exists":true}');
      await other.sadd('ff-relay-environments', 'a');
      const message = await refused(1, ['rebuild'], {
        NATS_URL: empty.natsUrl,
        REDIS_ADDRESS: empty.redisAddress,
      });
      expect(message).toMatch(/^The log does not hold the whole account yet, .*start the ingestor/);
      expect(message).toMatch(A_SENTENCE);
      expect(await other.dbsize()).toBe(2);
      other.disconnect();
      await empty.dispose();
    });
  });

  describe('replay', () => {
    interface Message {
      readonly sequence: number;
      readonly time: number;
      readonly event: { readonly type: string; readonly data: Record<string, unknown> };
    }
    interface Environment {
      readonly id: string;
      readonly account: unknown;
      readonly flags: readonly { readonly feature: string }[];
      readonly segments: readonly { readonly identifier: string }[];
      readonly apiKeys: readonly string[];
    }
    let messages: Message[];
    let epoch: string;

    beforeAll(async () => {
      for (let i = 0; i < 50; i++) {
        const name = `replayed-${i % 7}`;
        const removes = i % 10 === 9;
        if (i < 7) await changed(() => admin.createFlag(name));
        else if (removes) await changed(() => admin.deleteFlag(name).then(() => admin.createFlag(name)));
        else await changed(() => admin.setState(name, i % 2 ? 'on' : 'off', i % 3 ? 'dev' : 'prod'));
      }
      await asUpstream();
      messages = await readLog();
      epoch = (await (await jetstreamManager(nats)).streams.info('FF_FACTS')).created;
    });

    /** The facts as any client of NATS reads them. */
    const readLog = async (): Promise<Message[]> => {
      const last = await lastFact();
      const consumer = await jetstream(nats).consumers.get('FF_FACTS', { deliver_policy: DeliverPolicy.All });
      const read: Message[] = [];
      for await (const message of await consumer.consume()) {
        const { seq, timestampNanos } = message;
        const time = Number(timestampNanos / 1_000_000n);
        read.push({ sequence: seq, time, event: message.json() });
        if (seq >= last) break;
      }
      return read;
    };

    /** What they say, told again without the help of the relay's code. */
    const foldOf = (facts: readonly Message[]) => {
      const environments = new Map<string, { account: unknown; values: Map<string, unknown> }>();
      let complete = false;
      for (const { event } of facts) {
        const [, thing = '', verb = ''] = /^io\.ff-relay\.(\w+)\.(\w+)\.v1$/.exec(event.type) ?? [];
        const { environment, flag, segment, identifier, apiKey, account } = event.data as Record<
          string,
          string
        > & {
          flag?: { feature: string };
          segment?: { identifier: string };
        };
        if (thing === 'snapshot') complete = true;
        if (thing === 'environment' && verb === 'removed') environments.delete(environment ?? '');
        if (thing === 'environment' && verb === 'added')
          environments.set(environment ?? '', { account, values: new Map() });
        const values = environments.get(environment ?? '')?.values;
        const name = `${thing} ${flag?.feature ?? segment?.identifier ?? identifier ?? apiKey}`;
        if (verb === 'removed') values?.delete(name);
        else if (thing !== 'environment') values?.set(name, flag ?? segment ?? apiKey);
      }
      const last = facts.at(-1);
      return {
        position: { epoch, sequence: last?.sequence ?? 0 },
        time: last ? new Date(last.time).toISOString() : null,
        complete,
        unknown: [],
        environments: [...environments].toSorted(byName).map(([id, { account, values }]) => {
          const all = (kind: string) =>
            [...values]
              .toSorted(byName)
              .flatMap(([name, value]) => (name.startsWith(`${kind} `) ? [value] : []));
          return { id, account, flags: all('flag'), segments: all('segment'), apiKeys: all('apikey') };
        }),
      };
    };
    const byText = (a = '', b = '') => (a < b ? -1 : 1);
    const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]) => (a < b ? -1 : 1);

    /** Numbers below 1, the same for a seed. */
    const random = (seed: number) => {
      let state = seed;
      return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    };
    const replayed = async (until: string) => {
      const file = join(await workspace.folder(), 'state.json');
      const said = await done(['replay', '--until', until, '--into', file], settings);
      return { state: JSON.parse(await readFile(file, 'utf8')) as ReturnType<typeof foldOf>, said, file };
    };

    it('at any position gives what the facts up to there say', async () => {
      const next = random(20_261_120);
      for (let i = 0; i < 5; i++) {
        const sequence = 1 + Math.floor(next() * messages.length);
        const { state } = await replayed(String(sequence));
        expect(state).toEqual(foldOf(messages.filter((message) => message.sequence <= sequence)));
      }
    });

    it('at any time gives what was appended by then', async () => {
      const next = random(12);
      const [first, last] = [messages[0]?.time ?? 0, messages.at(-1)?.time ?? 0];
      for (let i = 0; i < 5; i++) {
        const time = Math.floor(first + next() * (last - first));
        const { state } = await replayed(new Date(time).toISOString());
        expect(state).toEqual(foldOf(messages.filter((message) => message.time <= time)));
      }
    });

    it('without a moment gives all that the log says, and leaves one file', async () => {
      const file = join(await workspace.folder(), 'state.json');
      const said = await done(['replay', '--into', file], settings);
      const state = JSON.parse(await readFile(file, 'utf8')) as ReturnType<typeof foldOf>;
      expect(state).toEqual(foldOf(messages));
      expect(state.environments).toHaveLength(2);
      expect(said).toMatch(
        new RegExp(
          `^The state after fact ${messages.at(-1)?.sequence} of \\S+Z: 2 environments, \\d+ flags, \\d+ target groups?, \\d+ SDK keys, in ${file}\n$`,
        ),
      );
      expect(await readdir(join(file, '..'))).toEqual(['state.json']);
    });

    it('gives standard output the state and nothing else', async () => {
      const script = `${process.execPath} scripts/ff-relay.mjs replay --until 5 --into - 2>/dev/null`;
      const called = run('bash', ['-c', script], settings);
      expect(await called.exited).toBe(0);
      expect(JSON.parse(called.output)).toEqual(foldOf(messages.filter(({ sequence }) => sequence <= 5)));
    });

    it('before the first fact is empty, and says so', async () => {
      const { state, said } = await replayed('2020-01-01');
      expect(state).toEqual(foldOf([]));
      expect(said).toMatch(/^The log begins later, with fact 1 of \S+Z: the state is empty, in /);
    });

    it('writes keys with a prefix as the relay does, which leaves the relay and its rebuild alone', async () => {
      const live = await dump();
      const into = ['--into', 'redis:then:'];
      const written = async () =>
        Object.fromEntries(
          Object.entries(await dump('then:*')).map(([key, value]) => [key.slice('then:'.length), value]),
        );
      const sdkKey = ({ apiKeys }: Environment) => `auth-key-${apiKeys[0]}`;

      const said = await done(['replay', ...into], settings);
      const relays = Object.fromEntries(
        Object.entries(live).filter(([key]) => /^(env-|auth-key-|ff-relay-environments)/.test(key)),
      );
      expect(await written()).toEqual(relays);

      expect(await refused(1, ['replay', ...into], settings)).toMatch(
        /^Redis has keys that begin with then: already: take another prefix, or add --replace .*\.\n$/,
      );
      const sequence = messages.at(-20)?.sequence ?? 0;
      await done(['replay', '--until', String(sequence), ...into, '--replace'], settings);
      const expected = foldOf(messages.filter((message) => message.sequence <= sequence));
      const keys = await written();
      for (const environment of expected.environments as Environment[]) {
        const { id, flags, segments } = environment;
        expect(keys[`env-${id}-feature-configs`]).toBe(JSON.stringify(flags));
        expect(keys[`env-${id}-segments`]).toBe(JSON.stringify(segments));
        expect(keys[sdkKey(environment)]).toBe(JSON.stringify(id));
        const items = Object.keys(keys).filter((key) => key.startsWith(`env-${id}-feature-config-`));
        expect(items).toHaveLength(flags.length);
      }

      expect(await done(['rebuild'], settings)).toContain('all agree');
      expect(await written()).toEqual(keys);
      // As it says.
      const [, removal = ''] = /^Remove them with: (.+)$/m.exec(said) ?? [];
      expect(await run('bash', ['-c', removal]).exited).toBe(0);
      expect(await dump()).toEqual(live);
    });

    describe('and what diff says of two moments', () => {
      type Entities = Map<string, Record<string, unknown> | undefined>;
      interface Said {
        readonly from: { readonly position: { readonly sequence: number } };
        readonly to: { readonly position: { readonly sequence: number } };
        readonly changes: readonly {
          readonly environment: string;
          readonly kind: string;
          readonly identifier: string;
          readonly change: string;
          readonly before?: unknown;
          readonly after?: unknown;
          readonly fields: readonly { readonly path: string }[];
        }[];
      }
      const entitiesAt = (sequence: number): Entities => {
        const found: Entities = new Map();
        for (const { id, account, ...lists } of foldOf(messages.filter((of) => of.sequence <= sequence))
          .environments) {
          const { flags, segments, apiKeys } = lists as unknown as Environment;
          found.set(`${id} environment ${id}`, { account });
          for (const flag of flags) found.set(`${id} flag ${flag.feature}`, { ...flag });
          for (const segment of segments) found.set(`${id} segment ${segment.identifier}`, { ...segment });
          for (const key of apiKeys) found.set(`${id} apikey ${key}`, undefined);
        }
        return found;
      };
      /** What differs, with the names of the fields at the top that do. */
      const between = (before: Entities, after: Entities) => {
        const different: Record<string, unknown> = {};
        for (const name of new Set([...before.keys(), ...after.keys()])) {
          const [old, now] = [before.get(name), after.get(name)];
          if (!before.has(name)) different[name] = { change: 'added', after: now, fields: [] };
          else if (!after.has(name)) different[name] = { change: 'removed', before: old, fields: [] };
          else {
            const fields = Object.keys({ ...old, ...now })
              .filter((field) => JSON.stringify(old?.[field]) !== JSON.stringify(now?.[field]))
              .toSorted(byText);
            if (fields.length > 0) different[name] = { change: 'changed', before: old, after: now, fields };
          }
        }
        return different;
      };
      const toldIn = ({ changes }: Said) =>
        Object.fromEntries(
          changes.map(({ environment, kind, identifier, fields, ...told }) => [
            `${environment} ${kind} ${identifier}`,
            {
              ...told,
              fields: [...new Set(fields.map(({ path }) => path.split(/[.[]/)[0]))].toSorted(byText),
            },
          ]),
        );

      it.each([1, 2, 3, 4, 5, 6])('agrees at random moments: %i', async (seed) => {
        const next = random(seed * 7919);
        const [from = 0, to = 0] = [next(), next()]
          .map((share) => Math.floor(share * (messages.length + 1)))
          .toSorted((a, b) => a - b);
        // Each as a position, or as the time of that fact.
        const moment = (sequence: number) =>
          seed % 2 && sequence > 0
            ? new Date(messages[sequence - 1]?.time ?? 0).toISOString()
            : String(sequence);
        const text = await done(['diff', '--from', moment(from), '--to', moment(to), '--json'], settings);
        const said = JSON.parse(text) as Said;
        const expected = between(
          entitiesAt(said.from.position.sequence),
          entitiesAt(said.to.position.sequence),
        );
        expect(said.to.position.sequence).toBeGreaterThanOrEqual(to);
        expect(toldIn(said)).toEqual(expected);
      });

      it('agrees over all of the log', async () => {
        const said = JSON.parse(await done(['diff', '--from', '0', '--json'], settings)) as Said;
        const expected = between(new Map(), entitiesAt(messages.length));
        expect(toldIn(said)).toEqual(expected);
        expect(Object.keys(expected).length).toBeGreaterThan(14);
      });
    });

    it('refuses a position that the log has not reached', async () => {
      expect(await refused(1, ['replay', '--until', '100000', '--into', '-'], settings)).toMatch(
        /^The log ends at position \d+: .*--until\.\n$/,
      );
      expect(await refused(1, ['diff', '--from', '1', '--to', '100000'], settings)).toMatch(
        /^The log ends at position \d+: .*--to\.\n$/,
      );
    });

    it('says in one sentence that a file cannot be written', async () => {
      const folder = await workspace.folder();
      for (const file of [join(folder, 'nowhere', 'state.json'), folder]) {
        const message = await refused(1, ['replay', '--into', file], settings);
        expect(message).toMatch(
          / cannot be written: .*\. Name a file in a folder that you may write to\.\n$/,
        );
        expect(message).toMatch(A_SENTENCE);
      }
      expect(await readdir(folder)).toEqual([]);
    });
  });

  it('writes a bundle of what the log says, and lists its facts and what is parked', async () => {
    await asUpstream();
    const last = await lastFact();
    const folder = await workspace.folder();
    expect(await done(['export', '--into', folder], settings)).toContain(`The state after fact ${last} of `);
    const { environments, manifest } = await readBundle(folder);
    expect(manifest).toMatchObject({ source: 'log', position: { sequence: last }, complete: true });
    for (const { id, flags } of environments)
      expect(JSON.stringify(flags)).toBe(await upstreamFlags(set.controlPlane.url, id));
    expect(environments.map(({ id }) => id)).toEqual([dev.id, prod.id]);

    const listed = await done(['events', 'list', '--last', '1', '--json'], settings);
    expect(JSON.parse(listed)).toMatchObject({ stream: 'FF_FACTS', position: { sequence: last } });

    expect(await done(['metrics', 'parked'], settings)).toBe('Nothing is parked.\n');
    const parked = { id: 'one', environment: dev.id, reason: 'answered with 400', text: 'no counts' };
    await jetstream(nats).publish(parkedSubject(parked), parkedBody(parked, Date.now()));
    expect(await done(['metrics', 'parked'], settings)).toMatch(
      new RegExp(`^Parked: 1 message with 0 evaluations\n {2}${dev.id}: answered with 400\n`),
    );
  });
});

describe('ff-relay replay over the embedded log', () => {
  let workspace: Workspace;
  let dataDir: string;
  beforeEach(async () => {
    workspace = new Workspace();
    dataDir = await workspace.folder();
  });
  afterEach(() => workspace.dispose());

  it('reads the log of a relay that runs, that was killed, and that has stopped', async () => {
    const controlPlane = await workspace.controlPlane(await workspace.folder());
    const replayed = async () => {
      const said = await done(['replay', '--into', '-'], { DATA_DIR: dataDir });
      const { environments } = JSON.parse(said.slice(0, said.lastIndexOf('}') + 1)) as {
        environments: { id: string; flags: unknown }[];
      };
      return JSON.stringify(environments.find(({ id }) => id === DEMO.dev.id)?.flags);
    };
    const upstream = await upstreamFlags(controlPlane.url);
    const { process: first } = await workspace.relay(dataDir, controlPlane.url);
    expect(await replayed()).toBe(upstream);
    await first.kill('SIGKILL');
    expect(await replayed()).toBe(upstream);
    const { process: second } = await workspace.relay(dataDir, controlPlane.url);
    await second.kill('SIGTERM');
    expect(await replayed()).toBe(upstream);
  });

  it('says in a sentence that there is no log', async () => {
    const message = await refused(1, ['replay', '--into', '-'], { DATA_DIR: dataDir });
    expect(message).toMatch(/^DATA_DIR .* holds no log\. Set .*\.\n$/);
    expect(await readdir(dataDir)).toEqual([]);
  });

  it('names what it cannot know any more, and with --strict writes nothing then', async () => {
    const log = await EmbeddedEventLog.open(dataDir);
    const append = (fact: Fact, id: string) =>
      log.append('FF_FACTS', { subject: factSubject(fact), id, body: factBody(fact, { id, time: 0 }) });
    await append({ type: 'EnvironmentAdded', environment: 'dev' }, 'dev');
    for (let version = 1; version <= 65; version++)
      await append(
        { type: 'FlagPublished', environment: 'dev', flag: aFlag('busy', { version }) },
        String(version),
      );
    await log.close();

    const folder = await workspace.folder();
    const args = ['replay', '--until', '2', '--into', join(folder, 'state.json')];
    const warning = /^Warning: of 1 entity the log keeps later facts only, .*:\n {2}flag busy of dev\n/;
    const refusal = await refused(1, [...args, '--strict'], { DATA_DIR: dataDir });
    expect(refusal).toMatch(warning);
    expect(refusal).toMatch(/\nNothing was written, since --strict .*\.\n$/);
    expect(await readdir(folder)).toEqual([]);

    expect(await done(args, { DATA_DIR: dataDir })).toMatch(warning);
    expect(JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'))).toMatchObject({
      unknown: [{ environment: 'dev', kind: 'flag', identifier: 'busy' }],
      environments: [{ id: 'dev', flags: [] }],
    });
  });
});

describe('The progress of long work', () => {
  let workspace: Workspace;
  let dataDir: string;
  let set: ServiceSet;
  let link: Link;
  beforeEach(async () => {
    workspace = new Workspace();
    dataDir = await workspace.folder();
    set = await ServiceSet.start(['redis']);
    // Long is what waits for answers again and again, and a line comes after three seconds.
    link = await Link.to(Number(set.redisAddress.split(':')[1]), 100);
  });
  afterEach(async () => {
    await link.close();
    await set.dispose();
    await workspace.dispose();
  });

  it('is shown as a bar on a terminal, and as lines elsewhere', async () => {
    const log = await EmbeddedEventLog.open(dataDir);
    for (let i = 0; i < 12; i++) {
      const fact: Fact = { type: 'EnvironmentAdded', environment: `env-${i}` };
      const id = String(i);
      await log.append('FF_FACTS', { subject: factSubject(fact), id, body: factBody(fact, { id, time: 0 }) });
    }
    await log.close();
    const settings = { DATA_DIR: dataDir, REDIS_ADDRESS: `127.0.0.1:${link.port}`, TERM: 'xterm-256color' };
    const command = `${process.execPath} scripts/ff-relay.mjs replay --into redis:`;
    const onTerminal = run('script', ['-qec', `${command}terminal:`, '/dev/null'], settings);
    const elsewhere = run('bash', ['-c', `${command}elsewhere:`], settings);
    expect([await onTerminal.exited, await elsewhere.exited]).toEqual([0, 0]);

    const bars = [...onTerminal.output.matchAll(/Writing █+░* (\d+) % \((\d+) of 12\), \S+ left/g)];
    const shares = bars.map(([, percent]) => Number(percent));
    expect(new Set(shares).size).toBeGreaterThan(5);
    expect(shares).toEqual(shares.toSorted((a, b) => a - b));
    // The bar is gone in the end.
    expect(onTerminal.output.split('\u001B[2K').at(-1)).toMatch(/^The state after fact 12 [^█░]*$/);
    expect(onTerminal.output).not.toContain('Writing:');

    expect(elsewhere.output).toMatch(/^Writing: \d+ % \(\d+ of 12\)\n/m);
    expect(elsewhere.output).not.toMatch(/[█░]/);
    expect(elsewhere.output).not.toContain('\u001B');
  });
});

describe('ff-relay', () => {
  const nowhere = async () => `127.0.0.1:${await freePort()}`;

  it.each([
    [[], /Commands:/],
    [['rebuilt'], /error: unknown command 'rebuilt'[^]*Commands:/],
    [['rebuild', '--force'], /error: unknown option '--force'[^]*Examples:/],
    [['replay'], /error: required option '--into <target>' not specified[^]*Examples:/],
    [
      ['replay', '--into', '-', '--until', 'noon'],
      /'noon' is invalid. a position is a whole number[^]*Examples:/,
    ],
    [['replay', '--into', 'redis:'], /'redis:' is invalid. a prefix is letters[^]*Examples:/],
  ])('called as %j shows its help and ends with 2', async (args, message) => {
    const output = await refused(2, args);
    expect(output).toMatch(message);
    expect(output).toContain('Exit codes: 0 done, 1 failed, 2 wrong usage.');
  });

  it('can be called with npx, and shows examples of each command', async () => {
    const called = run('npx', ['ff-relay', 'rebuild', '--help']);
    expect(await called.exited).toBe(0);
    expect(called.output).toContain('Examples:\n  ff-relay rebuild ');
    const commands = [
      'start',
      'check',
      'status',
      'events list',
      'events follow',
      'diff',
      'replay',
      'export',
      'import',
      'metrics parked',
      'metrics resend',
      'completion',
    ];
    const helps = await Promise.all(commands.map((command) => done([...command.split(' '), '--help'])));
    commands.forEach((command, i) => expect(helps[i]).toContain(`Examples:\n  ff-relay ${command}`));
  });

  it('says which settings a command needs', async () => {
    expect(await refused(2, ['rebuild'])).toMatch(
      /^There is nothing to rebuild without NATS_URL and REDIS_ADDRESS: .*\.\n$/,
    );
    expect(await refused(2, ['replay', '--into', 'redis:then:'])).toMatch(
      /^REDIS_ADDRESS is not set: .*\.\n$/,
    );
    expect(await refused(2, ['replay', '--into', '-'], { NATS_URL: 'localhost' })).toMatch(
      /^These settings need a change:\n {2}- NATS_URL cannot be used: /,
    );
  });

  it('says in one sentence that NATS or Redis is not there', async () => {
    const workspace = new Workspace();
    const dataDir = join(await workspace.folder(), 'data');
    await mkdir(dataDir);
    const [redis, nats] = [await nowhere(), await nowhere()];
    const message = await refused(1, ['rebuild'], { NATS_URL: `nats://${nats}`, REDIS_ADDRESS: redis });
    expect(message).toMatch(new RegExp(`^The log cannot be read: NATS at ${nats} .*Check that NATS runs`));
    expect(message).toMatch(A_SENTENCE);
    const other = await refused(1, ['replay', '--into', 'redis:then:'], {
      DATA_DIR: dataDir,
      REDIS_ADDRESS: redis,
    });
    expect(other).toMatch(new RegExp(`^Redis at ${redis} cannot be reached: .*Check that it runs there`));
    expect(other).toMatch(A_SENTENCE);
    await workspace.dispose();
  });
});

describe('ff-relay check --env-file', () => {
  it('names a file that is not there, whatever Node the command is called on', async () => {
    const called = run('scripts/ff-relay.mjs', ['check', '--env-file', 'missing.env']);
    expect({ code: await called.exited, said: called.output }).toEqual({
      code: 2,
      said: expect.stringMatching(/^--env-file: .*missing\.env/),
    });
  });

  let workspace: Workspace;
  beforeEach(() => {
    workspace = new Workspace();
  });
  afterEach(() => workspace.dispose());

  it('tells of each line of a Go relay’s file, and fails where one cannot be used', async () => {
    const file = join(await workspace.folder(), 'old.env');
    const usable = `PROXY_KEY=${DEMO.proxyKey}\nAUTH_SECRET=${'s'.repeat(32)}\nREDIS_POOL_SIZE=10\n`;
    await writeFile(file, usable);
    expect(await done(['check', '--env-file', file])).toMatch(
      /^warn {2}line 3 REDIS_POOL_SIZE +nothing here: /m,
    );
    await refused(1, ['check', '--strict', '--env-file', file]);
    const listed = JSON.parse(await done(['check', '--json', '--env-file', file])) as object[];
    expect(listed).toContainEqual({
      level: 'warn',
      subject: 'line 3 REDIS_POOL_SIZE',
      what: expect.stringContaining('nothing here: '),
    });
    await writeFile(file, `${usable}PORT=port\n`);
    expect(await refused(1, ['check', '--env-file', file])).toMatch(
      /^fail {2}line 4 PORT .*cannot be "port"/m,
    );
  });
});
