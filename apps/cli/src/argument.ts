import { InvalidArgumentError } from 'commander';

import { baseUrl } from '#libs/config';

import { momentIn } from './moment.js';
import { reasonOf, UsageError } from './outcome.js';

const ADDRESS = baseUrl();

/**
 * An option's value; what it cannot be is told with the help.
 *
 * @param parse throws an Error that says what to write, or UsageError for what is not to be repeated
 */
export function argument<Value>(parse: (text: string) => Value): (text: string) => Value {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (error instanceof UsageError) throw error;
      throw new InvalidArgumentError(`${reasonOf(error)}.`);
    }
  };
}

export const moment = argument((text) => momentIn(text, Date.now()));

/** An http or https address without a slash at its end. What may be a password is refused, and not repeated. */
export function addressIn(text: string, option: string, example: string): string {
  if (/[?#@]/.test(text))
    throw new UsageError(
      `${option} takes an address without user, password or query, for example ${example}.`,
    );
  const { success, data } = ADDRESS.safeParse(text);
  if (!success) throw new Error(`it is an http or https address, for example ${example}`);
  return data;
}
