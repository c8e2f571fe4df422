import { spawn } from 'node:child_process';

import { freePort, Process } from './processes.js';

/** A nats-server of one test, on a free port. */
export class NatsServer {
  private constructor(
    private readonly port: number,
    private readonly process: Process,
  ) {}

  /** @param options of its command line, beside the address. It runs in the folder. */
  static async start(
    folder: string,
    options: readonly string[] = ['-js', '-sd', folder],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<NatsServer> {
    const port = await freePort();
    const child = spawn('nats-server', ['-a', '127.0.0.1', '-p', String(port), ...options], {
      cwd: folder,
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const server = new Process(child);
    await server.printed(/Server is ready/);
    return new NatsServer(port, server);
  }

  /** @param login as `user:password` */
  url(login?: string): string {
    return `nats://${login ? `${login}@` : ''}127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    await this.process.kill('SIGTERM');
  }
}
