import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { DEMO, freePort, PATIENCE_MS, Process, runApp, type Service, Workspace } from './processes.js';

/** A relay under test, whatever it is made of, and its upstream. */
export interface Deployment {
  readonly controlPlane: { readonly url: string };
  /** Where SDKs may connect: all serve the same. */
  readonly gateways: readonly string[];
  /** Ends everything of ours in good order, and starts it again on what it kept. */
  restart(): Promise<void>;
  /** Ends the first gateway, and starts it again after something was done; another may go on meanwhile. */
  restartGateway(meanwhile: (another?: string) => Promise<void>): Promise<void>;
  /** Another gateway with other settings. */
  gateway(settings: NodeJS.ProcessEnv): Promise<string>;
  dispose(): Promise<void>;
}

const SECRET = 'a secret that is long enough for a test';

class OneProcess implements Deployment {
  private readonly workspace = new Workspace();
  private folders = { controlPlane: '', relay: '' };
  private services: { controlPlane: Service; relay: Service } | undefined;

  static async start(): Promise<OneProcess> {
    const deployment = new OneProcess();
    const { workspace } = deployment;
    deployment.folders = { controlPlane: await workspace.folder(), relay: await workspace.folder() };
    await deployment.run();
    return deployment;
  }

  get controlPlane(): { readonly url: string } {
    return { url: this.services?.controlPlane.url ?? '' };
  }

  get gateways(): readonly string[] {
    return [this.services?.relay.url ?? ''];
  }

  async restart(): Promise<void> {
    await this.services?.relay.process.kill('SIGTERM');
    await this.services?.controlPlane.process.kill('SIGTERM');
    await this.run();
  }

  async restartGateway(meanwhile: () => Promise<void>): Promise<void> {
    await this.services?.relay.process.kill('SIGTERM');
    await meanwhile();
    const { folders, workspace, services } = this;
    if (!services) return;
    const { controlPlane, relay } = services;
    this.services = {
      controlPlane,
      relay: await workspace.relay(folders.relay, controlPlane.url, relay.port),
    };
  }

  async gateway(settings: NodeJS.ProcessEnv): Promise<string> {
    const folder = await this.workspace.folder();
    return (await this.workspace.relay(folder, this.controlPlane.url, 0, settings)).url;
  }

  dispose(): Promise<void> {
    return this.workspace.dispose();
  }

  private async run(): Promise<void> {
    const { folders, workspace, services } = this;
    const controlPlane = await workspace.controlPlane(folders.controlPlane, services?.controlPlane.port);
    const relay = await workspace.relay(folders.relay, controlPlane.url, services?.relay.port);
    this.services = { controlPlane, relay };
  }
}

/** A part of the service set: a server, or a process of ours. */
export type Part =
  | 'nats'
  | 'redis'
  | 'control-plane'
  | 'ingestor-1'
  | 'ingestor-2'
  | 'projector-1'
  | 'projector-2'
  | 'metrics-forwarder-1'
  | 'metrics-forwarder-2'
  | 'gateway-1'
  | 'gateway-2';

const SERVERS: readonly Part[] = ['nats', 'redis', 'control-plane'];
const ROLES: readonly Part[] = [
  'ingestor-1',
  'ingestor-2',
  'projector-1',
  'projector-2',
  'metrics-forwarder-1',
  'metrics-forwarder-2',
  'gateway-1',
  'gateway-2',
];

const USUAL: readonly Part[] = [
  ...SERVERS,
  'ingestor-1',
  'projector-1',
  'metrics-forwarder-1',
  'gateway-1',
  'gateway-2',
];

/** The relay as a service set over real servers, every part of which can be killed, paused and started again. */
export class ServiceSet implements Deployment {
  private readonly running = new Map<Part, Process>();
  private readonly ports = new Map<string, number>();
  private readonly workspace = new Workspace();
  private folder = '';
  private readonly extra: Process[] = [];

  private natsSettings = '';
  private ownSettings: NodeJS.ProcessEnv = {};

  /**
   * @param parts to begin with; by default each once, and two gateways
   * @param natsSettings lines of the configuration of nats-server
   * @param settings of all processes of ours
   */
  static async start(
    parts: readonly Part[] = USUAL,
    natsSettings = '',
    settings: NodeJS.ProcessEnv = {},
  ): Promise<ServiceSet> {
    const set = new ServiceSet();
    set.ownSettings = settings;
    set.folder = await set.workspace.folder();
    set.natsSettings = join(set.folder, 'nats.conf');
    await writeFile(set.natsSettings, natsSettings);
    for (const part of [...SERVERS, ...ROLES]) {
      set.ports.set(part, await freePort());
      set.ports.set(`management of ${part}`, await freePort());
    }
    await set.startAll(parts);
    return set;
  }

  get controlPlane(): { readonly url: string } {
    return { url: `http://127.0.0.1:${this.port('control-plane')}` };
  }

  get gateways(): readonly string[] {
    return [this.gatewayUrl('gateway-1'), this.gatewayUrl('gateway-2')];
  }

  get natsUrl(): string {
    return `nats://127.0.0.1:${this.port('nats')}`;
  }

  get redisAddress(): string {
    return `127.0.0.1:${this.port('redis')}`;
  }

  gatewayUrl(part: 'gateway-1' | 'gateway-2'): string {
    return `http://127.0.0.1:${this.port(part)}`;
  }

  managementUrl(part: Part): string {
    return `http://127.0.0.1:${this.port(`management of ${part}`)}`;
  }

  /** What a process of ours says about itself. */
  async status(part: Part): Promise<Record<string, Record<string, unknown>>> {
    const response = await fetch(`${this.managementUrl(part)}/status`);
    return (await response.json()) as Record<string, Record<string, unknown>>;
  }

  output(part: Part): string {
    return this.running.get(part)?.output ?? '';
  }

  /** Returns when a server answers, a gateway serves, and another process of ours runs. */
  async start(part: Part, settings: NodeJS.ProcessEnv = {}): Promise<void> {
    const process = this.spawn(part, settings);
    this.running.set(part, process);
    if (part === 'nats' || part === 'redis') await answers(this.port(part));
    else if (part === 'control-plane') await process.printed(/Control plane listens/);
    else if (part.startsWith('gateway')) await process.printed(/Serving SDKs on/);
    else await process.printed(/Answering \/livez/);
  }

  /** Starts a part and does not wait for what it needs. */
  begin(part: Part, settings: NodeJS.ProcessEnv = {}): void {
    this.running.set(part, this.spawn(part, settings));
  }

  /** @returns how it ended */
  async stop(part: Part, signal: NodeJS.Signals = 'SIGTERM'): ReturnType<Process['kill']> {
    const process = this.running.get(part);
    this.running.delete(part);
    return process?.kill(signal) ?? null;
  }

  /** It keeps its connections and does nothing, until it is resumed. */
  pause(part: Part): void {
    this.running.get(part)?.signal('SIGSTOP');
  }

  resume(part: Part): void {
    this.running.get(part)?.signal('SIGCONT');
  }

  /** Copies what the server holds, while it does not run. */
  async keepNatsData(): Promise<void> {
    await cp(join(this.folder, 'jetstream'), join(this.folder, 'jetstream-kept'), { recursive: true });
  }

  /** Puts the copy in place of what the server holds, while it does not run. */
  async restoreNatsData(): Promise<void> {
    await rm(join(this.folder, 'jetstream'), { recursive: true });
    await cp(join(this.folder, 'jetstream-kept'), join(this.folder, 'jetstream'), { recursive: true });
  }

  isRunning(part: Part): boolean {
    return this.running.has(part);
  }

  async restart(): Promise<void> {
    const parts = [...ROLES, ...SERVERS].filter((part) => this.isRunning(part));
    for (const part of parts) await this.stop(part);
    await this.startAll(parts.toReversed());
  }

  async restartGateway(meanwhile: (another?: string) => Promise<void>): Promise<void> {
    await this.stop('gateway-1');
    await meanwhile(this.gatewayUrl('gateway-2'));
    await this.start('gateway-1');
  }

  async gateway(settings: NodeJS.ProcessEnv): Promise<string> {
    const process = runApp('gateway', { ...this.settings(), ...settings, PORT: '0' });
    this.extra.push(process);
    const [, url = ''] = await process.printed(/Serving SDKs on (http:\/\/\S+)/);
    return url;
  }

  async dispose(): Promise<void> {
    const all = [...this.extra, ...this.running.values()];
    await Promise.all(all.map((process) => process.kill('SIGKILL')));
    await this.workspace.dispose();
  }

  private async startAll(parts: readonly Part[]): Promise<void> {
    await Promise.all(SERVERS.filter((part) => parts.includes(part)).map((part) => this.start(part)));
    await Promise.all(ROLES.filter((part) => parts.includes(part)).map((part) => this.start(part)));
  }

  private spawn(part: Part, settings: NodeJS.ProcessEnv): Process {
    const port = String(this.port(part));
    if (part === 'nats')
      return server('nats-server', [
        '-c',
        this.natsSettings,
        '-p',
        port,
        '-a',
        '127.0.0.1',
        '-js',
        '-sd',
        this.folder,
      ]);
    if (part === 'redis') {
      return server('redis-server', [
        '--port',
        port,
        '--bind',
        '127.0.0.1',
        '--save',
        '',
        '--dir',
        this.folder,
      ]);
    }
    if (part === 'control-plane') {
      return runApp('control-plane', { DATA_DIR: `${this.folder}/control-plane`, CONTROL_PLANE_PORT: port });
    }
    return runApp(part.replace(/-\d$/, ''), {
      ...this.settings(),
      PORT: port,
      MANAGEMENT_PORT: String(this.port(`management of ${part}`)),
      ...settings,
    });
  }

  private settings(): NodeJS.ProcessEnv {
    return {
      HOST: '127.0.0.1',
      AUTH_SECRET: SECRET,
      PROXY_KEY: DEMO.proxyKey,
      CLIENT_SERVICE: `${this.controlPlane.url}/api/1.0`,
      METRIC_SERVICE: `${this.controlPlane.url}/api/1.0`,
      NATS_URL: this.natsUrl,
      REDIS_ADDRESS: this.redisAddress,
      ...this.ownSettings,
    };
  }

  private port(of: string): number {
    return this.ports.get(of) ?? 0;
  }
}

/** The relay in each of its forms. */
export const DEPLOYMENTS: readonly [string, () => Promise<Deployment>][] = [
  ['one process', () => OneProcess.start()],
  ['the service set', () => ServiceSet.start()],
];

function server(command: string, args: readonly string[]): Process {
  return new Process(spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] }));
}

async function answers(port: number): Promise<void> {
  for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline; await delay(20)) {
    const socket = connect(port, '127.0.0.1');
    socket.write('PING\r\n');
    const up = await once(socket, 'data').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (up) return;
  }
  throw new Error(`nobody answers on port ${port}`);
}
