import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { Admin } from './support/clients.js';
import { DEMO, freePort, type Process, run, Workspace } from './support/processes.js';

describe('npm start', () => {
  let workspace: Workspace;
  let dataDir: string;
  let ports: { PORT: string; CONTROL_PLANE_PORT: string };
  let started: Process[];

  beforeEach(async () => {
    workspace = new Workspace();
    dataDir = await workspace.folder();
    ports = { PORT: String(await freePort()), CONTROL_PLANE_PORT: String(await freePort()) };
    started = [];
  });
  afterEach(async () => {
    await Promise.all(started.map((process) => process.kill('SIGTERM')));
    await workspace.dispose();
  });

  const npmStart = (environment: NodeJS.ProcessEnv = {}, flags: readonly string[] = []) => {
    const process = run('npm', ['start', ...(flags.length > 0 ? ['--', ...flags] : [])], {
      DATA_DIR: dataDir,
      ...ports,
      ...environment,
    });
    started.push(process);
    return process;
  };
  /** The commands that it prints under a heading. */
  const printed = (output: string, heading: string) =>
    (new RegExp(`${heading}:\n\n((?: {4}.*\n)+)`).exec(output)?.[1] ?? '').replaceAll(/^ {4}/gm, '');

  const refuses = async (process: Process, message: RegExp) => {
    expect(await process.exited).toBe(1);
    expect(process.output).toMatch(message);
    expect(process.output).not.toMatch(/^\s+at /m);
  };

  it('starts the demo and prints commands that work as they stand', async () => {
    const demo = npmStart();
    await demo.printed(/Ctrl-C ends both/);
    expect(demo.output).toContain(DEMO.dev.serverKey);
    const [, page = ''] = await demo.printed(/Page +(http:\S+)/);
    expect(await (await fetch(page)).text()).toContain('<html');

    const show = run('bash', ['-c', printed(demo.output, 'Show a flag')]);
    await show.exited;
    expect(show.output).toContain('"feature":"dark-mode"');

    const follow = run('bash', [
      '-c',
      `${printed(demo.output, 'Show a flag')}${printed(demo.output, 'Follow the stream')}`,
    ]);
    await follow.printed(/^:$/m);
    await new Admin(page).setState('dark-mode', 'off');
    await follow.printed(/data: \{"event":"patch","domain":"flag","identifier":"dark-mode","version":2/);

    expect(await demo.kill('SIGTERM')).toBe(0);
    // The stream ended too, and both ports are free: a second start finds nothing in its way.
    await follow.exited;
    await npmStart().printed(/Ctrl-C ends both/);
  });

  it('serves the Node example of the README, which prints each change', async () => {
    const demo = npmStart();
    await demo.printed(/Ctrl-C ends both/);
    const example = run('node', ['docs/examples/node-sdk.mjs'], {
      RELAY_URL: `http://127.0.0.1:${ports.PORT}`,
    });
    started.push(example);
    await example.printed(/dark-mode is true/);
    await new Admin(`http://127.0.0.1:${ports.CONTROL_PLANE_PORT}`).setState('dark-mode', 'off');
    await example.printed(/dark-mode is false/);
  });

  it('keeps SDKs signed in over a restart', async () => {
    const relay = `http://127.0.0.1:${ports.PORT}`;
    const read = async (token: string) =>
      fetch(`${relay}/client/env/${DEMO.dev.id}/feature-configs`, {
        headers: { authorization: `Bearer ${token}` },
      });
    const demo = npmStart();
    await demo.printed(/Ctrl-C ends both/);
    const signIn = await fetch(`${relay}/client/auth`, {
      method: 'POST',
      body: JSON.stringify({ apiKey: DEMO.dev.serverKey }),
    });
    const { authToken } = (await signIn.json()) as { authToken: string };
    await demo.kill('SIGINT');
    await npmStart().printed(/Ctrl-C ends both/);
    expect((await read(authToken)).status).toBe(200);
  });

  it('takes flags as the Go relay does, and its env-file', async () => {
    const upstream = await workspace.controlPlane(await workspace.folder());
    const file = join(dataDir, 'old.env');
    await writeFile(
      file,
      `AUTH_SECRET='a secret that is long enough for a test'
CLIENT_SERVICE=${upstream.url}/api/1.0
METRIC_SERVICE=${upstream.url}/api/1.0
PORT=1
HEARTBEAT_INTERVAL=60
BYPASS_AUTH=false
`,
    );
    const relay = npmStart({}, [
      '-proxy-key',
      DEMO.proxyKey,
      '-bypass-auth',
      '--host=127.0.0.1',
      '--env-file',
      file,
    ]);
    await relay.printed(/Serving SDKs on/);
    expect(relay.output).toMatch(/PROXY_KEY is on the command line.*PROXY_KEY_FILE/);
    expect(relay.output).toMatch(/HEARTBEAT_INTERVAL of the Go relay \(V1, V2\) does nothing here/);
    // PORT is in the environment, and BYPASS_AUTH a flag.
    const flags = await fetch(`http://127.0.0.1:${ports.PORT}/client/env/${DEMO.dev.id}/feature-configs`);
    expect(flags.status).toBe(200);
    await expect(fetch(`http://127.0.0.1:${ports.CONTROL_PLANE_PORT}`)).rejects.toThrow('fetch failed');
    expect(await relay.kill('SIGTERM')).toBe(0);
  });

  it('starts the demo where a flag says', async () => {
    const port = await freePort();
    const demo = npmStart({}, [`--port=${port}`]);
    await demo.printed(/Ctrl-C ends both/);
    expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);
  });

  it('refuses flags that nobody knows, the demo as well', async () => {
    await refuses(npmStart({}, ['--prot', '1']), /--prot is no flag of this relay: --help lists them/);
    await refuses(
      npmStart({ AUTH_SECRET: 'short' }, ['--proxy-key', 'k', '--prot', '1']),
      /AUTH_SECRET cannot be used[^]*--prot is no flag/,
    );
  });

  it('with PROXY_KEY starts the relay alone, against CLIENT_SERVICE', async () => {
    const upstream = await workspace.controlPlane(await workspace.folder());
    const relay = npmStart({
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      CLIENT_SERVICE: `${upstream.url}/api/1.0/`,
      METRIC_SERVICE: `${upstream.url}/api/1.0/`,
    });
    await relay.printed(/Serving SDKs on/);
    expect((await fetch(`http://127.0.0.1:${ports.PORT}/health`)).status).toBe(200);
    await expect(fetch(`http://127.0.0.1:${ports.CONTROL_PLANE_PORT}`)).rejects.toThrow('fetch failed');
    expect(await relay.kill('SIGTERM')).toBe(0);
  });

  it('leaves no relay behind when it is killed, not even one that waits for its first state', async () => {
    const launcher = run(process.execPath, ['scripts/start.mjs'], {
      DATA_DIR: dataDir,
      ...ports,
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      CLIENT_SERVICE: `http://127.0.0.1:${await freePort()}/api/1.0`,
    });
    await launcher.printed(/the port stays closed/);
    // The relay writes to the same pipe, so this resolves only when it has ended too.
    expect(await launcher.kill('SIGKILL')).toBe('SIGKILL');
  });

  it.each(['PORT', 'CONTROL_PLANE_PORT'] as const)(
    'says in one message that a port is in use: %s',
    async (setting) => {
      const other = createServer().listen(Number(ports[setting]), '127.0.0.1');
      await once(other, 'listening');
      await refuses(
        npmStart(),
        new RegExp(`^Port ${ports[setting]} is in use\\. .*set ${setting} to another port\\.$`, 'm'),
      );
      other.close();
    },
  );

  it('says in one message that DATA_DIR cannot be used', async () => {
    dataDir = join(dataDir, 'file');
    await writeFile(dataDir, '');
    await refuses(npmStart(), /^DATA_DIR .*file.* /m);
  });

  it('says in one message what is wrong with each setting', async () => {
    const process = npmStart({
      PROXY_KEY: 'k',
      CLIENT_SERVICE: 'nonsense',
      AUTH_SECRET: 'short',
      UNKNOWN_KEY_STATUS: '500',
    });
    await refuses(process, /These settings need a change:/);
    expect(process.output).toMatch(/CLIENT_SERVICE cannot be "nonsense": set it to an http or https address/);
    expect(process.output).toMatch(/AUTH_SECRET cannot be used: set it to at least 32 random characters/);
    expect(process.output).toMatch(/UNKNOWN_KEY_STATUS cannot be "500": set it to 401 or 403/);
    expect(process.output).not.toContain('short');
  });

  it('lets one relay use a DATA_DIR, and tells the second who has it', async () => {
    await npmStart().printed(/Ctrl-C ends both/);
    const second = npmStart({
      PROXY_KEY: DEMO.proxyKey,
      AUTH_SECRET: 'a secret that is long enough for a test',
      PORT: String(await freePort()),
    });
    await refuses(
      second,
      /^DATA_DIR .* is in use by process \d+, since .*\. Stop it, or set DATA_DIR to another folder\.$/m,
    );
  });
});
