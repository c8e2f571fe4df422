import cluster from 'node:cluster';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import { Server as NetServer } from 'node:net';
import type { Duplex } from 'node:stream';

import cors from '@fastify/cors';
import { Logger, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

import type { RelayConfig, TlsFiles } from '#libs/config';
import { ServiceLogger, StatusBoard, Telemetry } from '#libs/observability';
import { expectFreePort, listenFailure, processOf, tellRemarks, workerOf } from '#libs/service';

import { EnvironmentViews } from './environment-views.js';
import { GatewayTelemetry } from './gateway-telemetry.js';
import { GatewayWorker } from './gateway-worker.js';
import { GatewayWorkers } from './gateway-workers.js';
import { errorBody, SdkError, SdkErrorFilter } from './sdk-error.js';

/** Routes whose bodies are read by whoever answers. */
const READ_LATER = new Set([
  '/metrics/:environment',
  '/ofrep/v1/evaluate/flags',
  '/ofrep/v1/evaluate/flags/:key',
]);
const UNREAD = 'application/x-unread';
/** How often Node looks for requests that take too long to arrive, at most. */
const LOOK_FOR_SLOW_ONES_MS = 5000;
const REQUEST_ID = /^[\x20-\x7e]{1,200}$/;
/** For a refused sender to read why. */
const LINGER_MS = 1000;
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
  'if-none-match',
  'last-event-id',
  'x-api-key',
  'x-request-id',
];
/** What scripts in browsers may read of an answer, beside what they always may. */
const EXPOSED_HEADERS = ['etag', 'ff-data-age', 'ff-position', 'retry-after', 'x-request-id'];
/** Room for whole fleets that reconnect at once. */
const BACKLOG = 4096;
/** How long the first state may take before the log says what is missing. */
const PATIENCE_MS = 3000;

/** The same on as many cores as the settings say, by this process or by workers of it. Throws StartupError. */
export async function serveOnCores(
  name: string,
  config: RelayConfig,
  roles: readonly Type[],
): Promise<{ close(): Promise<void> }> {
  const starts = config.gatewayWorkers > 1 && cluster.isPrimary;
  return starts ? GatewayWorkers.start(name, config) : serveGateway(name, config, roles);
}

/**
 * Runs roles that the gateway is among as a server for SDKs. The port opens only once there is state to serve, so that
 * no SDK learns a wrong answer; resolves then. Throws StartupError when it cannot listen.
 */
export async function serveGateway(
  name: string,
  config: RelayConfig,
  roles: readonly Type[],
): Promise<NestFastifyApplication> {
  const worker = await GatewayWorker.join();
  const parts = worker ? workerOf(config, roles) : processOf(config, roles);
  const app = await NestFactory.create<NestFastifyApplication>(parts, adapter(config), {
    logger: new ServiceLogger(worker ? `${name}/${worker.number}` : name, config.logLevel, config.logFormat),
    abortOnError: false,
    bodyParser: false,
    ...(config.tls && { httpsOptions: config.tls.current }),
  });
  if (!worker) tellRemarks(config);
  const { host, port } = config;
  app.useGlobalFilters(new SdkErrorFilter());
  // Not by Nest, which writes these to Node's response too: that takes a slow path then for all headers of an answer.
  await app
    .getHttpAdapter()
    .getInstance()
    .register(cors, {
      origin: '*',
      methods: ['GET', 'HEAD', 'POST', 'OPTIONS'],
      allowedHeaders: SDK_HEADERS.join(', '),
      exposedHeaders: EXPOSED_HEADERS.join(', '),
      maxAge: 600,
      strictPreflight: false,
    });
  readBodies(app);
  if (config.tls) replaceCertificates(app, config.tls);
  finishAnswersAtTheEnd(app);
  answerWhateverIsExpected(app);
  app
    .getHttpAdapter()
    .getInstance()
    .addHook('onRequest', (request, reply, next) => {
      void reply.header('x-request-id', request.id);
      next(faultOf(request.raw, config.urlLimitBytes));
    });

  app.get(GatewayTelemetry).watch(app.getHttpAdapter().getInstance());

  if (!worker) await expectFreePort(host, port, 'PORT');
  await app.init();
  worker?.show(app.get(StatusBoard, { strict: false }), app.get(Telemetry, { strict: false }));
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
  await worker?.loaded();
  try {
    await app.listen({ host, port, backlog: BACKLOG });
  } catch (error) {
    throw listenFailure(error, host, port, 'PORT');
  }
  if (worker) await worker.serving(await app.getUrl());
  else logger.log(`Serving SDKs on ${await app.getUrl()}`);
  return app;
}

function adapter({
  headerLimitBytes,
  authBodyLimitBytes,
  requestTimeoutMs,
  tls,
}: RelayConfig): FastifyAdapter {
  const http = {
    maxHeaderSize: headerLimitBytes,
    headersTimeout: requestTimeoutMs,
    connectionsCheckingInterval: Math.min(LOOK_FOR_SLOW_ONES_MS, requestTimeoutMs / 2),
    // Node would refuse those without one itself, with nothing in its answer.
    requireHostHeader: false,
  };
  const { cert, key } = tls?.current ?? {};
  return new FastifyAdapter({
    ...(tls ? { https: { ...http, cert, key, handshakeTimeout: requestTimeoutMs } } : { http }),
    bodyLimit: authBodyLimitBytes,
    forceCloseConnections: true,
    // What still comes on connections that are open is answered, and ends them.
    return503OnClosing: false,
    requestTimeout: requestTimeoutMs,
    clientErrorHandler: refuseUnread,
    requestIdHeader: false,
    genReqId: ({ headers }: IncomingMessage) => {
      const given = headers['x-request-id'];
      // It is sent back, so it must not be what a header cannot carry, nor half a megabyte.
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
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
      // A target's identifier of 1,024 characters, each written as nine.
      maxParamLength: 10_000,
      // The Go relay takes `;` for `&`.
      querystringParser: (query) =>
        query === '' ? {} : Object.fromEntries(new URLSearchParams(query.replaceAll(';', '&'))),
    },
  });
}

/** New connections see new certificates, and those that are open go on with theirs. */
function replaceCertificates(app: NestFastifyApplication, files: TlsFiles): void {
  const server = app.getHttpServer() as unknown as HttpsServer;
  files.watch(({ cert, key }) => server.setSecureContext({ cert, key }));
  app
    .getHttpAdapter()
    .getInstance()
    .addHook('onClose', async () => files.close());
}

/** SDKs differ in the content type that they name, or name none; so it is the route that says how a body is read. */
function readBodies(app: NestFastifyApplication): void {
  const fastify = app.getHttpAdapter().getInstance();
  fastify.addHook('onRequest', (request, _reply, next) => {
    request.headers['content-type'] = READ_LATER.has(request.routeOptions.url ?? '')
      ? UNREAD
      : 'application/json';
    next();
  });
  fastify.removeAllContentTypeParsers();
  // Nothing is kept before it is known who sends it.
  fastify.addContentTypeParser(UNREAD, (_request, _body, done) => done(null));
  fastify.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, body === '' ? undefined : JSON.parse(body.toString()));
    } catch (error) {
      done(Object.assign(new Error(`the body is not JSON (${String(error)})`), { statusCode: 400 }));
    }
  });
}

/** What is wrong with a request wherever it goes. */
function faultOf(
  { url = '', httpVersion, headers }: IncomingMessage,
  urlLimitBytes: number,
): SdkError | undefined {
  if (url.length > urlLimitBytes) return new SdkError(414, `the URL is longer than ${urlLimitBytes} bytes`);
  // RFC 9112, section 3.2.
  if (httpVersion === '1.1' && headers.host === undefined)
    return new SdkError(400, 'bad request: it has no Host header');
  return undefined;
}

/** Whoever expects what Node does not know gets an answer like all others, and not the empty 417 that is Node's. */
function answerWhateverIsExpected(app: NestFastifyApplication): void {
  const { server } = app.getHttpAdapter().getInstance();
  server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) =>
    server.emit('request', request, response),
  );
}

/** The answer that a connection last began; of connections that are open. */
const answers = new WeakMap<Duplex, ServerResponse>();
const refused = new WeakSet<Duplex>();

/** Answers what no route gets to see: headers that are too large, requests that come too slowly, what is no HTTP. */
function refuseUnread({ code }: NodeJS.ErrnoException, socket: Duplex): void {
  // Each further byte of it is an error again.
  if (refused.has(socket)) return;
  refused.add(socket);
  const answer = answers.get(socket);
  const isAnswering = answer?.headersSent && !answer.writableFinished;
  // Without a handshake there is nothing to answer on.
  const isNoTls = /^ERR_(SSL|TLS)_/.test(code ?? '');
  if (code === 'ECONNRESET' || !socket.writable || isAnswering || isNoTls) {
    socket.destroy();
    return;
  }
  const [status, message] = UNREAD_REFUSALS[code ?? ''] ?? ([400, 'bad request: this is no HTTP'] as const);
  const body = JSON.stringify(errorBody(status, message));
  socket.end(
    [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      'content-type: application/json; charset=utf-8',
      `content-length: ${Buffer.byteLength(body)}`,
      'cache-control: no-store',
      'access-control-allow-origin: *',
      'connection: close',
      '',
      body,
    ].join('\r\n'),
  );
  // Whoever is still sending would lose the answer if the connection were cut at once.
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}

const UNREAD_REFUSALS: Readonly<Record<string, readonly [status: number, message: string]>> = {
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'the request did not arrive in time'],
  HPE_HEADER_OVERFLOW: [431, 'the headers are larger than this relay takes'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, 'the chunks of the body have larger extensions than this relay takes'],
};

/**
 * Answers that are under way are finished before the server closes, which would cut what is not yet sent. How long that
 * may take is the business of whoever stops the process.
 */
function finishAnswersAtTheEnd(app: NestFastifyApplication): void {
  const fastify = app.getHttpAdapter().getInstance();
  const underWay = new Set<ServerResponse>();
  fastify.server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    answers.set(socket, response);
    underWay.add(response);
    response.once('close', () => underWay.delete(response));
  });
  fastify.addHook('preClose', async () => {
    // Nobody new; and who asks again on a connection that is open is told that it ends. The close of HTTP servers would
    // cut answers that were written and are not sent yet.
    NetServer.prototype.close.call(fastify.server);
    while (underWay.size > 0) await Promise.all([...underWay].map((response) => once(response, 'close')));
  });
}
