import { STATUS_CODES } from 'node:http';
import type { AddressInfo } from 'node:net';

import { Logger } from '@nestjs/common';
import { fastify, type FastifyError, type FastifyInstance, type FastifyReply } from 'fastify';

import { type PartStatus, Telemetry } from '#libs/observability';

import { listenFailure } from './run-service.js';

/** What is asked for the state of every part: of this process, or of those that it started. */
interface Board {
  look(): Record<string, PartStatus> | Promise<Record<string, PartStatus>>;
}

interface Pages {
  page(): Promise<string>;
}

/**
 * Answers whoever looks after the process, on a port of its own: `/livez` (200 as long as it runs), `/readyz` (200 when
 * every part is ready, else 503 with those that are not), `/status` (what every part says), `/metrics` (for Prometheus).
 */
export class ManagementServer {
  private readonly server = withProblems();
  private readonly startedAt = new Date().toISOString();

  constructor(
    private readonly board: Board,
    telemetry: Pages,
  ) {
    this.server.addHook('onRequest', async (_, reply) => void reply.header('cache-control', 'no-store'));
    this.server.get('/livez', () => ({ live: true }));
    this.server.get('/readyz', async (_, reply) => {
      const notReady = notReadyIn(await this.board.look());
      const reasons = notReady.flatMap(([part, { notReadyBecause }]) =>
        notReadyBecause ? [[part, notReadyBecause]] : [],
      );
      await reply.status(notReady.length === 0 ? 200 : 503).send({
        ready: notReady.length === 0,
        ...(notReady.length > 0 && { notReady: notReady.map(([part]) => part) }),
        ...(reasons.length > 0 && { reasons: Object.fromEntries(reasons) }),
      });
    });
    this.server.get('/status', async () => {
      const parts = await this.board.look();
      return { startedAt: this.startedAt, ready: notReadyIn(parts).length === 0, ...parts };
    });
    answerMetrics(this.server, telemetry);
  }

  /** @returns the port that it took, also for 0. Throws StartupError when it cannot listen there. */
  async listen(host: string, port: number): Promise<number> {
    const taken = await listenOn(this.server, host, port, 'MANAGEMENT_PORT');
    new Logger('Management').log(`Answering /livez, /readyz, /status and /metrics on port ${taken}`);
    return taken;
  }

  close(): Promise<void> {
    return this.server.close();
  }
}

function notReadyIn(parts: Record<string, PartStatus>): [part: string, status: PartStatus][] {
  return Object.entries(parts).filter(([, { ready }]) => !ready);
}

/** Answers `/metrics`, and nothing else, on a port of its own, for whoever sets PROMETHEUS_PORT. */
export class PrometheusServer {
  private readonly server = withProblems();

  constructor(telemetry: Pages) {
    answerMetrics(this.server, telemetry);
  }

  /** @returns the port that it took, also for 0. Throws StartupError when it cannot listen there. */
  async listen(host: string, port: number): Promise<number> {
    const taken = await listenOn(this.server, host, port, 'PROMETHEUS_PORT');
    new Logger('Management').log(`Answering /metrics on port ${taken}`);
    return taken;
  }

  close(): Promise<void> {
    return this.server.close();
  }
}

/** How long a request may take to arrive. */
const REQUEST_TIMEOUT_MS = 30_000;

/** A server that says in the form of RFC 9457 what it cannot answer. */
function withProblems(): FastifyInstance {
  const server = fastify({
    forceCloseConnections: true,
    requestTimeout: REQUEST_TIMEOUT_MS,
    frameworkErrors: (error, _, reply) => void tellProblem(reply, error.statusCode ?? 400, error.message),
  });
  const logger = new Logger('Management');
  // Nobody has anything to send here, of whatever type.
  server.addHook('onRequest', async ({ headers }) => void delete headers['content-type']);
  server.removeAllContentTypeParsers();
  server.addContentTypeParser('*', (_request, _body, done) => done(null));
  server.setErrorHandler<FastifyError>(({ statusCode = 500, message, stack }, request, reply) => {
    if (statusCode < 500) return tellProblem(reply, statusCode, message);
    logger.error(`${request.method} ${request.url.split('?')[0]} failed: ${stack ?? message}`);
    return tellProblem(reply, statusCode, 'the log of this process says more');
  });
  const paths = new Set<string>();
  server.addHook('onRoute', ({ path }) => void paths.add(path));
  server.setNotFoundHandler(({ method, url }, reply) => {
    const path = url.split('?')[0] ?? '';
    if (!paths.has(path)) return tellProblem(reply, 404, `there is no ${path}`);
    void reply.header('allow', 'GET, HEAD');
    return tellProblem(reply, 405, `${method} is not possible here, only GET`);
  });
  return server;
}

function tellProblem(reply: FastifyReply, status: number, detail: string): FastifyReply {
  return reply
    .status(status)
    .headers({ 'content-type': 'application/problem+json; charset=utf-8', 'cache-control': 'no-store' })
    .send(JSON.stringify({ title: STATUS_CODES[status], status, detail }));
}

function answerMetrics(server: FastifyInstance, telemetry: Pages): void {
  server.get('/metrics', async (_, reply) => {
    await reply
      .headers({ 'content-type': Telemetry.CONTENT_TYPE, 'cache-control': 'no-store' })
      .send(await telemetry.page());
  });
}

async function listenOn(
  server: FastifyInstance,
  host: string,
  port: number,
  setting: string,
): Promise<number> {
  try {
    await server.listen({ host, port });
  } catch (error) {
    throw listenFailure(error, host, port, setting);
  }
  return (server.server.address() as AddressInfo).port;
}
