import { isUtf8 } from 'node:buffer';

import { z } from 'zod';

/** As they came: a record of zod's would lose one that is called `__proto__`. */
const attributes = z.custom<Readonly<Record<string, unknown>>>(isObject, 'Invalid input: expected an object');

/** Whom an SDK evaluates flags for, as it says so at sign-in and with each request. */
export const sdkTarget = z.looseObject({
  identifier: z.string().min(1).max(1024),
  name: z.string().max(1024).nullish(),
  anonymous: z.boolean().nullish(),
  attributes: attributes.nullish(),
});

export type SdkTarget = z.infer<typeof sdkTarget>;

/** The target of a sign-in, if it names one: SDKs of .NET sign in with one whose identifier is empty. */
export const signInTarget = z.preprocess(
  (target) => (namesNobody(target) ? undefined : target),
  sdkTarget.nullish(),
);

function namesNobody(target: unknown): boolean {
  if (!isObject(target)) return false;
  const { identifier } = target;
  return identifier === undefined || identifier === null || identifier === '';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Halves of a character beyond 16 bits, each written as if it were a character, as SDKs in browsers do. */
const HALVES = /\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])/g;

/** The target in a header Harness-Target: JSON in base64. Undefined if it is none. */
export function targetIn(header: string): SdkTarget | undefined {
  try {
    return sdkTarget.safeParse(JSON.parse(textIn(Buffer.from(header, 'base64')))).data;
  } catch {
    return undefined;
  }
}

function textIn(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString();
  const joined = bytes.toString('latin1').replaceAll(HALVES, (_, ...halves: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = halves.slice(0, 4).map((half) => half.charCodeAt(0) & 0x3f);
    const character = String.fromCharCode(0xd000 + (a << 6) + b, 0xd000 + (c << 6) + d);
    return Buffer.from(character).toString('latin1');
  });
  return Buffer.from(joined, 'latin1').toString();
}
