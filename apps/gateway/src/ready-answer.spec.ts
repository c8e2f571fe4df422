import { randomBytes } from 'node:crypto';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';

import { describe, expect, it } from '@jest/globals';

import { ReadyAnswer } from './ready-answer.js';

const text = Buffer.from(JSON.stringify(Array.from({ length: 1000 }, (_, i) => `flag-${i}`)));

describe('An answer that is ready', () => {
  it('is compressed once for all who ask, also while it is being done', async () => {
    const answer = new ReadyAnswer(text);
    const together = await Promise.all(Array.from({ length: 10 }, () => Promise.resolve(answer.in('br'))));
    expect(new Set([...together, await answer.in('gzip, br')]).size).toBe(1);
    expect(brotliDecompressSync(together[0]?.bytes ?? Buffer.alloc(0))).toEqual(text);
    expect(gunzipSync((await answer.in('gzip')).bytes)).toEqual(text);
    expect((await answer.in(undefined)).bytes).toBe(text);
  });

  it('has the tags that other gateways give the same content', async () => {
    const [one, same] = [new ReadyAnswer(text), new ReadyAnswer(Buffer.from(text))];
    for (const accepted of ['', 'gzip', 'br']) {
      expect((await one.in(accepted)).tag).toBe((await same.in(accepted)).tag);
    }
    const other = new ReadyAnswer(Buffer.from(text.toString().replace('flag-7"', 'flag-8"')));
    expect((await other.in('')).tag).not.toBe((await one.in('')).tag);
  });

  it('is sent as it is while it is small', async () => {
    expect((await new ReadyAnswer(Buffer.alloc(2047)).in('br')).encoding).toBeUndefined();
    expect((await new ReadyAnswer(Buffer.alloc(2048)).in('br')).encoding).toBe('br');
  });

  it('reads an Accept-Encoding of any length in no time', async () => {
    const answer = new ReadyAnswer(text);
    expect((await answer.in(`br, ${'x;q=0.5,'.repeat(50_000)}`)).encoding).toBe('br');
    expect((await answer.in(randomBytes(100_000).toString('latin1'))).encoding).toBeUndefined();
  });
});
