import { styleText } from 'node:util';

import { DONE, FAILED } from './outcome.js';

export type Style = 'green' | 'red' | 'yellow' | 'cyan' | 'dim' | 'bold';

/** Text in a colour, where a terminal shows it and NO_COLOR does not forbid it. */
export type Paint = (style: Style, text: string) => string;

export function paintFor(stream: NodeJS.WritableStream): Paint {
  return (style, text) => styleText(style, text, { stream });
}

/** Text of strangers, with no character that would move the cursor or colour the screen. */
export function printable(text: string): string {
  return text.replaceAll(
    /[\p{Cc}\p{Cf}\u2028\u2029]/gu,
    (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`,
  );
}

/** A line of standard output. A reader that has enough (`| head`) ends the command without a word. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(DONE);
  console.error(`Standard output cannot be written: ${error.message}.`);
  process.exit(FAILED);
});

const UNITS: readonly [ms: number, name: string][] = [
  [24 * 3600 * 1000, 'day'],
  [3600 * 1000, 'h'],
  [60_000, 'min'],
  [1000, 's'],
];

/** A span of time, roughly: `3 min`, `2 days`. */
export function span(ms: number): string {
  const [unit, name] = UNITS.find(([unit]) => ms >= unit) ?? [1000, 's'];
  const count = Math.floor(Math.max(0, ms) / unit);
  return `${count} ${name === 'day' && count !== 1 ? 'days' : name}`;
}
