/** The words of the OpenFeature Remote Evaluation Protocol (OFREP). They stay in here and in its controller. */
import { type Answer, isAnswered, type Target } from '#libs/evaluation';

import { SdkError } from './sdk-error.js';
import { sdkVersion } from './sdk-payloads.js';

/** A request that is wrong, by OpenFeature's codes. */
export class OfrepFault extends SdkError {
  constructor(
    readonly code: 'PARSE_ERROR' | 'TARGETING_KEY_MISSING' | 'INVALID_CONTEXT' | 'FLAG_NOT_FOUND',
    message: string,
  ) {
    super(code === 'FLAG_NOT_FOUND' ? 404 : 400, message);
  }
}

/**
 * The target in the body of a request: `targetingKey` is its identifier, a `name` that is text its name, and all else
 * are its attributes. Throws OfrepFault.
 */
export function targetInContext(body: string): Target {
  const { context } = parsed(body);
  if (context === undefined || context === null) throw keyMissing();
  if (!isObject(context)) throw new OfrepFault('INVALID_CONTEXT', 'the context is no object');
  const { targetingKey: identifier, name, ...attributes } = context;
  if (identifier === undefined || identifier === null || identifier === '') throw keyMissing();
  if (typeof identifier !== 'string') throw new OfrepFault('INVALID_CONTEXT', 'the targetingKey is no text');
  return { identifier, ...(typeof name === 'string' && { name }), attributes };
}

/** What is said of a flag. */
export interface OfrepEntry {
  /** JSON without the `}}` at its end: the metadata is open for more. */
  readonly text: string;
  readonly hasValue: boolean;
}

/** @param version the flag's */
export function ofrepEntry(answer: Answer, version: number | null | undefined): OfrepEntry {
  const result = resultOf(answer);
  const entry = { key: answer.flag, ...result, metadata: { version: sdkVersion(version) } };
  return { text: JSON.stringify(entry).slice(0, -2), hasValue: 'value' in result };
}

function resultOf(answer: Answer): object {
  if (!isAnswered(answer)) return { errorCode: 'GENERAL', errorDetails: answer.fault };
  const { kind, value: text, variation: variant, reason } = answer;
  const value = valueOf(kind, text);
  if (value !== undefined) return { value, reason, variant };
  const errorDetails = `the flag is of the kind ${kind}, and the value of its variation ${variant} is not`;
  return { errorCode: 'PARSE_ERROR', errorDetails };
}

/** As the Harness SDKs read it; undefined if it is not of that kind. */
function valueOf(kind: string, text: string): unknown {
  switch (kind) {
    case 'boolean':
      return text.toLowerCase() === 'true';
    case 'int':
      return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : undefined;
    case 'json':
      return jsonIn(text);
    default:
      return text;
  }
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parsed(body: string): Record<string, unknown> {
  const value = jsonIn(body);
  if (isObject(value)) return value;
  throw new OfrepFault('PARSE_ERROR', 'the body is no JSON object: { "context": { "targetingKey": … } }');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function keyMissing(): OfrepFault {
  return new OfrepFault(
    'TARGETING_KEY_MISSING',
    'the context has no targetingKey, the identifier of the target',
  );
}
