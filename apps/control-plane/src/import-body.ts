import type { IncomingMessage } from 'node:http';

import { BadRequestException, PayloadTooLargeException } from '@nestjs/common';
import type { Flag, Segment } from '#libs/domain';
import { z } from 'zod';

/** The content type of what is imported: it may be larger than other bodies, and is read only once its sender is let in. */
export const IMPORT_TYPE = 'application/vnd.ff-relay.bundle+json';

const MOST_BYTES = 256 << 20;
const MOST_ENVIRONMENTS = 10_000;

const NAME = z.string().min(1).max(1024);
const HASH = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in lower-case hex');
const VERSION = z.int().nonnegative().nullish();
const FLAG = z.looseObject({
  feature: NAME,
  project: z.string(),
  environment: z.string(),
  kind: z.enum(['boolean', 'int', 'string', 'json']),
  state: z.enum(['on', 'off']),
  variations: z.array(z.looseObject({ identifier: z.string(), value: z.string() })),
  offVariation: z.string(),
  defaultServe: z.looseObject({ variation: z.string().nullish() }),
  version: VERSION,
});
const SEGMENT = z.looseObject({ identifier: NAME, name: z.string(), version: VERSION });

/** Checked and not rebuilt, so that the order of its keys stays. */
const asItCame = <Entity>(schema: z.ZodType) =>
  z.custom<Entity>().superRefine((entity, context) => {
    for (const { path, message } of schema.safeParse(entity).error?.issues ?? [])
      context.addIssue({ code: 'custom', path, message });
  });

export const IMPORT = z.object({
  account: NAME,
  organization: NAME,
  proxyKey: z.object({ identifier: NAME, hash: HASH, isNew: z.boolean() }),
  replace: z.boolean().default(false),
  environments: z
    .array(
      z.object({
        id: NAME,
        project: NAME.optional(),
        identifier: NAME,
        apiKeys: z.array(HASH),
        flags: z.array(asItCame<Flag>(FLAG)),
        segments: z.array(asItCame<Segment>(SEGMENT)),
      }),
    )
    .min(1)
    .max(MOST_ENVIRONMENTS),
});

/** Reads a body to its end. Throws 400 or 413. */
export async function importBodyIn(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MOST_BYTES) throw new PayloadTooLargeException(`The body has more than ${MOST_BYTES} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch (error) {
    throw new BadRequestException(`The body is no JSON: ${(error as Error).message}`);
  }
}
