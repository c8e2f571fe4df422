import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { attributeText, folded, isAfter } from './target.js';

const textOf = (value: unknown): string =>
  attributeText({ identifier: 'user-1', attributes: { value } }, 'value');

describe('The text of an attribute', () => {
  it.each([
    ['as it is', ' a\u0000b ', ' a\u0000b '],
    ['with U+FFFD for half a character', 'a\ud83d', 'a\ufffd'],
    ['true', true, 'true'],
    ['false', false, 'false'],
    ['0', 0, '0'],
    ['3', 3.0, '3'],
    ['-0', -0, '-0'],
    ['0.1', 0.1, '0.1'],
    ['no exponent, however large', 1.5e300, `15${'0'.repeat(299)}`],
    ['the shortest digits', 123456789012345680000, '123456789012345680000'],
    ['no exponent, however small', -1.25e-9, '-0.00000000125'],
    ['the smallest number', 5e-324, `0.${'0'.repeat(323)}5`],
    ['NaN', NaN, 'NaN'],
    ['an overflow', -Infinity, '-Inf'],
    ['null', null, ''],
    ['undefined', undefined, ''],
    ['a function', () => 1, ''],
    ['an empty list', [], '[]'],
    ['a list', ['a', true, null, 1], '[a true <nil> 1]'],
    ['a list in a list', [['a'], []], '[[a] []]'],
    ['an object in a list, by its sorted keys', [{ b: 1, a: { c: 'x' } }], '[map[a:map[c:x] b:1]]'],
    ['large numbers in a list', [999999, 1e6, 123456789, -1e21], '[999999 1e+06 1.23456789e+08 -1e+21]'],
    ['small numbers in a list', [0.0001, 0.00001, 1.5e-100], '[0.0001 1e-05 1.5e-100]'],
    [
      'an object, with HTML escaped',
      { b: '<&>\u2028', a: [1e21] },
      '{"b":"\\u003c\\u0026\\u003e\\u2028","a":[1e+21]}',
    ],
  ])('is %s', (_, value, text) => {
    expect(textOf(value)).toBe(text);
  });

  it('is missing for what nests too deeply, or in a circle', () => {
    const circle: unknown[] = [];
    circle.push(circle);
    let deep: unknown = 'x';
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect([textOf(circle), textOf({ circle }), textOf(deep)]).toEqual(['', '', '']);
  });

  it('is missing where there are no attributes', () => {
    for (const attributes of [undefined, null, {}]) {
      expect(attributeText({ identifier: 'user-1', attributes }, 'plan')).toBe('');
    }
  });
});

describe('The order of texts', () => {
  it('is that of their UTF-8 bytes', () => {
    const text = fc.string({
      unit: fc.constantFrom('a', 'b', 'é', '\ud7ff', '\ue000', 'ﬀ', '\uffff', '😀', '𐀀'),
    });
    fc.assert(
      fc.property(text, text, (a, b) => {
        expect(isAfter(a, b)).toBe(Buffer.compare(Buffer.from(a), Buffer.from(b)) > 0);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('Folding', () => {
  it('makes two characters one if and only if Unicode does, as of the version that Go knows', () => {
    const cased: string[] = [];
    for (let point = 0; point < 0x110000; point++) {
      if (point >= 0xd800 && point < 0xe000) continue;
      const character = String.fromCodePoint(point);
      if (character.toLowerCase() !== character || character.toUpperCase() !== character) {
        cased.push(character);
      } else if (folded(character) !== character) {
        throw new Error(`U+${point.toString(16)} has no case`);
      }
    }
    const text = cased.join('');
    const classes = Map.groupBy(cased, folded);
    const differences = cased.filter((character) => {
      const pattern = new RegExp(`\\u{${character.codePointAt(0)?.toString(16)}}`, 'giu');
      return classes.get(folded(character))?.join('') !== text.match(pattern)?.join('');
    });
    // Unicode 15.1 made these three pairs one.
    expect(differences).toEqual(['\u0390', '\u03b0', '\u1fd3', '\u1fe3', '\ufb05', '\ufb06']);
  });

  it('takes no letter for two', () => {
    expect(folded('STRASSE')).not.toBe(folded('straße'));
    expect([folded('ẞ'), folded('ΣΊΣΥΦΟΣ'), folded('K')]).toEqual([folded('ß'), folded('σίσυφος'), 'k']);
  });
});
