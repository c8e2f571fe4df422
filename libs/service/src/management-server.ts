import type { AddressInfo } from 'node:net';

import { Logger } from '@nestjs/common';
import { fastify, type FastifyInstance } from 'fastify';

import type { StatusBoard } from '#libs/observability';

import { listenFailure } from './run-service.js';

/**
 * Answers whoever looks after the process, on a port of its own: `/livez` (200 as long as it runs), `/readyz` (200 when
 * every part is ready, else 503 with those that are not), `/status` (what every part says).
 */
export class ManagementServer {
  private readonly server: FastifyInstance = fastify({ forceCloseConnections: true });
  private readonly startedAt = new Date().toISOString();

  constructor(private readonly board: StatusBoard) {
    this.server.addHook('onRequest', async (_, reply) => void reply.header('cache-control', 'no-store'));
    this.server.get('/livez', () => ({ live: true }));
    this.server.get('/readyz', async (_, reply) => {
      const notReady = this.notReady();
      await reply
        .status(notReady.length === 0 ? 200 : 503)
        .send({ ready: notReady.length === 0, ...(notReady.length > 0 && { notReady }) });
    });
    this.server.get('/status', () => ({
      startedAt: this.startedAt,
      ready: this.notReady().length === 0,
      ...this.board.look(),
    }));
  }

  /** @returns the port that it took, also for 0. Throws StartupError when it cannot listen there. */
  async listen(host: string, port: number): Promise<number> {
    try {
      await this.server.listen({ host, port });
    } catch (error) {
      throw listenFailure(error, host, port, 'MANAGEMENT_PORT');
    }
    const { port: taken } = this.server.server.address() as AddressInfo;
    new Logger('Management').log(`Answering /livez, /readyz and /status on port ${taken}`);
    return taken;
  }

  close(): Promise<void> {
    return this.server.close();
  }

  private notReady(): string[] {
    return Object.entries(this.board.look()).flatMap(([part, { ready }]) => (ready ? [] : [part]));
  }
}
