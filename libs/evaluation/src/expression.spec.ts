import { describe, expect, it } from '@jest/globals';

import { expression } from './expression.js';

describe('An expression', () => {
  it.each([
    ['b', 'abc', true],
    ['^b', 'abc', false],
    ['', '', true],
    ['^.$', '😀', true],
    ['^.$', '\n', false],
    ['^.$', '\u2028', true],
    ['a$', 'a\n', false],
    ['(?s)a.b', 'a\nb', true],
    ['(?m)^b$', 'a\nb\nc', true],
    ['(?i)ann', 'ANN', true],
    ['(?P<n>a+)b', 'xaab', true],
    [String.raw`\Aa\z`, 'a', true],
    [String.raw`^\d$`, '٣', false],
    [String.raw`^\w$`, 'é', false],
    [String.raw`^\pL+$`, 'Zoë', true],
    [String.raw`^\p{Greek}+$`, 'αβγ', true],
    ['^[[:alpha:]]+$', 'abc', true],
  ])('%s on %j is %s', (pattern, text, found) => {
    expect(expression(pattern)?.(text)).toBe(found);
  });

  it.each(['(', 'a**', '(?=a)', '(?!a)', '(?<=a)b', String.raw`(a)\1`, '[b-a]', 'x{1001}'])(
    '%s is none',
    (pattern) => {
      expect(expression(pattern)).toBeUndefined();
    },
  );

  it.each([
    ['(a+)+$', 'a'.repeat(50_000), true],
    ['^(a+)+$', `${'a'.repeat(50_000)}!`, false],
    ['^(a|a)*$', `${'a'.repeat(50_000)}!`, false],
    ['(.*)*(.*)*=', 'x'.repeat(50_000), false],
    [`${'a?'.repeat(50)}${'a'.repeat(50)}`, 'a'.repeat(50), true],
  ])('%s, which other engines never finish, is answered', (pattern, text, found) => {
    expect(expression(pattern)?.(text)).toBe(found);
  });

  it('matches nothing where the work would be too much, and is refused if it is too long', () => {
    // About 2,700 steps for each letter.
    const costly = expression('(a|b)*a(a|b){900}[c-z]');
    expect(costly?.(`${'a'.repeat(3000)}z`)).toBe(true);
    expect(costly?.(`${'a'.repeat(250_000)}z`)).toBe(false);
    expect(expression('a'.repeat(10_000))?.('a'.repeat(10_000))).toBe(false);
    expect(expression('a'.repeat(10_001))).toBeUndefined();
  });
});
