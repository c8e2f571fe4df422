import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { Redis } from 'ioredis';

import { type Fact, factBody, factSubject } from '#libs/domain';
import { EmbeddedEventLog } from '#libs/event-log';

import { aFlag } from '../libs/domain/src/builders.suite.js';
import { certify } from './support/certificates.js';
import { Admin, eventually } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { done, ffRelay, refused } from './support/ff-relay.js';
import { DEMO, freePort, type Process, root, run, type Service, Workspace } from './support/processes.js';

const SECRET = '5d0c7f1e9ab34826d1f7c0e35b98a642f0c1d7e8b3a59264';
const A_LINE = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z +\d+  `;

interface EventLine {
  readonly stream: string;
  readonly position: { readonly sequence: number };
  readonly time: string;
  readonly subject: string;
  readonly event: { readonly type: string; readonly data: Record<string, unknown> };
  readonly change?: string;
  readonly fields?: readonly { readonly path: string; readonly before: unknown; readonly after: unknown }[];
}
const eventsIn = (output: string) =>
  output
    .trimEnd()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as EventLine);

describe('ff-relay beside a relay in one process', () => {
  let workspace: Workspace;
  let controlPlane: Service;
  let relay: Service;
  let admin: Admin;
  let dataDir: string;
  let management: string;
  let settings: NodeJS.ProcessEnv;

  beforeAll(async () => {
    workspace = new Workspace();
    dataDir = await workspace.folder();
    controlPlane = await workspace.controlPlane(await workspace.folder());
    admin = new Admin(controlPlane.url);
    const port = String(await freePort());
    management = `http://127.0.0.1:${port}`;
    settings = {
      DATA_DIR: dataDir,
      MANAGEMENT_PORT: port,
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: SECRET,
      CLIENT_SERVICE: `${controlPlane.url}/api/1.0`,
      METRIC_SERVICE: `${controlPlane.url}/api/1.0`,
    };
    relay = await workspace.relay(dataDir, controlPlane.url, 0, { MANAGEMENT_PORT: port });
  });
  afterAll(() => workspace.dispose());

  describe('events', () => {
    let beforeChanges: string;
    beforeAll(async () => {
      beforeChanges = new Date().toISOString();
      await admin.setState('dark-mode', 'off');
      await admin.createFlag('made');
      await admin.setState('dark-mode', 'off', 'prod');
      await eventually(
        () => done(['events', 'list', '--since', beforeChanges, '--json'], settings),
        (output) => eventsIn(output).length === 4,
      );
    });

    it('lists facts in the order of the log, each with what it changed', async () => {
      const lines = (await done(['events', 'list'], settings)).split('\n');
      expect(lines[0]).toMatch(new RegExp(`^${A_LINE}\\w+ +environment +added$`));
      expect(lines).toContainEqual(
        expect.stringMatching(
          new RegExp(`^${A_LINE} +account demo +all of its 2 environments are in the log$`),
        ),
      );
      const at = lines.findIndex((line) => /dev +flag dark-mode +changed +v1 → v2$/.test(line));
      expect(lines[at + 1]).toBe('    state  on → off');
      expect(lines).toContainEqual(expect.stringMatching(/dev +flag made +added +boolean, on|off, v1$/));
    });

    it.each<[string[], string[]]>([
      [
        ['--environment', 'prod', '--id', 'dark-mode'],
        ['added', 'changed'],
      ],
      [['--environment', 'demo/prod', '--id', 'dark-mode', '--last', '1'], ['changed']],
      [
        ['--environment', DEMO.prod.id, 'dev', '--id', 'dark-mode', 'theme'],
        ['added', 'added', 'added', 'added', 'changed', 'changed'],
      ],
      [
        ['--kind', 'environment'],
        ['added', 'added'],
      ],
      [
        ['--kind', 'key', '--environment', 'dev'],
        ['added', 'added'],
      ],
      [
        ['--kind', 'group', 'flag', '--since', '1', '--until', '3', '--environment', 'dev'],
        ['added', 'added'],
      ],
      [['--until', '2020-01-01'], []],
    ])('with %j are those that were asked for', async (filter, changes) => {
      const events = eventsIn(await done(['events', 'list', '--json', ...filter], settings));
      expect(events.map(({ change }) => change)).toEqual(changes);
    });

    it('are JSON lines with the event as it stands in the log, and the fields', async () => {
      const args = ['events', 'list', '--json', '--environment', 'prod', '--id', 'dark-mode', '--last', '1'];
      const [event, ...others] = eventsIn(await done(args, settings));
      expect(others).toEqual([]);
      expect(event).toMatchObject({
        stream: 'FF_FACTS',
        subject: `ff.facts.v1.${DEMO.prod.id}.flag.dark-mode`,
        event: {
          specversion: '1.0',
          type: 'io.ff-relay.flag.published.v1',
          data: { flag: { state: 'off' } },
        },
        change: 'changed',
      });
      expect(event?.fields).toContainEqual({ path: 'state', before: 'on', after: 'off' });
    });

    it('are of the notices too, each after its fact', async () => {
      const args = ['events', 'list', '--stream', 'both', '--id', 'dark-mode', '--environment', 'prod'];
      const events = eventsIn(await done([...args, '--json'], settings));
      expect(events.map(({ stream }) => stream)).toEqual([
        'FF_FACTS',
        'FF_CHANGES',
        'FF_FACTS',
        'FF_CHANGES',
      ]);
      const fact = events[2]?.position.sequence;
      expect(await done(args, settings)).toMatch(
        new RegExp(`  notice +\\d+  prod +flag dark-mode +patch +v2, of fact ${fact}\n$`),
      );
    });

    it('are followed as they come, until Ctrl-C', async () => {
      const following = ffRelay(['events', 'follow', '--stream', 'both', '--json'], settings);
      const quiet = ffRelay(['events', 'follow', '--environment', 'prod'], settings);
      // Nothing tells when they have begun, so the flag is changed until they have seen it.
      let state: 'on' | 'off' = 'on';
      await eventually(
        async () => {
          state = state === 'on' ? 'off' : 'on';
          await admin.setState('page-size', state);
          await admin.setState('page-size', state, 'prod');
          return [following.output, quiet.output];
        },
        (outputs) => outputs.every((output) => output.includes('page-size')),
      );
      await following.printed(/"FF_CHANGES"[^\n]*page-size/);
      expect(quiet.output).not.toMatch(/ dev /);
      expect(await following.kill('SIGINT')).toBe(130);
      expect(await quiet.kill('SIGTERM')).toBe(143);
      const events = eventsIn(following.output);
      for (const { fields } of events.filter(({ stream }) => stream === 'FF_FACTS'))
        expect(fields?.map(({ path }) => path)).toEqual(expect.arrayContaining(['state', 'version']));
    });

    it('are followed from a moment on, without a gap', async () => {
      const following = ffRelay(['events', 'follow', '--since', '2', '--json'], settings);
      await following.printed(/"sequence":17\}/);
      await admin.createFlag('followed');
      await following.printed(/flag\.followed"[^\n]*\n[^]*flag\.followed"[^\n]*\n/);
      await following.kill('SIGINT');
      // The log keeps only the last facts about each flag, and these were many.
      const kept = eventsIn(await done(['events', 'list', '--since', '2', '--json'], settings));
      const sequences = (events: readonly EventLine[]) => events.map(({ position }) => position.sequence);
      expect(sequences(eventsIn(following.output))).toEqual(sequences(kept));
    });

    it('may be cut short by who reads them', async () => {
      const script = `set -o pipefail; ${process.execPath} scripts/ff-relay.mjs events list --json | head -1`;
      const called = run('bash', ['-c', script], settings);
      expect(await called.exited).toBe(0);
      expect(eventsIn(called.output)).toHaveLength(1);
    });

    it('of an environment that is not there are refused, with those that are', async () => {
      expect(await refused(2, ['events', 'list', '--environment', 'stage'], settings)).toBe(
        'The log has no environment "stage". It has: dev, prod.\n',
      );
    });

    it('have colours on a terminal, and none where NO_COLOR forbids them', async () => {
      const command = `${process.execPath} scripts/ff-relay.mjs events list --last 1`;
      const onTerminal = (environment: NodeJS.ProcessEnv) =>
        run('script', ['-qec', command, '/dev/null'], {
          ...settings,
          TERM: 'xterm-256color',
          ...environment,
        });
      const [coloured, plain] = [onTerminal({}), onTerminal({ NO_COLOR: '1' })];
      expect([await coloured.exited, await plain.exited]).toEqual([0, 0]);
      expect(coloured.output).toContain('\u001B[');
      expect(plain.output).not.toContain('\u001B[3');
    });
  });

  describe('status', () => {
    it('is 0 and a line for each part while all is well', async () => {
      const said = await done(['status'], settings);
      expect(said).toMatch(new RegExp(`^${management}  ready, runs for \\d+ \\w+\n\n`));
      expect(said).toMatch(/ ✓ ingestor +leads, upstream connected for /);
      expect(said).toMatch(/ ✓ projector +leads, 2 environments at fact \d+\n/);
      expect(said).toMatch(/ ✓ gateway +2 environments at fact \d+, 0 streams open\n/);
      expect(said).toMatch(/ ✓ metrics-forwarder +no counts wait\n$/);
      expect(said).not.toContain('!');
    });

    it('as JSON is what the relay says', async () => {
      const [{ url, status }] = JSON.parse(await done(['status', '--url', `${management}/`, '--json'])) as [
        { url: string; status: Record<string, { ready: boolean }> },
      ];
      expect(url).toBe(management);
      expect(status).toMatchObject({
        ready: true,
        ingestor: { leading: true },
        gateway: { environments: 2 },
      });
    });

    it('is 1 where nobody answers, and shows the others', async () => {
      const nobody = `http://127.0.0.1:${await freePort()}`;
      const said = await refused(1, ['status', '--url', nobody, management]);
      expect(said).toContain(`${nobody}  no answer\n`);
      expect(said).toContain(`${management}  ready`);
      expect(said).toMatch(new RegExp(`^${nobody}: connect ECONNREFUSED .*Check that it runs.*\\.$`, 'm'));
    });

    it('is 1 while one is not ready, and says why first', async () => {
      const gateway = { ready: false, notReadyBecause: 'it is stopping', environments: 2, streams: 1 };
      const document = { startedAt: new Date().toISOString(), ready: false, gateway };
      const stopping = createServer((_, response) => response.end(JSON.stringify(document)));
      await new Promise<void>((listening) => stopping.listen(0, '127.0.0.1', listening));
      const url = `http://127.0.0.1:${(stopping.address() as AddressInfo).port}`;
      const said = await refused(1, ['status', '--url', url]);
      expect(said).toMatch(
        /^\S+ {2}not ready, runs for \d s\n\n {2}! gateway {2}is not ready: it is stopping\n\n {2}✗ gateway {2}2 environments, 1 stream open\n$/,
      );
      stopping.close();
    });

    it('of something else is refused', async () => {
      expect(await refused(1, ['status', '--url', controlPlane.url])).toMatch(
        /\/status is answered with 404\. /,
      );
      expect(await refused(2, ['status', '--url', 'relay:7080'])).toMatch(
        /'relay:7080' is invalid\. it is an http/,
      );
      expect(await refused(2, ['status', '--url', 'http://ada:hush@relay:7080'])).toBe(
        '--url takes an address without user, password or query, for example http://127.0.0.1:7080.\n',
      );
      expect(await refused(2, ['import', '--from', 'any', '--into', 'http://ada:hush@relay'])).toBe(
        '--into takes an address without user, password or query, for example http://localhost:7100.\n',
      );
    });
  });

  describe('check', () => {
    it('finds that all is well, and who uses the folder', async () => {
      const said = await done(['check'], settings);
      expect(said).toMatch(/^ok {4}settings +all can be used\n/);
      expect(said).toMatch(
        /^ok {4}upstream +\S+ takes the proxy key, which opens 2 environments \(\d+ ms\)$/m,
      );
      expect(said).toMatch(/^ok {4}counts +\S+ answers$/m);
      expect(said).toMatch(/^ok {4}clock +agrees with the upstream's$/m);
      expect(said).toMatch(
        new RegExp(`^ok {4}disk +DATA_DIR ${dataDir} can be written, .* free, the log has `, 'm'),
      );
      expect(said).toMatch(
        new RegExp(`^warn  disk +it is in use by process ${relay.process.pid}, since`, 'm'),
      );
      expect(said).toMatch(/^warn  secrets +PROXY_KEY is the demo's/m);
      expect(said).not.toMatch(/^fail/m);
      expect(said).toMatch(/\n\n5 ok, 2 to look at, 0 failed\n$/);
      expect(said).not.toContain(SECRET);
      await refused(1, ['check', '--strict'], settings);
    });

    it('tells every fault at once, each with what to do, and leaves no trace', async () => {
      const folder = await workspace.folder();
      const said = await refused(1, ['check'], {
        ...settings,
        PORT: 'x',
        PROXY_KEY: 'a-key-that-nobody-gave',
        METRIC_SERVICE: `http://127.0.0.1:${await freePort()}`,
        AUTH_SECRET: 'ab'.repeat(20),
        DATA_DIR: join(folder, 'data'),
      });
      expect(said).toMatch(/^fail  settings +PORT cannot be "x": set it to a port number/m);
      expect(said).toMatch(
        /^fail  upstream +.*answered with 40\d: the upstream refuses PROXY_KEY\n +→ Set PROXY_KEY /m,
      );
      expect(said).toMatch(/^fail  counts +.*ECONNREFUSED.*\n +→ Check METRIC_SERVICE/m);
      expect(said).toMatch(/^ok {4}disk +.* no log there yet$/m);
      expect(said).toMatch(/^warn  secrets +AUTH_SECRET repeats a few characters/m);
      expect(said).toMatch(/, 3 failed\n$/);
      expect(await readdir(folder)).toEqual([]);
    });

    it('says that a folder cannot be used, or a secret lies open', async () => {
      const folder = await workspace.folder();
      const [file, key] = [join(folder, 'file'), join(folder, 'key')];
      await writeFile(file, '');
      await writeFile(key, DEMO.proxyKey);
      await chmod(key, 0o644);
      const said = await refused(1, ['check'], {
        ...settings,
        PROXY_KEY: '',
        PROXY_KEY_FILE: key,
        DATA_DIR: file,
      });
      expect(said).toMatch(
        new RegExp(`^fail  disk +DATA_DIR ${file} cannot be used: ${file} is no folder\n +→ `, 'm'),
      );
      expect(said).toMatch(
        new RegExp(`^warn  secrets +${key} \\(PROXY_KEY_FILE\\) is open to every user`, 'm'),
      );
    });

    describe('against an upstream with another time', () => {
      let upstream: Server;
      let address: string;
      let date: string;
      beforeAll(async () => {
        upstream = createServer((_, response) => response.writeHead(503, { date }).end());
        await new Promise<void>((listening) => upstream.listen(0, '127.0.0.1', listening));
        address = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;
      });
      afterAll(() => void upstream.close());

      it.each([
        [-30_000, /^warn  clock +is \d+ s ahead of the upstream's\n +→ Let a time service/m],
        [400_000, /^fail  clock +is 6 min behind the upstream's$/m],
      ])('says by how much ours is off: %i ms', async (offMs, message) => {
        date = new Date(Date.now() + offMs).toUTCString();
        expect(await refused(1, ['check'], { ...settings, CLIENT_SERVICE: address })).toMatch(message);
      });
    });

    it('goes on beside settings that are of no use alone, by whatever name', async () => {
      const folder = await workspace.folder();
      const { certFile, keyFile } = certify(folder, 'own');
      const said = await refused(1, ['check'], {
        ...settings,
        CLIENT_SERVICE: '',
        SDK_BASE_URL: 'nonsense',
        UPSTREAM_KEY: keyFile,
        HTTPS_PROXY: `http://127.0.0.1:${await freePort()}`,
        TLS_ENABLED: 'true',
        TLS_CERT: certFile,
        TLS_KEY: keyFile,
        API_KEYS: 'a,b',
      });
      expect(said).toMatch(/^fail  settings +CLIENT_SERVICE cannot be "nonsense"/m);
      expect(said).toMatch(/^fail  settings +UPSTREAM_CERT and UPSTREAM_KEY belong together/m);
      expect(said).toMatch(/^warn  settings +API_KEYS of the Go relay \(V1\) does nothing here/m);
      // Harness, through a proxy that is not there.
      expect(said).toMatch(/^fail  upstream +https:\/\/config\.ff\.harness\.io\S+: .*ECONNREFUSED/m);
      expect(said).toMatch(/^ok {4}counts /m);
      expect(said).toMatch(/^ok {4}tls +the certificate of TLS_CERT is valid until /m);
      expect(said).toMatch(/^ok {4}disk /m);
    });

    it('looks at the bundle that takes the place of the upstream', async () => {
      const folder = join(await workspace.folder(), 'config');
      const offline = { OFFLINE: 'true', CONFIG_DIR: folder, AUTH_SECRET: SECRET, DATA_DIR: dataDir };
      expect(await refused(1, ['check'], offline)).toMatch(
        /^fail  bundle +CONFIG_DIR \S+ cannot be served: .*\n +→ Write it again with ff-relay export/m,
      );
      await done(['export', '--into', folder], settings);
      const said = await done(['check'], offline);
      expect(said).toMatch(/^ok {4}bundle +CONFIG_DIR \S+ has 2 environments$/m);
      expect(said).not.toMatch(/upstream|counts|clock/);
    });

    it('of a process that only writes a bundle asks for what that needs', async () => {
      const folder = await workspace.folder();
      const generating = {
        PROXY_KEY: DEMO.proxyKey,
        CLIENT_SERVICE: settings['CLIENT_SERVICE'],
        METRIC_SERVICE: `http://127.0.0.1:${await freePort()}`,
        DATA_DIR: '/dev/null',
        REDIS_ADDRESS: `127.0.0.1:${await freePort()}`,
        CONFIG_DIR: join(folder, 'made', 'config'),
        GENERATE_OFFLINE_CONFIG: 'true',
      };
      expect(await done(['check'], generating)).toMatch(
        /^ok {4}settings .*\nok {4}upstream +\S+ takes the proxy key.*\nok {4}clock .*\nok {4}bundle +CONFIG_DIR \S+made\/config can be written\nwarn  secrets .*\n.*\n\n4 ok,/,
      );
      expect(await readdir(folder)).toEqual([]);
      expect(await refused(1, ['check'], { ...generating, PROXY_KEY: '' })).toMatch(
        /^fail  settings +PROXY_KEY is not set/,
      );
      const inTheWay = join(folder, 'file');
      await writeFile(inTheWay, '');
      expect(await refused(1, ['check'], { ...generating, CONFIG_DIR: inTheWay })).toMatch(
        /^fail  bundle +CONFIG_DIR \S+ cannot be written: \S+file is no folder\n +→ Set CONFIG_DIR/m,
      );
      await writeFile(join(folder, 'manifest.json'), '{}');
      expect(await refused(1, ['check'], { ...generating, CONFIG_DIR: folder })).toMatch(
        /^fail  bundle +.*manifest\.json is of no bundle: move it away/m,
      );
      expect((await readdir(folder)).toSorted()).toEqual(['file', 'manifest.json']);
    });

    it('of a gateway asks for what a gateway needs', async () => {
      const said = await refused(1, ['check', '--role', 'gateway', '--json'], { AUTH_SECRET: SECRET });
      const findings = JSON.parse(said) as { level: string; subject: string; what: string }[];
      expect(findings.filter(({ level }) => level === 'fail').map(({ what }) => what.split(' ')[0])).toEqual([
        'NATS_URL',
        'REDIS_ADDRESS',
      ]);
      expect(said).not.toContain('upstream');
    });
  });

  it.each(['events list --json', 'replay --into -', 'check --json'])(
    '%s says in a sentence that standard output cannot be written',
    async (command) => {
      const script = `${process.execPath} scripts/ff-relay.mjs ${command} > /dev/full`;
      const called = run('bash', ['-c', script], settings);
      expect(await called.exited).toBe(1);
      expect(called.output).toBe(
        'Standard output cannot be written: ENOSPC: no space left on device, write.\n',
      );
    },
  );

  it('diff says in words what changed', async () => {
    const before = new Date().toISOString();
    await admin.setState('theme', 'off');
    await admin.createFlag('worded');
    const said = await eventually(
      () => done(['diff', '--from', before], settings),
      (output) => output.match(/\+ flag worded/g)?.length === 2,
    );
    expect(said).toContain(
      `dev  ${DEMO.dev.id}\n  ~ flag theme   v1 → v2\n      state  on → off\n  + flag worded  boolean, `,
    );
    expect(said).toMatch(
      /\n\nFrom fact \d+ of \S+Z to fact \d+ of \S+Z: 3 differences \(2 added, 1 changed\)\n$/,
    );
    const now = new Date().toISOString();
    expect(await done(['diff', '--from', now], settings)).toMatch(/: nothing differs\n$/);
    expect(await refused(2, ['diff', '--from', now, '--to', before], settings)).toMatch(
      /^--from is later than --to: /,
    );
  });
});

describe('The guide of ff-relay', () => {
  it('names every command', async () => {
    const [, listed = ''] = /\nCommands:\n([^]*?)\n\n/.exec(await done(['--help'])) ?? [];
    const commands = [...listed.matchAll(/^ {2}(\w+)/gm)].map(([, command = '']) => command);
    expect(commands).toEqual(expect.arrayContaining(['start', 'metrics', 'import', 'completion']));
    const guide = await readFile(join(root, 'docs/guides/command.md'), 'utf8');
    const rows = [...guide.matchAll(/^\|[^|]+\| (\[`.*) +\|$/gm)].map(([, row = '']) => row).join();
    const named = new Set([...rows.matchAll(/`(\w+)/g)].map(([, command = '']) => command));
    expect([...named]).toEqual(commands.filter((command) => command !== 'help'));
  });

  it('shows what its commands print', async () => {
    const workspace = new Workspace();
    const [dataDir, port] = [await workspace.folder(), String(await freePort())];
    const controlPlane = await workspace.controlPlane(await workspace.folder());
    const upstream = `${controlPlane.url}/api/1.0`;
    await workspace.relay(dataDir, controlPlane.url, 0, { MANAGEMENT_PORT: port });
    const settings = {
      DATA_DIR: dataDir,
      MANAGEMENT_PORT: port,
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: SECRET,
      CLIENT_SERVICE: upstream,
      METRIC_SERVICE: upstream,
    };
    await new Admin(controlPlane.url).setState('dark-mode', 'off', 'prod');
    await eventually(
      () => done(['events', 'list', '--stream', 'notices', '--id', 'dark-mode', '--last', '1'], settings),
      (output) => output.includes('of fact 18'),
    );
    /** Without what is another each time: times, sizes, addresses, processes. */
    const masked = (text: string) =>
      text
        .replaceAll(dataDir, '/var/lib/ff-relay')
        .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
        .replaceAll(/http:\/\/[\w.]+:\d+/g, 'ADDRESS')
        .replaceAll(/\d[\d.]* (ms|s|min|h|[KMGT]B)\b/g, 'SO MUCH')
        .replaceAll(/process \d+/g, 'process NUMBER');
    const guide = await readFile(join(root, 'docs/guides/command.md'), 'utf8');
    const shown = [...guide.matchAll(/```sh\nnpx ff-relay (.+)\n```\n\n```\n([^]*?)```/g)];
    expect(shown.length).toBeGreaterThanOrEqual(5);
    for (const [, command = '', output = ''] of shown)
      expect(masked(await done(command.split(' '), settings))).toBe(masked(output));
    await workspace.dispose();
  });
});

describe('ff-relay over what the log has forgotten', () => {
  let workspace: Workspace;
  let settings: NodeJS.ProcessEnv;
  beforeAll(async () => {
    workspace = new Workspace();
    const dataDir = await workspace.folder();
    settings = { DATA_DIR: dataDir };
    const log = await EmbeddedEventLog.open(dataDir);
    let id = 0;
    const append = (fact: Fact) =>
      log.append('FF_FACTS', {
        subject: factSubject(fact),
        id: String(++id),
        body: factBody(fact, { id: String(id), time: 0 }),
      });
    await append({ type: 'EnvironmentAdded', environment: 'dev' });
    for (let version = 1; version <= 65; version++)
      await append({ type: 'FlagPublished', environment: 'dev', flag: aFlag('busy', { version }) });
    await log.close();
  });
  afterAll(() => workspace.dispose());

  it('calls the first that is kept published, and not added', async () => {
    const events = eventsIn(await done(['events', 'list', '--id', 'busy', '--json'], settings));
    expect(events).toHaveLength(64);
    expect(events.slice(0, 2).map(({ change }) => change)).toEqual(['published', 'changed']);
    expect(await done(['events', 'list', '--kind', 'environment'], settings)).toMatch(/ added\n$/);
  });

  it('tells of no difference that may be none, and says of what', async () => {
    const said = await done(['diff', '--from', '1'], settings);
    expect(said).toMatch(
      /^Warning: of 1 entity the log keeps later facts only, so nothing is told of them:\n {2}flag busy of dev\n/,
    );
    expect(said).toMatch(/nothing differs\n$/);
    const { unknown } = JSON.parse(await done(['diff', '--from', '1', '--json'], settings)) as {
      unknown: unknown;
    };
    expect(unknown).toEqual([{ environment: 'dev', kind: 'flag', identifier: 'busy' }]);
  });
});

describe('ff-relay over a service set', () => {
  let set: ServiceSet;
  let settings: NodeJS.ProcessEnv;
  beforeAll(async () => {
    set = await ServiceSet.start(['nats', 'redis', 'control-plane']);
    settings = {
      NATS_URL: set.natsUrl,
      REDIS_ADDRESS: set.redisAddress,
      AUTH_SECRET: SECRET,
      PROXY_KEY: DEMO.proxyKey,
      CLIENT_SERVICE: `${set.controlPlane.url}/api/1.0`,
      METRIC_SERVICE: `${set.controlPlane.url}/api/1.0`,
    };
  });
  afterAll(() => set.dispose());

  it('checks NATS and Redis, says what may go wrong there, and makes nothing', async () => {
    const redis = new Redis(`redis://${set.redisAddress}`);
    await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
    const said = await done(['check'], settings);
    expect(said).toMatch(
      /^ok {4}nats +NATS \S+ runs JetStream and lets the relay make FF_FACTS, FF_CHANGES, FF_METRICS, FF_METRICS_PARKED$/m,
    );
    expect(said).toMatch(/^warn  nats +A power failure can take facts/m);
    expect(said).toMatch(/^ok {4}redis +answers, and holds 0 environments$/m);
    expect(said).toMatch(/^warn  redis +Redis at \S+ may drop keys when its memory is full/m);
    const nats = await connect({ servers: set.natsUrl });
    expect(await (await jetstreamManager(nats)).streams.list().next()).toEqual([]);
    expect(await redis.dbsize()).toBe(0);
    await nats.close();
    redis.disconnect();
  });

  it('says that NATS or Redis is not there', async () => {
    const nowhere = `127.0.0.1:${await freePort()}`;
    const said = await refused(1, ['check'], {
      ...settings,
      NATS_URL: `nats://${nowhere}`,
      REDIS_ADDRESS: nowhere,
    });
    expect(said).toMatch(/^fail  nats +cannot be used: .*\n +→ Check NATS_URL/m);
    expect(said).toMatch(new RegExp(`^fail  redis +Redis at ${nowhere} cannot be reached: `, 'm'));
  });

  it('follows the facts over a restart of NATS', async () => {
    await set.start('ingestor-1');
    const admin = new Admin(set.controlPlane.url);
    await eventually(
      () => done(['events', 'list', '--kind', 'account'], settings).catch(() => ''),
      (output) => output.includes('all of its 2 environments'),
    );
    const following = ffRelay(['events', 'follow', '--json'], settings);
    const seen = async (flag: string) => {
      let state: 'on' | 'off' = 'off';
      await eventually(
        async () => {
          await admin.setState(flag, (state = state === 'on' ? 'off' : 'on'));
          return following.output;
        },
        (output) => output.includes(`flag.${flag}"`),
      );
    };
    await seen('dark-mode');
    await set.stop('nats');
    await set.start('nats');
    await seen('theme');
    expect(await following.kill('SIGINT')).toBe(130);
    const sequences = eventsIn(following.output.replaceAll(/^[^{].*\n/gm, '')).map(
      ({ position }) => position.sequence,
    );
    expect(sequences).toEqual(sequences.map((_, i) => (sequences[0] ?? 0) + i));
  });

  it('starts a gateway with several workers', async () => {
    await set.start('projector-1');
    const [port, management] = [String(await freePort()), String(await freePort())];
    const gateway = ffRelay(['start'], {
      ...settings,
      HOST: '127.0.0.1',
      PORT: port,
      MANAGEMENT_PORT: management,
      READ_REPLICA: 'true',
      GATEWAY_WORKERS: '2',
    });
    await gateway.printed(/Serving SDKs on \S+ with 2 workers/);
    const said = await done(['status', '--url', `http://127.0.0.1:${management}`]);
    expect(said).toMatch(/ ✓ gateway +2 of 2 workers ready\n$/);
    expect(await gateway.kill('SIGTERM')).toBe(0);
  });

  it('shows the status of several processes', async () => {
    const urls = (['ingestor-1', 'projector-1'] as const).map((part) => set.managementUrl(part));
    const said = await done(['status', '--url', ...urls]);
    expect(said).toMatch(
      new RegExp(`^${urls[0]}  ready[^]* ✓ ingestor +leads[^]*\n\n${urls[1]}  ready[^]* ✓ projector +leads`),
    );
  });
});

describe('ff-relay start', () => {
  let workspace: Workspace;
  let controlPlane: Service;
  const started: Process[] = [];
  beforeAll(async () => {
    workspace = new Workspace();
    controlPlane = await workspace.controlPlane(await workspace.folder());
  });
  afterAll(async () => {
    await Promise.all(started.map((process) => process.kill('SIGTERM')));
    await workspace.dispose();
  });
  const start = async (args: readonly string[], environment: NodeJS.ProcessEnv = {}) => {
    const process = ffRelay(['start', ...args], {
      DATA_DIR: await workspace.folder(),
      HOST: '127.0.0.1',
      PORT: '0',
      ...environment,
    });
    started.push(process);
    return process;
  };
  const settings = () => ({
    PROXY_KEY: DEMO.proxyKey,
    AUTH_SECRET: SECRET,
    CLIENT_SERVICE: `${controlPlane.url}/api/1.0`,
    METRIC_SERVICE: `${controlPlane.url}/api/1.0`,
  });

  it('runs the relay, and ends it cleanly', async () => {
    const relay = await start([], settings());
    const [, url = ''] = await relay.printed(/Serving SDKs on (http:\/\/\S+)/);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect(await relay.kill('SIGTERM')).toBe(0);
    expect(relay.output).toContain('Stopping (SIGTERM)');
  });

  it('leaves no relay behind when it is killed', async () => {
    const relay = await start([], settings());
    await relay.printed(/Serving SDKs on/);
    // The relay writes to the same pipe, so this resolves only when it has ended too.
    expect(await relay.kill('SIGKILL')).toBe('SIGKILL');
    expect(relay.output).toContain('Stopping (the process that started it is gone)');
  });

  it('runs the demo, whatever upstream is set', async () => {
    const demo = await start(['--demo'], {
      PROXY_KEY: 'of-my-own',
      PORT: String(await freePort()),
      CONTROL_PLANE_PORT: String(await freePort()),
    });
    await demo.printed(/Ctrl-C ends both/);
    expect(await demo.kill('SIGINT')).toBe(0);
  });

  it('takes flags as the relay does, wherever they stand, and an env-file', async () => {
    const file = join(await workspace.folder(), 'relay.env');
    const { PROXY_KEY, ...others } = settings();
    await writeFile(
      file,
      Object.entries({ ...others, PORT: '1', UNKNOWN_KEY_STATUS: '403' })
        .map(([name, value]) => `${name}=${value}\n`)
        .join(''),
    );
    const port = await freePort();
    const flags = ['-proxy-key', PROXY_KEY, '--env-file', file, '-bypass-auth', '--unknown-key-status=401'];
    const relay = await start([...flags, '--port', String(port)], { PORT: '' });
    const [, url = ''] = await relay.printed(/Serving SDKs on (http:\/\/\S+)/);
    expect(new URL(url).port).toBe(String(port));
    expect(relay.output).toMatch(/PROXY_KEY is on the command line/);
    const flagsOfDev = await fetch(`${url}/client/env/${DEMO.dev.id}/feature-configs`);
    expect(flagsOfDev.status).toBe(200);
    const unknown = await fetch(`${url}/client/auth`, { method: 'POST', body: '{"apiKey":"unknown"}' });
    expect(unknown.status).toBe(401);
    expect(await relay.kill('SIGTERM')).toBe(0);
  });

  it('refuses flags and words that nobody knows, with what else is wrong', async () => {
    const message = await refused(2, ['start', '--prot', '1', '--env-file', 'missing.env'], {
      AUTH_SECRET: 'short',
    });
    expect(message).toMatch(/PROXY_KEY is not set/);
    expect(message).toMatch(/AUTH_SECRET cannot be used/);
    expect(message).toMatch(/--prot is no flag of this relay/);
    expect(message).toMatch(/--env-file: .*missing\.env/);
    expect(await refused(2, ['start', '7005'], settings())).toMatch(/a word that belongs to no flag/);
    expect(await refused(2, ['start', '--port'], settings())).toMatch(/last flag has no value/);
  });

  it('that only writes a bundle says every setting that it lacks, and ends with 0 when it is written', async () => {
    const generating = { CONFIG_DIR: await workspace.folder(), GENERATE_OFFLINE_CONFIG: 'true' };
    expect(await refused(2, ['start', '--port', 'x'], generating)).toMatch(
      /^These settings need a change:\n {2}- PROXY_KEY is not set: .*\n {2}- PORT cannot be "x"/,
    );
    expect(await done(['start'], { ...generating, ...settings(), AUTH_SECRET: '' })).toContain(
      'holds 2 environments now',
    );
  });

  it('tells of its flags', async () => {
    expect(await done(['start', '--help'])).toMatch(/^Usage: ff-relay start [^]*ff-relay start -- --help\n/);
    expect(await done(['start', '--', '--help'])).toMatch(
      /--proxy-key <value> [^]*--metrics-max-age <value>/,
    );
  });

  it('runs the demo with an env-file that names an upstream', async () => {
    const file = join(await workspace.folder(), 'relay.env');
    await writeFile(file, 'PROXY_KEY_FILE=/nowhere\nOFFLINE=true\nNATS_URL=nats://localhost:1\n');
    const port = String(await freePort());
    const demo = await start(['--demo', '--env-file', file, '--port', port], {
      CONTROL_PLANE_PORT: String(await freePort()),
    });
    await demo.printed(/Ctrl-C ends both/);
    expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);
    expect(await demo.kill('SIGINT')).toBe(0);
  });

  it('says every setting that it lacks', async () => {
    const message = await refused(2, ['start'], { DATA_DIR: await workspace.folder() });
    expect(message).toMatch(
      /^These settings need a change:\n {2}- PROXY_KEY is not set: .*\n {2}- AUTH_SECRET is not set/,
    );
  });
});

describe('Completion', () => {
  it('is a script for each shell, and suggestions with a line for each command', async () => {
    for (const shell of ['bash', 'zsh', 'fish'])
      expect(await done(['completion', shell])).toContain(`# ${shell} completion for ff-relay`);
    expect(await done(['complete', '--', ''])).toMatch(/^start\trun the relay\ncheck\t/);
    expect(await done(['complete', '--', 'events', ''])).toMatch(/^list\t.*\nfollow\t/);
    expect(await done(['complete', '--', 'events', 'list', '--stream', ''])).toMatch(
      /^facts\t\nnotices\t\nboth\t\n/,
    );
    expect(await refused(2, ['completion', 'tcsh'])).toMatch(/Allowed choices are zsh, bash, fish/);
  });

  it('works in bash', async () => {
    const workspace = new Workspace();
    const bin = await workspace.folder();
    await mkdir(bin, { recursive: true });
    await writeFile(
      join(bin, 'ff-relay'),
      `#!/bin/sh\nexec '${process.execPath}' '${root}/scripts/ff-relay.mjs' "$@"\n`,
    );
    await chmod(join(bin, 'ff-relay'), 0o755);
    await writeFile(join(bin, 'script'), await done(['completion', 'bash']));
    // What the package bash-completion does for it.
    const words = `_get_comp_words_by_ref() { words=("\${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=\${COMP_WORDS[COMP_CWORD]}; }; compopt() { :; }`;
    const ask = `COMP_WORDS=(ff-relay ev); COMP_CWORD=1; __ff_relay_complete; echo "\${COMPREPLY[@]}"`;
    const shell = run('bash', ['-c', `${words}; source '${bin}/script'; ${ask}`], {
      PATH: `${bin}:${process.env['PATH'] ?? ''}`,
    });
    await shell.exited;
    expect(shell.output).toBe('events\n');
    await workspace.dispose();
  });
});
