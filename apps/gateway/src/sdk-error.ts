import { type ArgumentsHost, Catch, type ExceptionFilter, HttpException, Logger } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';

/**
 * An answer that is no success, in the shape that every SDK can read: `error` for those of the Go relay, `code` and
 * `message`, both text, for the others.
 */
export class SdkError extends HttpException {
  constructor(
    status: number,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message, status);
  }
}

export function errorBody(status: number, message: string): object {
  return { error: message, code: String(status), message };
}

const SDK_ROUTES: readonly (readonly [RegExp, string])[] = [
  [/^\/client\/auth$/, 'POST, OPTIONS'],
  [/^\/client\/env\/[^/]+\/(feature-configs|target-segments)(\/[^/]+)?$/, 'GET, HEAD, OPTIONS'],
  [/^\/client\/env\/[^/]+\/target\/.+\/evaluations(\/[^/]+)?$/, 'GET, HEAD, OPTIONS'],
  [/^\/ofrep\/v1\/evaluate\/flags(\/[^/]+)?$/, 'POST, OPTIONS'],
  [/^\/metrics\/[^/]+$/, 'POST, OPTIONS'],
  [/^\/(stream|health|metrics|ofrep\/v1\/events)$/, 'GET, HEAD, OPTIONS'],
];

@Catch()
export class SdkErrorFilter implements ExceptionFilter {
  private readonly logger = new Logger('Gateway');

  catch(exception: unknown, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    const { status, message, headers } = this.answerTo(exception, request);
    // Fastify would cut the connection under a body that is too large, and so its sender would never read why. Node reads
    // on, and throws it away, for as long as a request may take.
    if (status === 413) void reply.removeHeader('connection');
    void reply
      .status(status)
      .headers({ 'cache-control': 'no-store', ...headers })
      .send(this.bodyOf(exception, request, status, message));
  }

  protected bodyOf(_exception: unknown, _request: FastifyRequest, status: number, message: string): object {
    return errorBody(status, message);
  }

  private answerTo(exception: unknown, { method, url }: FastifyRequest) {
    if (exception instanceof SdkError) {
      return { status: exception.getStatus(), message: exception.message, headers: exception.headers };
    }
    const status = statusOf(exception);
    if (status === 404) {
      const path = url.split('?')[0]?.replaceAll(/\/{2,}/g, '/') ?? '';
      const allow = SDK_ROUTES.find(([route]) => route.test(path))?.[1];
      if (allow)
        return { status: 405, message: `${method} is not possible here, only ${allow}`, headers: { allow } };
      return { status, message: `not found: ${method} ${path}`, headers: {} };
    }
    if (status === 413) return { status, message: 'the body is larger than this relay takes', headers: {} };
    if (status < 500) return { status, message: `bad request: ${textOf(exception)}`, headers: {} };
    this.logger.error(
      `${method} ${url.split('?')[0]} failed: ${exception instanceof Error ? exception.stack : String(exception)}`,
    );
    return { status: 500, message: 'internal error: the log of the relay says more', headers: {} };
  }
}

/** Nest's exceptions and Fastify's errors know their status; what does not is our fault. */
function statusOf(exception: unknown): number {
  if (exception instanceof HttpException) return exception.getStatus();
  const { statusCode } = (exception ?? {}) as { statusCode?: unknown };
  return typeof statusCode === 'number' ? statusCode : 500;
}

function textOf(exception: unknown): string {
  return exception instanceof Error ? exception.message : 'it cannot be understood';
}
