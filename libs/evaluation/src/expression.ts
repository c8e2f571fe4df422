import { RE2JS } from 're2js';

const MAX_LENGTH = 10_000;
const MAX_STEPS = 10_000_000;

/**
 * A regular expression of RE2, found anywhere in a text. Expressions and texts come from strangers, so the engine is one
 * whose work is at most the expression's instructions times the text's length, and that product is bounded too: beyond
 * it, a tenth of a second or so, nothing matches. An expression of ten thousand characters is refused.
 *
 * @returns undefined if it is no expression that RE2 takes
 */
export function expression(pattern: string): ((text: string) => boolean) | undefined {
  if (pattern.length > MAX_LENGTH) return undefined;
  try {
    const compiled = RE2JS.compile(pattern);
    const maxTextLength = MAX_STEPS / compiled.programSize();
    return (text) => text.length <= maxTextLength && compiled.test(text);
  } catch {
    return undefined;
  }
}
