import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const root = join(import.meta.dirname, '..', '..');

/** The demo data of the control plane. */
export const DEMO = {
  proxyKey: '30000000-0000-4000-8000-000000000001',
  dev: { id: '10000000-0000-4000-8000-000000000001', serverKey: '20000000-0000-4000-8000-000000000001' },
  prod: { id: '10000000-0000-4000-8000-000000000002', serverKey: '20000000-0000-4000-8000-000000000003' },
} as const;

/** For what comes within seconds on most machines. Less than Jest gives a test, so that it is said what was last seen. */
export const PATIENCE_MS = 120_000;
/** Tests start hundreds of processes, and most of what a start takes is compiling the same files. */
const COMPILE_CACHE = join(tmpdir(), 'ff-relay-test-compile-cache');

/** A process of ours that a test started, with what it printed. */
export class Process {
  output = '';
  readonly exited: Promise<number | NodeJS.Signals | null>;
  private grown = Promise.withResolvers<void>();

  constructor(private readonly child: ChildProcess) {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
        this.grown.resolve();
        this.grown = Promise.withResolvers();
      });
    }
    this.exited = once(child, 'close').then(
      ([code, signal]) => (code as number | null) ?? (signal as NodeJS.Signals),
    );
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  /** Resolves with the first match in what it prints. Rejects when it ends before, or when the time is over. */
  async printed(pattern: RegExp, withinMs = PATIENCE_MS): Promise<RegExpExecArray> {
    const already = pattern.exec(this.output);
    if (already) return already;
    const ended = this.exited.then(() => 'ended' as const);
    const late = once(AbortSignal.timeout(withinMs), 'abort').then(() => 'late' as const);
    for (;;) {
      const next = await Promise.race([this.grown.promise, ended, late]);
      const match = pattern.exec(this.output);
      if (match) return match;
      if (next) throw new Error(`${String(pattern)} was not printed (${next}), but:\n${this.output}`);
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  async kill(signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null> {
    this.child.kill(signal);
    return this.exited;
  }
}

/** A service on a port; the port stays the same when it is started again. */
export interface Service {
  readonly process: Process;
  readonly url: string;
  readonly port: number;
}

export function run(command: string, args: readonly string[], environment: NodeJS.ProcessEnv = {}): Process {
  const { PROXY_KEY: _, ...inherited } = process.env;
  return new Process(
    spawn(command, args, {
      cwd: root,
      env: { ...inherited, NODE_COMPILE_CACHE: COMPILE_CACHE, MANAGEMENT_PORT: '0', ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    }),
  );
}

export function runApp(name: string, environment: NodeJS.ProcessEnv): Process {
  return run(
    process.execPath,
    ['--enable-source-maps', join(root, 'dist', 'apps', name, 'src', 'main.js')],
    environment,
  );
}

export async function startControlPlane(dataDir: string, port = 0): Promise<Service> {
  const started = runApp('control-plane', { DATA_DIR: dataDir, CONTROL_PLANE_PORT: String(port) });
  const [, url = ''] = await started.printed(/Control plane listens on (http:\/\/\S+)/);
  return { process: started, url, port: Number(new URL(url).port) };
}

export async function startRelay(
  dataDir: string,
  upstream: string,
  port = 0,
  environment: NodeJS.ProcessEnv = {},
  readyWithinMs = PATIENCE_MS,
): Promise<Service> {
  const started = runApp('relay', {
    DATA_DIR: dataDir,
    PORT: String(port),
    HOST: '127.0.0.1',
    PROXY_KEY: DEMO.proxyKey,
    AUTH_SECRET: 'a secret that is long enough for a test',
    CLIENT_SERVICE: `${upstream}/api/1.0`,
    METRIC_SERVICE: `${upstream}/api/1.0`,
    ...environment,
  });
  const [, url = ''] = await started.printed(/Serving SDKs on (https?:\/\/\S+)/, readyWithinMs);
  return { process: started, url, port: Number(new URL(url).port) };
}

/** Folders and processes of one test, gone when it ends. */
export class Workspace {
  private readonly services: Service[] = [];
  private readonly folders: string[] = [];

  async folder(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'ff-relay-test-'));
    this.folders.push(folder);
    return folder;
  }

  async controlPlane(dataDir: string, port?: number): Promise<Service> {
    return this.keep(await startControlPlane(dataDir, port));
  }

  async relay(
    dataDir: string,
    upstream: string,
    port?: number,
    environment?: NodeJS.ProcessEnv,
    readyWithinMs?: number,
  ): Promise<Service> {
    return this.keep(await startRelay(dataDir, upstream, port, environment, readyWithinMs));
  }

  async dispose(): Promise<void> {
    await Promise.all(this.services.map((service) => service.process.kill('SIGKILL')));
    await Promise.all(this.folders.map((folder) => rm(folder, { recursive: true, force: true })));
  }

  private keep(service: Service): Service {
    this.services.push(service);
    return service;
  }
}

/** Ports that the system gives to nobody by itself, in blocks that belong to one process each. */
const PORTS = { first: 12_000, blocks: 200, perBlock: 100 };
let nextPort = 0;
let blockEnd = 0;

/** A port that nobody listens on, that nobody is given by chance and that no other test process takes. */
export async function freePort(): Promise<number> {
  return freePorts(1);
}

/** The first of so many such ports in a row, at most 100. */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    if (nextPort + count > blockEnd) await claimBlock();
    const ports = Array.from({ length: count }, (_, index) => nextPort + index);
    nextPort += count;
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return ports[0] ?? 0;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  await once(server.close(), 'close');
  return true;
}

/** A UDP socket on the first port of a block holds it for this process; the block is free again when the process ends. */
async function claimBlock(): Promise<void> {
  for (let attempt = 0; attempt < PORTS.blocks; attempt++) {
    const block = (process.pid + attempt) % PORTS.blocks;
    const first = PORTS.first + block * PORTS.perBlock;
    const claim = createSocket('udp4').unref().bind(first, '127.0.0.1');
    try {
      await once(claim, 'listening');
    } catch {
      continue;
    }
    [nextPort, blockEnd] = [first, first + PORTS.perBlock];
    return;
  }
  throw new Error('Every block of test ports is taken by another process.');
}
