import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';

import { Logger, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

import type { RelayConfig } from '#libs/config';
import { ServiceLogger } from '#libs/observability';
import { expectFreePort, listenFailure, processOf } from '#libs/service';

import { EnvironmentViews } from './environment-views.js';
import { errorBody, SdkErrorFilter } from './sdk-error.js';

/** Browsers send a target of up to 256 KB in a header (reference: the JavaScript SDK). */
const HEADERS_LIMIT_BYTES = 512 * 1024;
const BODY_LIMIT_BYTES = 512 * 1024;
const METRICS_ROUTE = '/metrics/:environment';
const UNREAD = 'application/x-unread';
/** For a request to arrive with its body. */
const REQUEST_TIMEOUT_MS = 60_000;
/** What SDKs in browsers ask leave for before they send it; `*` would not cover Authorization. */
const SDK_HEADERS = [
  'accept',
  'api-key',
  'authorization',
  'cache-control',
  'content-type',
  'harness-accountid',
  'harness-environmentid',
  'harness-sdk-applicationid',
  'harness-sdk-info',
  'harness-target',
  'last-event-id',
  'x-request-id',
];
/** Room for whole fleets that reconnect at once. */
const BACKLOG = 4096;
/** How long the first state may take before the log says what is missing. */
const PATIENCE_MS = 3000;

/**
 * Runs roles that the gateway is among as a server for SDKs. The port opens only once there is state to serve, so that
 * no SDK learns a wrong answer; resolves then. Throws StartupError when it cannot listen.
 */
export async function serveGateway(
  name: string,
  config: RelayConfig,
  roles: readonly Type[],
): Promise<NestFastifyApplication> {
  const app = await NestFactory.create<NestFastifyApplication>(processOf(config, roles), adapter(), {
    logger: new ServiceLogger(name, config.logLevel, config.logFormat),
    abortOnError: false,
    bodyParser: false,
  });
  const { host, port } = config;
  app.useGlobalFilters(new SdkErrorFilter());
  app.enableCors({
    origin: '*',
    methods: ['GET', 'HEAD', 'POST', 'OPTIONS'],
    allowedHeaders: SDK_HEADERS,
    maxAge: 600,
    strictPreflight: false,
  });
  readBodies(app);
  finishAnswersAtTheEnd(app);
  app
    .getHttpAdapter()
    .getInstance()
    .addHook('onRequest', (request, reply, next) => {
      void reply.header('x-request-id', request.id);
      next();
    });

  await expectFreePort(host, port, 'PORT');
  await app.init();
  const logger = new Logger('Gateway');
  const impatience = setTimeout(
    () =>
      logger.warn(
        'Nothing to serve yet, so the port stays closed: the upstream has not told anything so far',
      ),
    PATIENCE_MS,
  );
  await app.get(EnvironmentViews).complete;
  clearTimeout(impatience);
  try {
    await app.listen({ host, port, backlog: BACKLOG });
  } catch (error) {
    throw listenFailure(error, host, port, 'PORT');
  }
  logger.log(`Serving SDKs on ${await app.getUrl()}`);
  return app;
}

function adapter(): FastifyAdapter {
  return new FastifyAdapter({
    http: { maxHeaderSize: HEADERS_LIMIT_BYTES },
    bodyLimit: BODY_LIMIT_BYTES,
    forceCloseConnections: true,
    requestTimeout: REQUEST_TIMEOUT_MS,
    requestIdHeader: 'x-request-id',
    genReqId: () => randomUUID(),
    // Paths that no route can be looked for: no hook runs for them.
    frameworkErrors: (
      { statusCode = 400, message }: FastifyError,
      { id }: FastifyRequest,
      reply: FastifyReply,
    ) =>
      void reply
        .status(statusCode)
        .headers({ 'access-control-allow-origin': '*', 'x-request-id': id, 'cache-control': 'no-store' })
        .send(errorBody(statusCode, `bad request: ${message}`)),
    routerOptions: {
      // A base URL that ends with a slash gives `//client/auth`.
      ignoreDuplicateSlashes: true,
      maxParamLength: 4096,
      // The Go relay takes `;` for `&`.
      querystringParser: (query) => Object.fromEntries(new URLSearchParams(query.replaceAll(';', '&'))),
    },
  });
}

/** SDKs differ in the content type that they name, or name none; so it is the route that says how a body is read. */
function readBodies(app: NestFastifyApplication): void {
  const fastify = app.getHttpAdapter().getInstance();
  fastify.addHook('onRequest', (request, _reply, next) => {
    request.headers['content-type'] =
      request.routeOptions.url === METRICS_ROUTE ? UNREAD : 'application/json';
    next();
  });
  fastify.removeAllContentTypeParsers();
  // Megabytes are read by whoever answers, once it is known who sends them.
  fastify.addContentTypeParser(UNREAD, (_request, _body, done) => done(null));
  fastify.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, body === '' ? undefined : JSON.parse(body.toString()));
    } catch (error) {
      done(Object.assign(new Error(`the body is not JSON (${String(error)})`), { statusCode: 400 }));
    }
  });
}

/**
 * Answers that are under way are finished before the server closes, which would cut what is not yet sent. How long that
 * may take is the business of whoever stops the process.
 */
function finishAnswersAtTheEnd(app: NestFastifyApplication): void {
  const fastify = app.getHttpAdapter().getInstance();
  const underWay = new Set<ServerResponse>();
  fastify.server.on('request', (_request, response: ServerResponse) => {
    underWay.add(response);
    response.once('close', () => underWay.delete(response));
  });
  fastify.addHook('preClose', async () => {
    await Promise.all([...underWay].map((response) => once(response, 'close')));
  });
}
