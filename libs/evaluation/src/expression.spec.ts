import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { RE2JS } from 're2js';

import { Expressions } from './expression.js';

const expression = (pattern: string) => new Expressions().of(pattern);

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

  it('matches nothing where the work would be too much', () => {
    // About 1,000 steps for each letter.
    const costly = expression('(a|b)*a(a|b){300}[c-z]');
    expect(costly?.(`${'a'.repeat(3000)}z`)).toBe(true);
    expect(costly?.(`${'a'.repeat(250_000)}z`)).toBe(false);
    expect(expression('a'.repeat(1000))?.('a'.repeat(11_000))).toBe(false);
  });

  it.each([
    ['of more than 1,000 characters', 'a'.repeat(1001)],
    ['of a class that is repeated often', String.raw`\pL{1000}`],
    ['of repetitions one after another', 'a{900}b{900}c{900}'],
    ['of repetitions in one another', '(?:(?:a{0,9}bc){0,9}d){0,12}'],
    ['of groups that are repeated', '(a|bc){1000}'],
    ['of a group whose end is hidden from what repeats it', String.raw`((?i)(abcd[)])\Q\E{1000})`],
    ['of flags between a group and what repeats it', '(abcd)(?i){1000}'],
    ['of many Unicode classes', String.raw`\pL`.repeat(101)],
    ['of one class with many in it', String.raw`[${String.raw`\PL`.repeat(101)}]`],
    ['of many ranges without regard to case', `(?i)[${'b-\u{1e8ff}'.repeat(5)}]`],
    ['of such that are written in digits', `(?s-U)(?mi)${String.raw`[\x{41}-\x{1e8ff}]`.repeat(5)}`],
  ])('%s is too large, though RE2 would take it', (_, pattern) => {
    expect(() => RE2JS.compile(pattern)).not.toThrow();
    expect(expression(pattern)).toBeUndefined();
  });

  it.each([
    ['of 1,000 characters', 'a'.repeat(1000)],
    ['of one that is repeated 1,000 times', 'a{1000}'],
    ['of a length', '^.{1,255}$'],
    ['of a name', String.raw`^[\p{L}\p{M}\p{N} '-]{1,64}$`],
    ['of a name in Chinese or Russian', String.raw`(?i)^[\x{4e00}-\x{9fa5}а-яё]{2,30}$`],
    ['of an id', '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'],
    ['of an address', String.raw`(?i)^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$`],
    ['of a host', String.raw`^(?:[a-z0-9-]{1,63}\.){1,10}[a-z]{2,}$`],
    ['of repetitions that are quoted', String.raw`\Q${'(a){1000}'.repeat(100)}\E`],
    ['of characters of a class that look like repetitions', `[${'(a){1000}'.repeat(100)}]`],
  ])('%s is taken', (_, pattern) => {
    expect(expression(pattern)).toBeDefined();
  });

  it('has at most 2,500 instructions if it is taken, and matches what its engine says', () => {
    const atoms = String.raw`a é 😀 . ^ | { } () (?i) (?-i) []a] [^]a] [[:alpha:]x] [)] [(] [(a){9}] [\]a(] \( \) \[ \b
      \pL \P{^Lu} [\pL\d_-] \x{41} \Qa(b\E \Q)\E \Q\E \Qz \E`;
    const atom = fc.constantFrom(...atoms.split(/\s+/));
    const repeated = fc.constantFrom('', '', '', '*', '+?', '{3}', '{2,}', '{0,5}', '{0}', '{40}', '{0,900}');
    const { pattern } = fc.letrec<{ part: string; pattern: string }>((tie) => ({
      part: fc.oneof(
        { maxDepth: 4 },
        atom,
        fc
          .tuple(fc.constantFrom('(', '(?:', '(?i:', '(?P<n>'), tie('pattern'))
          .map(([open, p]) => `${open}${p})`),
      ),
      pattern: fc
        .array(fc.tuple(tie('part'), repeated), { minLength: 1, maxLength: 4 })
        .map((parts) => parts.flat().join('')),
    }));
    const texts = ['', 'a', 'aaa', 'A(b', 'Zoë', '{', 'z😀', '\n'];
    fc.assert(
      fc.property(pattern, (pattern) => {
        const taken = expression(pattern);
        if (!taken) return;
        const engine = RE2JS.compile(pattern);
        expect(engine.programSize()).toBeLessThanOrEqual(2500);
        expect(texts.map(taken)).toEqual(texts.map((text) => engine.test(text)));
      }),
      { numRuns: 1000 },
    );
  });
});

describe('The expressions of one flag', () => {
  it('are taken in their order, until all together are ten times as large as one may be', () => {
    const expressions = new Expressions();
    const taken = () => expressions.of('^a{1000}$') !== undefined;
    const first = Array.from({ length: 10 }, taken);
    expect(first).toEqual(Array.from({ length: 10 }, () => true));
    const more = Array.from({ length: 10 }, taken);
    expect(more).toContain(false);
    expect(taken()).toBe(false);
    expect(expressions.of('^b$')?.('b')).toBe(true);
  });

  it('are so many, if they are short, that none is missed', () => {
    const expressions = new Expressions();
    for (let i = 0; i < 500; i++) expect(expressions.of(`^user-${i}@example[.]com$`)).toBeDefined();
    for (let i = 0; i < 5000; i++) expressions.of(`${i}`);
    expect(expressions.of('a')).toBeUndefined();
  });
});
