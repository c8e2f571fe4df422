import type { EnvironmentState } from '#libs/domain';
import { type Evaluation, isAnswered, type Target } from '#libs/evaluation';

import type { Evaluator } from './evaluator.js';
import { ReadyAnswer } from './ready-answer.js';
import { RecentlyUsed } from './recently-used.js';
import { sdkEvaluation } from './sdk-payloads.js';

const MOST_LISTS = 1000;
const MOST_LISTS_CHARACTERS = 16 * 1024 * 1024;

/**
 * Evaluations as client SDKs read them. The text of each is made once and lives as long as its flag is not changed; so a
 * list is ready texts put together. Most targets get the same few lists: these are kept with their tags and encodings.
 */
export class SdkEvaluations {
  private readonly texts = new WeakMap<Evaluation, string>();
  private readonly lists = new RecentlyUsed<ReadyAnswer>(MOST_LISTS, MOST_LISTS_CHARACTERS);

  /** @param goRelayJson JSON values as the Go relay writes them */
  constructor(
    private readonly evaluator: Evaluator,
    private readonly goRelayJson: boolean,
  ) {}

  /** Every flag that has a variation for the target, as a JSON array. */
  all(state: EnvironmentState, target: Target): ReadyAnswer {
    const texts: string[] = [];
    for (const answer of this.evaluator.evaluateAll(state, target)) {
      if (isAnswered(answer)) texts.push(this.textOf(answer));
    }
    const text = `[${texts.join(',')}]`;
    let list = this.lists.get(text);
    if (!list) this.lists.set(text, (list = new ReadyAnswer(Buffer.from(text))), text.length);
    return list;
  }

  /** @returns undefined if there is no such flag, or if it has no variation for the target */
  one(state: EnvironmentState, flag: string, target: Target): ReadyAnswer | undefined {
    const answer = this.evaluator.evaluate(state, flag, target);
    return answer && isAnswered(answer) ? new ReadyAnswer(Buffer.from(this.textOf(answer))) : undefined;
  }

  private textOf(evaluation: Evaluation): string {
    let text = this.texts.get(evaluation);
    if (text === undefined) {
      text = JSON.stringify(sdkEvaluation(evaluation, this.goRelayJson));
      this.texts.set(evaluation, text);
    }
    return text;
  }
}
