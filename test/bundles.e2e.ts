import { createHash } from 'node:crypto';
import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from '@harnessio/ff-nodejs-server-sdk';

import { readBundle, writeBundle } from '#libs/bundle';
import { type Fact, factBody, factSubject, type Flag, type Segment } from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';

import { ScriptedUpstream, type UpstreamEnvironment } from '../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag, aSegment } from '../libs/domain/src/builders.suite.js';
import { Chance } from './support/chance.js';
import { Admin, ownMemory, SdkSession } from './support/clients.js';
import { done, refused } from './support/ff-relay.js';
import { DEMO, root, run, Workspace } from './support/processes.js';

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex');

let workspace: Workspace;
beforeEach(() => {
  workspace = new Workspace();
});
afterEach(() => workspace.dispose());

describe('A bundle', () => {
  const target = { identifier: 'grace', name: 'Grace', attributes: { email: 'grace@example.com' } };
  const evaluationsOf = async (relay: string, apiKey: string, environment: string) => {
    const auth = await fetch(`${relay}/client/auth`, {
      method: 'POST',
      body: JSON.stringify({ apiKey, target }),
    });
    const { authToken } = (await auth.json()) as { authToken: string };
    const answer = await fetch(`${relay}/client/env/${environment}/target/grace/evaluations`, {
      headers: { authorization: `Bearer ${authToken}` },
    });
    expect(answer.status).toBe(200);
    return answer.text();
  };
  /** All that SDKs can read of it. */
  const readable = async (relay: string) => {
    const read = [DEMO.dev, DEMO.prod].map(async (environment) => {
      const sdk = await SdkSession.signIn(relay, environment);
      return [
        await sdk.flags(),
        await (await sdk.get('target-segments')).text(),
        await (await sdk.get('target-segments?rules=v2')).text(),
        await evaluationsOf(relay, environment.serverKey, environment.id),
      ];
    });
    return Promise.all(read);
  };

  it('exported, imported into a fresh control plane and relayed again is what it was, to the byte', async () => {
    const folder = await workspace.folder();
    const [first, relayData, bundle, second] = ['first', 'relay', 'bundle', 'second'].map((name) =>
      join(folder, name),
    ) as [string, string, string, string];
    const saas = await workspace.controlPlane(first);
    const admin = new Admin(saas.url);
    await admin.setState('dark-mode', 'off');
    await admin.setState('dark-mode', 'on');
    await admin.createFlag('one-more');
    const relay = await workspace.relay(relayData, saas.url);
    const before = await readable(relay.url);

    // Beside the relay, which goes on.
    expect(await done(['export', '--into', bundle], { DATA_DIR: relayData })).toMatch(
      /^The state after fact \d+ of \S+: 2 environments, 10 flags, 2 target groups, 4 SDK keys, in /,
    );
    expect(await readable(relay.url)).toEqual(before);
    await relay.process.kill('SIGTERM');
    await saas.process.kill('SIGTERM');
    // The proxy key that relays have goes on being theirs; its text was never in the bundle.
    expect(
      await done(['import', '--from', bundle, '--into', second, '--organization', 'demo'], {
        PROXY_KEY: DEMO.proxyKey,
      }),
    ).toBe(`Imported 2 environments, 10 flags, 2 target groups, 4 SDK keys into ${second}\n`);

    // The same relay goes on, on another: nobody notices.
    const port = relay.port;
    const upstream = await workspace.controlPlane(second);
    const same = await workspace.relay(relayData, upstream.url, port);
    expect(await readable(same.url)).toEqual(before);
    await same.process.kill('SIGTERM');
    const fresh = await workspace.relay(await workspace.folder(), upstream.url, port);
    expect(await readable(fresh.url)).toEqual(before);
    // And so is one that serves the bundle itself.
    const offline = await workspace.relay(await workspace.folder(), upstream.url, 0, {
      OFFLINE: 'true',
      CONFIG_DIR: bundle,
      PROXY_KEY: '',
    });
    expect(await readable(offline.url)).toEqual(before);

    const client = new Client(DEMO.dev.serverKey, {
      baseUrl: fresh.url,
      eventsUrl: fresh.url,
      enableAnalytics: false,
      enableStream: false,
      logger: { trace() {}, debug() {}, info() {}, warn() {}, error() {} },
      ...ownMemory(),
    });
    await client.waitForInitialization();
    expect(await client.boolVariation('dark-mode', target, false)).toBe(true);
    client.close();

    // It is a control plane like any other: what is switched there arrives.
    const sdk = await SdkSession.signIn(fresh.url);
    const ending = new AbortController();
    const events = (await sdk.stream(ending.signal))[Symbol.asyncIterator]();
    await new Admin(upstream.url).setState('dark-mode', 'off');
    expect((await events.next()).value).toMatchObject({
      identifier: 'dark-mode',
      event: 'patch',
      version: 4,
    });
    ending.abort();
  });

  it('is exported and imported by the commands of the guide', async () => {
    const folder = await workspace.folder();
    const saas = await workspace.controlPlane(join(folder, 'saas'));
    await workspace.relay(join(folder, 'relay'), saas.url);
    const script = await readFile(join(root, 'docs', 'examples', 'bundle.sh'), 'utf8');
    const commands = script.replaceAll(
      'npx ff-relay',
      `${process.execPath} ${join(root, 'scripts', 'ff-relay.mjs')}`,
    );
    const shell = run('sh', ['-ec', `cd ${folder}\n${commands}`], {
      DATA_DIR: join(folder, 'relay'),
      PROXY_KEY: DEMO.proxyKey,
    });
    expect({ code: await shell.exited, said: shell.output }).toMatchObject({ code: 0 });
    expect((await readBundle(join(folder, 'config'))).environments).toHaveLength(2);
    expect(await readdir(join(folder, 'control-plane-data'))).toContain('control-plane.sqlite');
  });

  it('is exported from the upstream as from the log', async () => {
    const folder = await workspace.folder();
    const saas = await workspace.controlPlane(join(folder, 'saas'));
    const relay = await workspace.relay(join(folder, 'relay'), saas.url);
    await relay.process.kill('SIGTERM');
    const [log, upstream] = [join(folder, 'from-log'), join(folder, 'from-upstream')];
    await done(['export', '--into', log], { DATA_DIR: join(folder, 'relay') });
    const online = { PROXY_KEY: DEMO.proxyKey, CLIENT_SERVICE: `${saas.url}/api/1.0` };
    expect(await done(['export', '--into', upstream, '--from-upstream'], online)).toContain(
      ': 2 environments, 8 flags',
    );
    const environments = async (directory: string) => (await readBundle(directory)).environments;
    expect(await environments(upstream)).toEqual(await environments(log));
    for (const file of ['feature_config.json', 'segments.json', 'auth_config.json']) {
      const [one, other] = [log, upstream].map((place) =>
        readFile(join(place, `env-${DEMO.dev.id}`, file), 'utf8'),
      );
      expect(await one).toBe(await other);
    }

    const elsewhere = ['export', '--into', join(folder, 'none'), '--from-upstream'];
    expect(await refused(2, elsewhere, { ...online, PROXY_KEY: '' })).toContain('PROXY_KEY is not set');
    expect(await refused(1, elsewhere, { ...online, PROXY_KEY: 'wrong' })).toMatch(
      /^Nothing was written: .*the upstream refuses PROXY_KEY\.\n$/,
    );
    expect(await refused(2, [...elsewhere, '--at', '3'], online)).toContain(
      'leave out --at, or --from-upstream',
    );
    expect(await readdir(folder)).not.toContain('none');
  });

  it('lacks SDK keys that the upstream does not tell only where a part will do, and check warns of it', async () => {
    const folder = join(await workspace.folder(), 'bundle');
    const apiKeys = [hashOf('a key')];
    const upstream = await ScriptedUpstream.start({
      dev: { flags: [aFlag('theme')], segments: [], apiKeys },
    });
    const online = { PROXY_KEY: 'any', CLIENT_SERVICE: upstream.url };
    const exporting = ['export', '--into', folder, '--from-upstream', '--replace'];
    await done(exporting, online);
    delete (upstream.environment('dev') as Partial<UpstreamEnvironment>).apiKeys;
    expect(await refused(1, exporting, online)).toBe(
      'Nothing was written: the upstream does not tell the SDK keys of environment dev.\n',
    );
    expect((await readBundle(folder)).environments).toMatchObject([{ apiKeys }]);
    expect(await done([...exporting, '--partial'], online)).toMatch(
      /^Warning: left out, .*: SDK keys of dev: the upstream does not tell them\n.*: 1 environment, 1 flag, /,
    );
    upstream.close();
    const offline = { OFFLINE: 'true', CONFIG_DIR: folder, DATA_DIR: folder };
    expect(await done(['check'], { ...offline, AUTH_SECRET: hashOf('a secret') })).toMatch(
      /^warn  bundle +CONFIG_DIR \S+ has 1 environment, and is not complete\n +→ .*leftOut in its manifest\.json/m,
    );
  });

  it('is imported into a control plane that runs, and refused where it would change what is there', async () => {
    const folder = await workspace.folder();
    const saas = await workspace.controlPlane(join(folder, 'saas'));
    const bundle = join(folder, 'bundle');
    const online = { PROXY_KEY: DEMO.proxyKey, CLIENT_SERVICE: `${saas.url}/api/1.0` };
    await done(['export', '--into', bundle, '--from-upstream'], online);
    const into = (url: string, ...more: string[]) => ['import', '--from', bundle, '--into', url, ...more];
    expect(await refused(1, into(saas.url))).toMatch(
      new RegExp(`^Nothing was imported: environment ${DEMO.dev.id} .*add --replace; else .*\\.\\n$`),
    );
    // A control plane that is there and empty, behind a token.
    const process = run(globalThis.process.execPath, ['dist/apps/control-plane/src/main.js'], {
      DATA_DIR: join(folder, 'empty'),
      CONTROL_PLANE_PORT: '0',
      DEMO_DATA: 'false',
      ADMIN_TOKEN: 'a-token-of-16-letters',
    });
    const [, url = ''] = await process.printed(/Control plane listens on (http:\/\/\S+)/);
    expect(await refused(1, into(url), { ADMIN_TOKEN: 'another' })).toContain('Set ADMIN_TOKEN');
    const said = await done(into(url), { ADMIN_TOKEN: 'a-token-of-16-letters' });
    const [, proxyKey = ''] =
      /The proxy key for relays, which is not kept and not shown again: (\S+)/.exec(said) ?? [];
    const relay = await workspace.relay(join(folder, 'relay'), url, 0, { PROXY_KEY: proxyKey });
    expect(JSON.parse(await (await SdkSession.signIn(relay.url)).flags())).toHaveLength(4);
    const again = await done(into(url, '--replace'), { ADMIN_TOKEN: 'a-token-of-16-letters' });
    expect(again).not.toContain('proxy key');
    await process.kill('SIGTERM');

    expect(await refused(1, into(url))).toMatch(
      /was not reached .*ECONNREFUSED.*Check that the control plane runs/,
    );
    expect(await refused(1, into(join(folder, 'saas')))).toMatch(/is in use by process \d+/);
    await saas.process.kill('SIGTERM');
    // Of environments that are in another account no --replace makes anything.
    const elsewhere = await refused(1, into(join(folder, 'saas'), '--replace', '--account', 'another'));
    expect(elsewhere).toMatch(/belongs to project demo of account demo, .*\. Check --account and --organ/);
    expect(elsewhere).not.toContain('--replace');
    await truncate(join(bundle, `env-${DEMO.dev.id}`, 'segments.json'), 5);
    expect(await refused(1, into(join(folder, 'new')))).toContain(
      `env-${DEMO.dev.id}/segments.json: it is not as`,
    );
    expect(await readdir(folder)).not.toContain('new');
  });
});

describe('An environment that is imported again', () => {
  it('may have got its first flag since, or lost its last', async () => {
    const folder = await workspace.folder();
    const [bundle, data] = [join(folder, 'bundle'), join(folder, 'data')];
    const time = new Date().toISOString();
    const origin = { source: 'log', position: null, time, writtenAt: time, complete: true } as const;
    for (const flags of [[], [aFlag('theme')], []]) {
      await writeBundle(bundle, [{ id: 'e1', flags, segments: [], apiKeys: [] }], origin, { replaces: true });
      expect(await done(['import', '--from', bundle, '--into', data, '--replace'])).toContain(
        `Imported 1 environment, ${flags.length} flag`,
      );
    }
  });
});

describe('The history', () => {
  interface Known {
    readonly flags: Map<string, Flag>;
    readonly segments: Map<string, Segment>;
    readonly apiKeys: Map<string, true>;
  }
  interface Change {
    readonly sequence: number;
    readonly time: number;
    readonly fact: Fact;
  }

  /** What was so after the first facts, told without any of our folds. */
  const stateAfter = (changes: readonly Change[], sequence: number) => {
    const environments = new Map<string, Known>();
    for (const { fact } of changes.filter((change) => change.sequence <= sequence)) {
      if (fact.type === 'SnapshotCompleted' || fact.type === 'ProxyKeyDeleted') continue;
      const at = environments.get(fact.environment);
      if (fact.type === 'EnvironmentAdded')
        environments.set(fact.environment, { flags: new Map(), segments: new Map(), apiKeys: new Map() });
      else if (fact.type === 'EnvironmentRemoved') environments.delete(fact.environment);
      else if (fact.type === 'FlagPublished') at?.flags.set(fact.flag.feature, fact.flag);
      else if (fact.type === 'FlagRemoved') at?.flags.delete(fact.identifier);
      else if (fact.type === 'SegmentPublished') at?.segments.set(fact.segment.identifier, fact.segment);
      else if (fact.type === 'SegmentRemoved') at?.segments.delete(fact.identifier);
      else if (fact.type === 'ApiKeyAdded') at?.apiKeys.set(fact.apiKey, true);
      else at?.apiKeys.delete(fact.apiKey);
    }
    const inOrder = <Value>(map: ReadonlyMap<string, Value>) =>
      [...map].toSorted(([a], [b]) => (a < b ? -1 : 1));
    return inOrder(environments).map(([id, { flags, segments, apiKeys }]) => ({
      id,
      flags: inOrder(flags).map(([, flag]) => flag),
      segments: inOrder(segments).map(([, segment]) => segment),
      apiKeys: inOrder(apiKeys).map(([key]) => key),
    }));
  };

  type Environments = ReturnType<typeof stateAfter>;
  /** Each thing that was there, by its name. */
  const thingsIn = (environments: Environments) =>
    new Map<string, object | undefined>(
      environments.flatMap(({ id, flags, segments, apiKeys }) => [
        [`${id} environment ${id}`, { account: 'acme' }],
        ...flags.map((flag) => [`${id} flag ${flag.feature}`, flag] as const),
        ...segments.map((segment) => [`${id} segment ${segment.identifier}`, segment] as const),
        ...apiKeys.map((key) => [`${id} apikey ${key}`, undefined] as const),
      ]),
    );
  const differing = (before: Environments, after: Environments) => {
    const [old, now] = [thingsIn(before), thingsIn(after)];
    const lines = [...new Set([...old.keys(), ...now.keys()])].flatMap((name) => {
      if (!old.has(name)) return [`added ${name} ${JSON.stringify(now.get(name)) ?? ''}`];
      if (!now.has(name)) return [`removed ${name} ${JSON.stringify(old.get(name)) ?? ''}`];
      const [was, is] = [JSON.stringify(old.get(name)), JSON.stringify(now.get(name))];
      return was === is ? [] : [`changed ${name} ${was} ${is}`];
    });
    return lines.toSorted();
  };
  const toldBy = (said: string) => {
    const { changes } = JSON.parse(said) as {
      changes: readonly {
        readonly change: string;
        readonly environment: string;
        readonly kind: string;
        readonly identifier: string;
        readonly before?: object;
        readonly after?: object;
      }[];
    };
    return changes
      .map(({ change, environment, kind, identifier, before, after }) => {
        const values = change === 'changed' ? [before, after] : [before ?? after];
        const named = `${change} ${environment} ${kind} ${identifier}`;
        return [named, ...values.map((value) => JSON.stringify(value))].join(' ');
      })
      .toSorted();
  };

  it('of 50 known changes is exported, replayed and compared at any position and time as it was', async () => {
    const chance = new Chance(20_261_121);
    const pick = <T>(list: readonly T[]) => chance.of(list)!;
    const folder = await workspace.folder();
    const data = join(folder, 'data');
    const log = await EmbeddedEventLog.open(data);
    const changes: Change[] = [];
    const append = async (fact: Fact) => {
      const id = `change ${changes.length}`;
      const body = factBody(fact, { id, time: Date.now() });
      const { sequence } = await log.append('FF_FACTS', { subject: factSubject(fact), id, body });
      let time = 0;
      for await (const messages of log.history('FF_FACTS', factSubject(fact)))
        time = messages.at(-1)?.time ?? time;
      changes.push({ sequence, time, fact });
      // Times tell it from the next.
      while (Date.now() <= time) await new Promise(setImmediate);
    };
    const ids = ['e1', 'e2', 'e3'];
    for (const environment of ids) await append({ type: 'EnvironmentAdded', environment, account: 'acme' });
    await append({ type: 'SnapshotCompleted', account: 'acme', environments: 3 });
    for (let version = 2; changes.length < 50; version++) {
      const environment = pick(ids);
      const identifier = pick(['a', 'b', 'c.d e', 'ü']);
      const apiKey = hashOf(`${environment} ${pick(['one', 'two'])}`);
      const state = pick(['on', 'off'] as const);
      await append(
        pick<() => Fact>([
          () => ({ type: 'FlagPublished', environment, flag: aFlag(identifier, { version, state }) }),
          () => ({ type: 'FlagPublished', environment, flag: aFlag(identifier, { version, state }) }),
          () => ({ type: 'FlagRemoved', environment, identifier, version }),
          () => ({ type: 'SegmentPublished', environment, segment: aSegment(identifier, { version }) }),
          () => ({ type: 'SegmentRemoved', environment, identifier, version }),
          () => ({ type: 'ApiKeyAdded', environment, apiKey }),
          () => ({ type: 'ApiKeyRemoved', environment, apiKey }),
          () =>
            stateAfter(changes, version + 10).some(({ id }) => id === environment) && chance.happens(0.4)
              ? { type: 'EnvironmentRemoved', environment }
              : { type: 'EnvironmentAdded', environment, account: 'acme' },
        ])(),
      );
    }
    await log.close();

    const positions = [4, 50, ...Array.from({ length: 5 }, () => 5 + chance.below(45))];
    for (const position of positions) {
      const { time = 0 } = changes.find(({ sequence }) => sequence === position) ?? {};
      const at = chance.happens(0.5) ? String(position) : new Date(time).toISOString();
      const wanted = stateAfter(changes, position);
      const bundle = join(folder, `at-${position}`);
      await rm(bundle, { recursive: true, force: true });
      await done(['export', '--into', bundle, '--at', at], { DATA_DIR: data });
      const { environments, manifest } = await readBundle(bundle);
      expect(environments).toEqual(wanted.map((state) => ({ account: 'acme', ...state })));
      expect(manifest).toMatchObject({
        complete: true,
        time: new Date(time).toISOString(),
        position: { sequence: position },
        environments: wanted.map(({ id, flags }) => ({ id, account: 'acme', flags: flags.length })),
      });

      const file = join(folder, `at-${position}.json`);
      await done(['replay', '--until', at, '--into', file], { DATA_DIR: data });
      const replayed = JSON.parse(await readFile(file, 'utf8')) as { environments: object[] };
      expect(replayed.environments).toEqual(wanted.map((state) => ({ account: 'acme', ...state })));

      const other = chance.below(51);
      const [from, to] = [position, other].toSorted((a, b) => a - b) as [number, number];
      const moments = [
        '--from',
        from === position ? at : String(from),
        '--to',
        to === position ? at : String(to),
      ];
      const said = await done(['diff', ...moments, '--json'], { DATA_DIR: data });
      expect(toldBy(said)).toEqual(differing(stateAfter(changes, from), stateAfter(changes, to)));
    }

    const elsewhere = ['export', '--into', join(folder, 'none')];
    expect(await refused(1, [...elsewhere, '--at', '51'], { DATA_DIR: data })).toContain(
      'ends at position 50',
    );
    expect(await refused(1, [...elsewhere, '--at', '3'], { DATA_DIR: data })).toMatch(
      /did not hold the whole account at that moment, .*add --partial/,
    );
    expect(await done([...elsewhere, '--at', '3', '--partial'], { DATA_DIR: data })).toContain(
      '3 environments',
    );
    expect((await readBundle(join(folder, 'none'))).manifest?.complete).toBe(false);
    expect(await refused(1, elsewhere, { DATA_DIR: data })).toContain('holds a bundle already');
    const strange = join(folder, 'strange');
    await cp(join(folder, 'none'), strange, { recursive: true });
    await writeFile(join(strange, 'env-e1', 'notes.txt'), 'mine');
    expect(await refused(1, ['export', '--into', strange, '--replace'], { DATA_DIR: data })).toContain(
      'notes.txt',
    );
    await done([...elsewhere, '--replace'], { DATA_DIR: data });
    expect((await readBundle(join(folder, 'none'))).manifest?.position?.sequence).toBe(50);
    expect(await refused(2, ['export', '--into', strange, '--at', 'noon'], { DATA_DIR: data })).toContain(
      'a position is a whole number',
    );
  });
});
