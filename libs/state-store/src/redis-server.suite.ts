import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** A redis-server of a test, on the loopback, with nothing kept on disk. */
export class RedisServer {
  private process: ChildProcess | undefined;

  private constructor(
    readonly port: number,
    readonly folder: string,
    private readonly args: readonly string[],
  ) {}

  /** @param options as `redis-server` takes them, beside the port */
  static async start(...options: string[]): Promise<RedisServer> {
    const server = await RedisServer.absent(...options);
    await server.start();
    return server;
  }

  /** One with a port of its own that does not run yet. */
  static async absent(...options: string[]): Promise<RedisServer> {
    const [port, folder] = [await freePort(), await newFolder()];
    const common = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', ''];
    return new RedisServer(port, folder, [...common, ...options]);
  }

  /** A Sentinel. @param lines of its configuration, beside the port */
  static async sentinel(...lines: string[]): Promise<RedisServer> {
    const [port, folder] = [await freePort(), await newFolder()];
    const file = join(folder, 'sentinel.conf');
    await writeFile(file, [`port ${port}`, 'bind 127.0.0.1', `dir ${folder}`, ...lines, ''].join('\n'));
    const server = new RedisServer(port, folder, [file, '--sentinel']);
    await server.start();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Returns once it answers. Empty again, if it ran before. */
  async start(): Promise<void> {
    this.process = spawn('redis-server', this.args, { stdio: 'ignore' });
    while (!(await answers(this.port))) {
      if (this.process.exitCode !== null)
        throw new Error(`redis-server ${this.args.join(' ')} does not start`);
      await delay(20);
    }
  }

  /** @param signal SIGKILL for a crash */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const { process } = this;
    this.process = undefined;
    if (!process || process.exitCode !== null || process.signalCode !== null) return;
    process.kill(signal);
    await once(process, 'exit');
  }

  /** It stays connected and says nothing until `resume`. */
  pause(): void {
    this.process?.kill('SIGSTOP');
  }

  resume(): void {
    this.process?.kill('SIGCONT');
  }

  async dispose(): Promise<void> {
    await this.stop('SIGKILL');
    await rm(this.folder, { recursive: true });
  }
}

const newFolder = () => mkdtemp(join(tmpdir(), 'ff-relay-redis-'));

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, 'close');
  return port;
}

/** Whether a server says anything to a PING, be it that it wants a password first. */
async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    socket.write('PING\r\n');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    return !String(answer).startsWith('-LOADING');
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
