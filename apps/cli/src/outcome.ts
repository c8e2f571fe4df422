/** Exit codes. */
export const DONE = 0;
export const FAILED = 1;
export const WRONG_USAGE = 2;

/** It was not called in a way that could work. The message says in a sentence what to do. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** It cannot do what it was called for. The message says in a sentence why, and what to do. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
}

/** `1 environment`, `2 environments`. */
export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${count} ${count === 1 ? noun : plural}`;
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
