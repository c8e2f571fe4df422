import {
  type ArgumentsHost,
  BadRequestException,
  Catch,
  type ExceptionFilter,
  HttpException,
  Logger,
} from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';

/** Reads what a caller sent. Throws 400 with every fault, each with the name of its field. */
export function validated<Schema extends z.ZodType>(schema: Schema, sent: unknown): z.infer<Schema> {
  const read = schema.safeParse(sent);
  if (read.success) return read.data;
  throw new BadRequestException(faultsIn(read.error).join('; '));
}

/** What is wrong with something that was sent at `place`, each fault with the name of its field. */
export const faultsIn = (error: z.ZodError, ...place: PropertyKey[]) =>
  error.issues.map(
    ({ path, message }) => `${[...place, ...path].map(String).join('.') || 'body'}: ${message}`,
  );

/** A whole number in a query. */
export const queryNumber = (least: number, most: number, standard: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/, 'must be a whole number')
    .default(String(standard))
    .transform(Number)
    .pipe(z.number().min(least).max(most));

/** One page of a list, with the paging fields of both APIs. Pages count from 0. */
export function pageOf<Item>(items: readonly Item[], pageIndex: number, pageSize: number) {
  return {
    items: items.slice(pageIndex * pageSize, (pageIndex + 1) * pageSize),
    paging: { itemCount: items.length, pageCount: Math.ceil(items.length / pageSize), pageIndex, pageSize },
  };
}

/** Answers every failure as `{"code": "404", "message": "…"}`: both strings, as SDKs and admin clients read them. */
@Catch()
export class ErrorAnswer implements ExceptionFilter {
  private readonly logger = new Logger(ErrorAnswer.name);

  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const reply = http.getResponse<FastifyReply>();
    const status = statusOf(error);
    if (status === 500) {
      const { method, routeOptions } = http.getRequest<FastifyRequest>();
      this.logger.error(
        `${method} ${routeOptions.url} failed`,
        error instanceof Error ? error.stack : String(error),
      );
    }
    if (status === 503) void reply.header('retry-after', '1');
    void reply.status(status).send({ code: String(status), message: messageOf(error, status) });
  }
}

/** Nest's exceptions say their status one way, Fastify's another. */
function statusOf(error: unknown): number {
  if (error instanceof HttpException) return error.getStatus();
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : 500;
}

function messageOf(error: unknown, status: number): string {
  if (status === 500) return 'The control plane failed to answer. Its log says why';
  return (error as Error).message;
}
