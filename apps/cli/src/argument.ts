import { InvalidArgumentError } from 'commander';

import { momentIn } from './moment.js';
import { reasonOf } from './outcome.js';

/** An option's value; what it cannot be is told with the help. @param parse throws an Error that says what to write */
export function argument<Value>(parse: (text: string) => Value): (text: string) => Value {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(`${reasonOf(error)}.`);
    }
  };
}

export const moment = argument((text) => momentIn(text, Date.now()));
