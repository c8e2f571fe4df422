import { once } from 'node:events';

/** Resolves as the promise does, or with undefined when `end` aborts. */
export async function orEnd<T>(promise: Promise<T>, end: AbortSignal): Promise<T | undefined> {
  if (end.aborted) return undefined;
  const over = new AbortController();
  const ended = once(end, 'abort', { signal: over.signal }).then(
    () => undefined,
    () => undefined,
  );
  try {
    return await Promise.race([promise, ended]);
  } finally {
    over.abort();
  }
}
