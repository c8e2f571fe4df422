import { once } from 'node:events';
import { createServer } from 'node:net';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { DEMO, freePorts, type Process, run, Workspace } from './support/processes.js';

/** Eight processes that start one after the other, on a machine that may have other work. */

describe('npm run services', () => {
  let workspace: Workspace;
  let dataDir: string;
  let ports: Record<string, number>;
  let started: Process[];

  beforeEach(async () => {
    workspace = new Workspace();
    dataDir = await workspace.folder();
    ports = await portsInARow();
    started = [];
  });
  afterEach(async () => {
    await Promise.all(started.map((process) => process.kill('SIGTERM')));
    await workspace.dispose();
  });

  const SETTINGS = ['PORT', 'PORT_B', 'CONTROL_PLANE_PORT', 'NATS_PORT', 'NATS_MONITOR_PORT', 'REDIS_PORT'];
  /** In the order of their management ports. */
  const ROLES = ['gateway-a', 'gateway-b', 'ingestor', 'projector', 'metrics-forwarder'];
  const ALL = [...ROLES, 'control-plane', 'nats', 'redis'];
  const portsInARow = async () => {
    const first = await freePorts(SETTINGS.length + ROLES.length);
    return Object.fromEntries([...SETTINGS, 'MANAGEMENT_PORT'].map((name, index) => [name, first + index]));
  };
  const start = (command: string[], environment: NodeJS.ProcessEnv) => {
    const [program = '', ...args] = command;
    const settings = Object.fromEntries(Object.entries(ports).map(([name, port]) => [name, String(port)]));
    const process = run(program, args, { DATA_DIR: dataDir, ...settings, ...environment });
    started.push(process);
    return process;
  };
  const npmRunServices = (environment: NodeJS.ProcessEnv = {}) =>
    start(['npm', 'run', 'services'], environment);
  const isUp = (set: Process) => set.printed(/Ctrl-C ends all/);
  const url = (setting: string) => `http://127.0.0.1:${ports[setting]}`;
  const gateways = () => [url('PORT'), url('PORT_B')];
  /** The commands that it prints under a heading. */
  const printed = (output: string, heading: string) =>
    (new RegExp(`${heading}:\n\n((?: {4}.*\n)+)`).exec(output)?.[1] ?? '').replaceAll(/^ {4}/gm, '');
  const shell = (...commands: string[]) => {
    const process = run('bash', ['-c', commands.join('')]);
    started.push(process);
    return process;
  };
  const pidsOf = (output: string, name: string) =>
    [...output.matchAll(new RegExp(`^${name} +│ runs as process (\\d+)`, 'gm'))].map(([, pid]) =>
      Number(pid),
    );
  const versionAt = async (gateway: string) => (await SdkSession.signIn(gateway)).flagVersion('dark-mode');
  const everyPort = () => {
    const { MANAGEMENT_PORT: management = 0, ...others } = ports;
    return [...Object.values(others), ...ROLES.map((_, index) => management + index)];
  };
  const isFree = async (port: number) => {
    const probe = createServer().listen({ port, host: '127.0.0.1', exclusive: true });
    const free = await once(probe, 'listening').then(
      () => true,
      () => false,
    );
    probe.close();
    return free;
  };
  const everythingIsGone = () =>
    eventually(
      async () => Promise.all(everyPort().map(isFree)),
      (free) => !free.includes(false),
    );

  it('starts the demo on two gateways, and prints commands that work as they stand', async () => {
    const set = npmRunServices();
    await isUp(set);
    expect(set.output).toMatch(/^nats-server \d+\.\d+\.\d+ \(\/.+\)$/m);
    expect(set.output).toMatch(/^redis-server \d+\.\d+\.\d+ \(\/.+\)$/m);
    expect(set.output).not.toContain('\u001B[');

    const show = shell(printed(set.output, 'Show a flag, from gateway a'));
    await show.exited;
    expect(show.output).toContain('"feature":"dark-mode"');
    const follow = shell(
      printed(set.output, 'Show a flag, from gateway a'),
      printed(set.output, 'Follow the stream, on gateway b'),
    );
    await follow.printed(/^:$/m);
    const change = shell(printed(set.output, 'Change the flag, in another terminal'));
    expect([await change.exited, change.output]).toEqual([0, expect.stringContaining('governanceMetadata')]);
    await follow.printed(/data: \{"event":"patch","domain":"flag","identifier":"dark-mode","version":2/);
    for (const gateway of gateways()) {
      await eventually(
        () => versionAt(gateway),
        (version) => version === 2,
      );
    }

    expect(await set.kill('SIGTERM')).toBe(0);
    await everythingIsGone();
    // SDKs' side ended first, and what it stands on last.
    const [roles, servers] = [
      /^(?:gateway|ingestor|projector).*Stopping/m,
      /^(?:nats|redis).*(?:Shutdown|SIGTERM)/m,
    ];
    expect(set.output.search(roles)).toBeGreaterThan(0);
    expect(set.output.search(servers)).toBeGreaterThan(set.output.search(roles));
  });

  it('starts again whatever is killed, and goes on where it was', async () => {
    const set = npmRunServices();
    await isUp(set);
    const admin = new Admin(url('CONTROL_PLANE_PORT'));
    let version = 1;
    for (const name of ALL) {
      process.kill(pidsOf(set.output, name).at(-1)!, 'SIGKILL');
      await set.printed(new RegExp(`^${name} +│ ended \\(SIGKILL\\); starting it again in 0\\.5 s`, 'm'));
      await eventually(
        () => pidsOf(set.output, name).length,
        (count) => count === 2,
      );
      await eventually(
        async () => (await fetch(url('CONTROL_PLANE_PORT')).catch(() => undefined))?.status,
        (status) => status === 200,
      );
      version += 1;
      await admin.setState('dark-mode', version % 2 === 0 ? 'off' : 'on');
      for (const gateway of gateways()) {
        await eventually(
          () => versionAt(gateway).catch(() => undefined),
          (seen) => seen === version,
        );
      }
    }
  });

  it('keeps flags, and SDKs signed in, over a restart', async () => {
    const set = npmRunServices();
    await isUp(set);
    await new Admin(url('CONTROL_PLANE_PORT')).setState('dark-mode', 'off');
    const { token } = await SdkSession.signIn(url('PORT'));
    expect(await set.kill('SIGINT')).toBe(0);

    await isUp(npmRunServices());
    await eventually(
      async () => {
        const response = await fetch(`${url('PORT_B')}/client/env/${DEMO.dev.id}/feature-configs/dark-mode`, {
          headers: { authorization: `Bearer ${token}` },
        });
        return response.text();
      },
      (flag) => flag.includes('"version":2'),
    );
  });

  it('leaves nothing behind when it is killed', async () => {
    const set = start([process.execPath, 'scripts/services.mjs'], {});
    await isUp(set);
    expect(await set.kill('SIGKILL')).toBe('SIGKILL');
    await everythingIsGone();
  });

  it('with PROXY_KEY starts without a control plane, against CLIENT_SERVICE', async () => {
    const upstream = await workspace.controlPlane(await workspace.folder());
    const set = npmRunServices({
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      CLIENT_SERVICE: `${upstream.url}/api/1.0`,
      METRIC_SERVICE: `${upstream.url}/api/1.0`,
    });
    await isUp(set);
    expect(set.output).not.toMatch(/control-plane|SDK keys/);
    expect(await versionAt(url('PORT'))).toBe(1);
  });

  it('says in one message which ports are in use, and starts nothing', async () => {
    const taken = { REDIS_PORT: ports['REDIS_PORT']!, MANAGEMENT_PORT: ports['MANAGEMENT_PORT']! + 3 };
    const others = Object.values(taken).map((port) => createServer().listen(port, '127.0.0.1'));
    await Promise.all(others.map((other) => once(other, 'listening')));
    const set = npmRunServices();
    expect(await set.exited).toBe(1);
    for (const [setting, port] of Object.entries(taken)) {
      expect(set.output).toMatch(
        new RegExp(`^Port ${port} is in use\\. .*set ${setting} to another port`, 'm'),
      );
    }
    expect(set.output).not.toContain('runs as process');
    for (const other of others) other.close();
  });

  it('ends with the reason when a role cannot start', async () => {
    const set = npmRunServices({ RECONCILE_INTERVAL: 'never' });
    expect(await set.exited).toBe(1);
    expect(set.output).toMatch(/│ +- RECONCILE_INTERVAL cannot be "never"/);
    expect(set.output).toMatch(/^The \S+ could not start; ending the others\.$/m);
    await everythingIsGone();
  });

  it('lets one set use a DATA_DIR', async () => {
    await isUp(npmRunServices());
    ports = await portsInARow();
    const second = npmRunServices();
    expect(await second.exited).toBe(1);
    expect(second.output).toContain(`DATA_DIR ${dataDir} is in use by another service set.`);
  });
});
