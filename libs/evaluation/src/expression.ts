/**
 * Regular expressions of RE2. They come from strangers, and so do the texts: so the engine is one that never goes back in
 * a text, and what compiling an expression takes is worked out from its characters before it is done. A few of them may
 * ask for much: what is repeated is compiled as often as it may be repeated, and a class of Unicode has hundreds of ranges.
 */
import { RE2Set } from 're2js';

const MAX_LENGTH = 1000;
/** A unit of size is an instruction, or what takes as long to compile: 8 µs and 800 bytes at most. */
const MAX_SIZE = 2500;
const MAX_SIZE_TOGETHER = 10 * MAX_SIZE;
/** Of the shortest expression. */
const LEAST_SIZE = 10;
/** The ranges of a Unicode class are collected where it is written, and looked at once for each of its instructions. */
const UNICODE_CLASS_SIZE = 25;
const UNICODE_CLASS_INSTRUCTION = 3;
/** So many characters of a class take as long to look at as an instruction. */
const CLASS_CHARACTERS = 300;
/** Without regard to case, the characters of a range are looked up one by one, and there may be 125,000. */
const FOLDED_RANGE_SIZE = 600;

const MAX_STEPS = 10_000_000;
/** Of what an expression remembers of the texts that it has seen. */
const MEMORY_BYTES = 256 * 1024;

const UNICODE_CLASS = /\\p/gi;
const IGNORES_CASE = /\(\?[a-z-]*i/i;
const WIDE_RANGE = /-(?:\\x|\P{ASCII})/gu;
const TOKEN = new RegExp(
  [
    String.raw`\\Q[^]*?(?:\\E|$)`,
    String.raw`\\[pP](?:\{[^}]*\}|[^])`,
    String.raw`\\x\{[^}]*\}`,
    String.raw`\\[^]`,
    String.raw`\[\^?\]?(?:\[:[^\]]*:\]|\\[^]|[^\]\\])*\]`,
    String.raw`(?<flags>\(\?[a-zA-Z-]*\))`,
    String.raw`(?<opening>\((?:\?(?:P?<[^>]*>|[a-zA-Z-]*:))?)`,
    String.raw`\{(?<least>\d+)(?:,(?<most>\d*))?\}`,
    '[^]',
  ].join('|'),
  'gu',
);

/** Whether it is found anywhere in a text. */
export type Expression = (text: string) => boolean;

/** The expressions of one flag or group, which are bounded together. */
export class Expressions {
  private left = MAX_SIZE_TOGETHER;

  /**
   * The expression finds nothing where its instructions times the text's length exceed ten million, some tenths of a
   * second.
   *
   * @returns undefined if it is none that RE2 takes, or has more than a thousand characters, or is too large to compile:
   * one may take 20 ms and 2 MB, and all that were asked for ten times that
   */
  of(pattern: string): Expression | undefined {
    if (pattern.length > MAX_LENGTH) return undefined;
    const size = sizeOf(pattern);
    if (size > Math.min(MAX_SIZE, this.left)) return undefined;
    this.left -= size;
    return compiled(pattern);
  }
}

function compiled(pattern: string): Expression | undefined {
  // A set of one. A mere expression is compiled for captures too, which may write the ranges of its classes into each
  // instruction, and it remembers 8 MB of texts.
  const set = new RE2Set(RE2Set.UNANCHORED, 0, MEMORY_BYTES);
  try {
    set.add(pattern);
    set.compile();
  } catch {
    return undefined;
  }
  const maxTextLength = MAX_STEPS / set.prog.numInst();
  return (text) => text.length <= maxTextLength && set.match(text).length > 0;
}

/** No less than it takes. */
function sizeOf(pattern: string): number {
  const foldedRanges = IGNORES_CASE.test(pattern) ? timesIn(pattern, WIDE_RANGE) : 0;
  return (
    LEAST_SIZE +
    UNICODE_CLASS_SIZE * timesIn(pattern, UNICODE_CLASS) +
    FOLDED_RANGE_SIZE * foldedRanges +
    instructionsIn(pattern)
  );
}

function instructionsIn(pattern: string): number {
  /** The open groups. The last part of each is what may come to be repeated. */
  const outer: { all: number; last: number }[] = [];
  let group = { all: 0, last: 0 };
  const grow = (last: number) => {
    group.all += last - group.last;
    group.last = last;
  };
  const add = (part: number) => {
    group.all += part;
    group.last = part;
  };
  for (const { 0: token, groups = {} } of pattern.matchAll(TOKEN)) {
    const { flags, opening, least, most } = groups;
    // What stands before flags may be repeated behind them.
    if (flags !== undefined) continue;
    if (opening !== undefined) {
      outer.push(group);
      group = { all: 0, last: 0 };
    } else if (token === ')') {
      const { all } = group;
      group = outer.pop() ?? { all: 0, last: 0 };
      add(Math.max(1, all) + 2);
    } else if (least !== undefined) {
      const times = Math.max(1, Number(most || least));
      grow((group.last + 1) * times + 1);
    } else if (token === '*' || token === '+' || token === '?') {
      grow(group.last + 2);
    } else if (token === '|') {
      group.all += 2;
    } else if (token.startsWith('\\Q')) {
      group.all += token.length;
      // It may be empty, and then what stands before it may be repeated.
      group.last = Math.max(1, group.last);
    } else {
      const classes = timesIn(token, UNICODE_CLASS);
      add(1 + UNICODE_CLASS_INSTRUCTION * classes + Math.floor(token.length / CLASS_CHARACTERS));
    }
  }
  return group.all;
}

function timesIn(text: string, expression: RegExp): number {
  return text.match(expression)?.length ?? 0;
}
