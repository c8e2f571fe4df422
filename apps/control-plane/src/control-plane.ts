import { type AddressInfo, isIPv6 } from 'node:net';

import { BadRequestException, Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { ServiceLogger } from '#libs/observability';
import { listenFailure } from '#libs/service';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';

import { AccountStream } from './account-stream.js';
import type { ControlPlaneConfig } from './control-plane-config.js';
import { ControlPlaneModule } from './control-plane.module.js';
import { demoData } from './demo-data.js';
import { FlagRegistry } from './flag-registry.js';
import { IMPORT_TYPE } from './import-body.js';

const MIB = 1 << 20;
/** A relay gathers 1 MiB of counts, which are longer in the words of the protocol. */
const BODY_LIMIT_BYTES = 4 * MIB;

/**
 * Starts the control plane and listens. `url` has the port that was taken, also for port 0, and no slash at its end.
 * `app.close()` ends streams and requests, then frees DATA_DIR.
 *
 * Throws StartupError when DATA_DIR or the address cannot be used; nothing is left open then.
 */
export async function startControlPlane(
  config: ControlPlaneConfig,
): Promise<{ readonly app: NestFastifyApplication; readonly url: string }> {
  // Before Nest, which would log a failure with its stack beside the one message that it is worth.
  const stream = new AccountStream();
  const seed = config.demoData ? demoData : undefined;
  const registry = FlagRegistry.open(config.dataDir, seed, (message) => stream.publish(message));
  try {
    const app = await NestFactory.create<NestFastifyApplication>(
      ControlPlaneModule.of(config, registry, stream),
      httpServer(),
      { logger: new ServiceLogger('control-plane', config.logLevel, config.logFormat), abortOnError: false },
    );
    readBodies(app);
    await app.init();
    return { app, url: await listen(app, config) };
  } catch (error) {
    registry.close();
    throw error;
  }
}

function httpServer(): FastifyAdapter {
  return new FastifyAdapter({
    bodyLimit: BODY_LIMIT_BYTES,
    // A token that lists 1000 environments is 52 kB.
    http: { maxHeaderSize: MIB / 2 },
    requestTimeout: 30_000,
    // Flag identifiers have up to 256 characters, each up to three in a URL.
    routerOptions: { maxParamLength: 1024 },
    // A HEAD of a stream would stay open without an end.
    exposeHeadRoutes: false,
    return503OnClosing: true,
    forceCloseConnections: true,
    frameworkErrors: (error: FastifyError, _request: FastifyRequest, reply: FastifyReply) => {
      const status = error.statusCode ?? 400;
      void reply.status(status).send({ code: String(status), message: error.message });
    },
  });
}

/** Admin clients send DELETE with a JSON content type and no body. What is imported is read once it is known who sends it. */
function readBodies(app: NestFastifyApplication): void {
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  fastify.addContentTypeParser(IMPORT_TYPE, (_request, _body, done) => done(null));
  app.useBodyParser('application/json', { bodyLimit: BODY_LIMIT_BYTES }, (_request, body, done) => {
    try {
      done(null, body.length === 0 ? undefined : JSON.parse(body.toString()));
    } catch (error) {
      done(new BadRequestException(`The body is no JSON: ${(error as Error).message}`), undefined);
    }
  });
}

async function listen(app: NestFastifyApplication, { host, port }: ControlPlaneConfig): Promise<string> {
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  try {
    await fastify.listen({ host, port, backlog: 4096 });
  } catch (error) {
    await app.close();
    throw listenFailure(error, host, port, 'CONTROL_PLANE_PORT');
  }
  const { port: taken } = fastify.server.address() as AddressInfo;
  const url = `http://${isIPv6(host) ? `[${host}]` : host}:${taken}`;
  new Logger('ControlPlane').log(`Control plane listens on ${url}`);
  return url;
}
