import { PassThrough } from 'node:stream';

import { describe, expect, it } from '@jest/globals';

import { progressOn } from './progress.js';

/** What was written, all of it: one read gives a chunk. */
const output = (stream: PassThrough) => stream.setEncoding('utf8').read(stream.readableLength) as string;

describe('Progress', () => {
  it('is a line every three seconds where no terminal is', () => {
    const stream = new PassThrough();
    let now = 0;
    const progress = progressOn(stream, 'Reading the log', () => now);
    for (const [at, done] of [
      [1000, 100],
      [3000, 333],
      [5900, 400],
      [6500, 999],
    ] as const) {
      now = at;
      progress.at(done, 1000);
    }
    progress.end();
    expect(output(stream)).toBe('Reading the log: 33 % (333 of 1000)\nReading the log: 99 % (999 of 1000)\n');
  });

  it('is a bar on a terminal', () => {
    const terminal = Object.assign(new PassThrough(), {
      isTTY: true,
      columns: 120,
      cursorTo: () => true,
      clearLine: () => true,
      moveCursor: () => true,
    });
    const progress = progressOn(terminal, 'Reading the log');
    progress.at(500, 1000);
    progress.end();
    expect(output(terminal)).toMatch(/Reading the log █+░+ 50 % \(500 of 1000\)/);
  });
});
