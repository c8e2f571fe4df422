/** Targets, and the text that an attribute of one is for rules: written as Go writes it. */

export interface Target {
  readonly identifier: string;
  readonly name?: string | undefined;
  /** Of no matter to rules, as in every SDK: it is no attribute. */
  readonly anonymous?: boolean | undefined;
  readonly attributes?: Readonly<Record<string, unknown>> | null | undefined;
}

/** @returns the attribute's text, whole Unicode; empty if it is missing, null, or cannot be written */
export function attributeText(target: Target, attribute: string): string {
  if (attribute === 'identifier') return wholeText(target.identifier);
  if (attribute === 'name') return wholeText(target.name ?? '');
  const { attributes } = target;
  if (attribute === '' || !attributes || !Object.hasOwn(attributes, attribute)) return '';
  try {
    return wholeText(textOf(attributes[attribute]));
  } catch {
    // Nested thousands of levels deep, or in a circle.
    return '';
  }
}

/** As it would come by UTF-8: a lone surrogate is U+FFFD. */
export function wholeText(text: string): string {
  return text.isWellFormed() ? text : text.toWellFormed();
}

function textOf(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return value;
    case 'boolean':
    case 'bigint':
      return String(value);
    case 'number':
      return plainNumber(value);
    case 'object':
      if (value === null) return '';
      return Array.isArray(value) ? listed(value) : goJson(value);
    default:
      return '';
  }
}

/** The shortest digits that tell the number, never with an exponent. */
function plainNumber(value: number): string {
  if (!Number.isFinite(value) || Object.is(value, -0)) return oddNumber(value);
  const [short = '', exponent] = String(value).split('e');
  if (exponent === undefined) return short;
  const [, sign = '', whole = '', fraction = ''] = /^(-?)(\d)(?:\.(\d+))?$/.exec(short) ?? [];
  const digits = whole + fraction;
  const shift = Number(exponent);
  return shift < 0 ? `${sign}0.${'0'.repeat(-shift - 1)}${digits}` : sign + digits.padEnd(shift + 1, '0');
}

/** As it stands inside of a list: with an exponent of two digits from a million on, and below 0.0001. */
function listedNumber(value: number): string {
  if (!Number.isFinite(value) || Object.is(value, -0)) return oddNumber(value);
  const [digits = '', exponent = ''] = value.toExponential().split('e');
  const shift = Number(exponent);
  if (shift >= -4 && shift <= 5) return String(value);
  return `${digits}e${shift < 0 ? '-' : '+'}${String(Math.abs(shift)).padStart(2, '0')}`;
}

function oddNumber(value: number): string {
  return value === 0 ? '-0' : value === Infinity ? '+Inf' : value === -Infinity ? '-Inf' : 'NaN';
}

function listed(value: unknown): string {
  if (value === null || value === undefined) return '<nil>';
  if (typeof value === 'number') return listedNumber(value);
  if (typeof value !== 'object') return textOf(value);
  if (Array.isArray(value)) return `[${value.map(listed).join(' ')}]`;
  const entries = Object.entries(value).toSorted(([a], [b]) => (isAfter(a, b) ? 1 : -1));
  return `map[${entries.map(([key, inner]) => `${key}:${listed(inner)}`).join(' ')}]`;
}

function goJson(value: object): string {
  const json = JSON.stringify(value) as string | undefined;
  return (json ?? '').replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Whether `a` comes after `b`, code point by code point, which is the order of their UTF-8 bytes too. */
export function isAfter(a: string, b: string): boolean {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (x !== y) return rank(x) > rank(y);
  }
  return a.length > b.length;
}

/** Of a UTF-16 unit: surrogates above all others, where the characters that they stand for belong. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit;
}

/** One form for texts that differ only by Unicode's simple case folding, code point by code point. */
export function folded(text: string): string {
  // oxlint-disable-next-line no-control-regex -- it means ASCII
  if (/^[\0-\x7f]*$/.test(text)) return text.toLowerCase();
  let result = '';
  for (const character of text) result += foldedCharacter(character);
  return result;
}

function foldedCharacter(character: string): string {
  // Its capital is that of i, but only in some languages.
  if (character === 'ı') return character;
  const upper = oneOf(character.toUpperCase(), character);
  return oneOf(upper.toLowerCase(), upper);
}

/** The text if it is one character, else the other one: the capitals of ß are two. */
function oneOf(text: string, other: string): string {
  return text.length === ((text.codePointAt(0) ?? 0) > 0xffff ? 2 : 1) ? text : other;
}
