import { randomUUID } from 'node:crypto';

import { Logger, type LoggerService, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';

import { RelayConfig } from '#libs/config';
import { expectFreePort, listenFailure } from '#libs/service';

import { EnvironmentViews } from './environment-views.js';
import { SdkErrorFilter } from './sdk-error.js';

/** Browsers send a target of up to 256 KB in a header (reference: the JavaScript SDK). */
const HEADERS_LIMIT_BYTES = 512 * 1024;
const BODY_LIMIT_BYTES = 512 * 1024;
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
 * Runs a module that holds the gateway as a server for SDKs. The port opens only once there is state to serve, so that
 * no SDK learns a wrong answer; resolves then. Throws StartupError when it cannot listen.
 */
export async function serveGateway(root: Type, logs: LoggerService): Promise<NestFastifyApplication> {
  const app = await NestFactory.create<NestFastifyApplication>(root, adapter(), {
    logger: logs,
    abortOnError: false,
  });
  const { host, port } = app.get(RelayConfig);
  app.useGlobalFilters(new SdkErrorFilter());
  app.enableCors({
    origin: '*',
    methods: ['GET', 'HEAD', 'POST', 'OPTIONS'],
    allowedHeaders: SDK_HEADERS,
    maxAge: 600,
  });
  readAnyBodyAsJson(app);
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
    requestIdHeader: 'x-request-id',
    genReqId: () => randomUUID(),
    routerOptions: {
      // A base URL that ends with a slash gives `//client/auth`.
      ignoreDuplicateSlashes: true,
      maxParamLength: 4096,
      // The Go relay takes `;` for `&`.
      querystringParser: (query) => Object.fromEntries(new URLSearchParams(query.replaceAll(';', '&'))),
    },
  });
}

/** SDKs differ in the content type that they name, or name none. */
function readAnyBodyAsJson(app: NestFastifyApplication): void {
  const fastify = app.getHttpAdapter().getInstance();
  fastify.removeAllContentTypeParsers();
  fastify.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, body === '' ? undefined : JSON.parse(body.toString()));
    } catch (error) {
      done(Object.assign(new Error(`the body is not JSON (${String(error)})`), { statusCode: 400 }));
    }
  });
}
