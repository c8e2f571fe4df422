import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { EntryReader, UnreadableBody } from './entry-reader.js';

/** What a reader makes of a text that arrives in pieces; undefined if it does not take it. */
function read(text: string, cuts: readonly number[] = []) {
  const bytes = Buffer.from(text);
  const lists: Record<string, unknown[]> = {};
  const reader = new EntryReader(['a', 'b'], (list, entries) => (lists[list] ??= []).push(...entries));
  try {
    let from = 0;
    for (const cut of [...cuts.map((each) => each % (bytes.length + 1)), bytes.length].toSorted(
      (a, b) => a - b,
    )) {
      reader.write(bytes.subarray(from, cut));
      from = cut;
    }
    return { rest: reader.end(), lists, tooLong: reader.tooLong };
  } catch (error) {
    if (error instanceof UnreadableBody) return undefined;
    throw error;
  }
}

/** What it should make of it, in the words of JSON.parse. */
function parse(text: string) {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { rest: value, lists: {} };
  const listed = Object.entries(value).filter(([, each]) => Array.isArray(each));
  return {
    rest: { ...value, ...Object.fromEntries(listed.map(([name]) => [name, []])) },
    lists: Object.fromEntries(listed.filter(([name, each]) => ['a', 'b'].includes(name) && each.length > 0)),
  };
}

const name = fc.constantFrom('a', 'b', 'c', '"a"', 'x"a', 'é');
const bulk = fc.dictionary(name, fc.oneof(fc.array(fc.jsonValue()), fc.jsonValue()), { maxKeys: 4 });
const cuts = fc.array(fc.nat(), { maxLength: 6 });
const space = fc.constantFrom(undefined, ' ', '\n\t');

describe('A body that is read as it arrives', () => {
  it('says the same as the whole, however it is cut', () => {
    fc.assert(
      fc.property(fc.oneof(bulk, fc.jsonValue()), space, cuts, (value, indent, at) => {
        const text = JSON.stringify(value, undefined, indent);
        expect(read(text, at)).toEqual({ ...parse(text), tooLong: 0 });
      }),
      { numRuns: 1000 },
    );
  });

  it('is taken if it is JSON, and not otherwise', () => {
    const noise = fc.constantFrom(
      '[',
      ']',
      '{',
      '}',
      ',',
      '"',
      ':',
      '\\',
      ' ',
      '1',
      'null',
      '[]',
      '{}',
      '"a":[',
    );
    fc.assert(
      fc.property(bulk, fc.nat(), fc.nat(3), noise, cuts, (value, place, gone, put, at) => {
        const whole = JSON.stringify(value);
        const from = place % (whole.length + 1);
        const text = whole.slice(0, from) + put + whole.slice(from + gone);
        // A name that stands there twice, or is written in escapes, no SDK sends.
        const wanted = parse(text);
        if (wanted === undefined) expect(read(text, at)).toBeUndefined();
        else expect(read(text, at)).toBeDefined();
      }),
      { numRuns: 3000 },
    );
  });

  it.each([
    '{"a":[,1]}',
    '{"a":[1,]}',
    '{"a":[1,,2]}',
    '{"a":[1}',
    '{"a":[1]]',
    '{"a":[1]} 2',
    ']',
    '',
    '{"a":[',
  ])('is not taken if it is %s, wherever it is cut', (text) => {
    for (let cut = 0; cut <= text.length; cut++) expect(read(text, [cut])).toBeUndefined();
  });

  it('leaves out an entry that is far too long, and takes its neighbours', () => {
    const long = 'x'.repeat(300_000);
    const more = Array.from({ length: 50_000 }, (_, i) => i);
    for (const entries of [[long, 1], [1, long, 2, ...more], [...more, long], [long]]) {
      const kept = entries.filter((entry) => entry !== long);
      const { lists, tooLong } = read(JSON.stringify({ a: entries })) ?? {};
      expect(lists?.['a'] ?? []).toEqual(kept);
      expect(tooLong).toBe(1);
    }
  });

  it.each([
    ['much beside its lists', JSON.stringify({ a: [1], text: 'x'.repeat(70_000) })],
    ['a list as a whole', JSON.stringify(Array.from({ length: 70_000 }, () => 1))],
    ['many lists', `{${Array.from({ length: 200 }, (_, i) => `"x${i}":[]`).join()}}`],
  ])('is refused with %s', (_, text) => {
    expect(read(text)).toBeUndefined();
  });

  it('is held in portions', () => {
    const entry = JSON.stringify({ text: 'x'.repeat(1000) });
    let most = 0;
    const reader = new EntryReader(['a'], (_, entries) => (most = Math.max(most, entries.length)));
    reader.write(Buffer.from(`{"a":[${Array.from({ length: 20_000 }, () => entry).join()}]}`));
    expect(reader.end()).toEqual({ a: [] });
    expect(most).toBeLessThan(100);
  });
});
