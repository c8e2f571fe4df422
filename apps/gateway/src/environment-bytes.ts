import {
  type EnvironmentState,
  type Flag,
  flagIn,
  flagsOf,
  type Segment,
  segmentIn,
  segmentsOf,
} from '#libs/domain';

import { ReadyAnswer } from './ready-answer.js';
import { sdkFlag, sdkSegment } from './sdk-payloads.js';

/**
 * Answers as bytes, made once for each change and kept as long as the state that they say. A state never changes, so its
 * parts are the keys: a flag is serialised once in its life, and a list is put together again from parts that are ready.
 */
export class EnvironmentBytes {
  private readonly flagParts = new WeakMap<Flag, ReadyAnswer>();
  private readonly flagLists = new WeakMap<EnvironmentState['flags'], ReadyAnswer>();
  private readonly segmentParts = [
    new WeakMap<Segment, ReadyAnswer>(),
    new WeakMap<Segment, ReadyAnswer>(),
  ] as const;
  private readonly segmentLists = [
    new WeakMap<EnvironmentState['segments'], ReadyAnswer>(),
    new WeakMap<EnvironmentState['segments'], ReadyAnswer>(),
  ] as const;

  /** All flags, as a JSON array. */
  flags(state: EnvironmentState): ReadyAnswer {
    return kept(this.flagLists, state.flags, () => list(flagsOf(state).map((flag) => this.flagPart(flag))));
  }

  flag(state: EnvironmentState, identifier: string): ReadyAnswer | undefined {
    const flag = flagIn(state, identifier);
    return flag && this.flagPart(flag);
  }

  /** All target groups, as a JSON array. @param servingRules whether the reader knows them */
  segments(state: EnvironmentState, servingRules: boolean): ReadyAnswer {
    return kept(this.segmentLists[Number(servingRules) as 0 | 1], state.segments, () =>
      list(segmentsOf(state).map((segment) => this.segmentPart(segment, servingRules))),
    );
  }

  segment(state: EnvironmentState, identifier: string, servingRules: boolean): ReadyAnswer | undefined {
    const segment = segmentIn(state, identifier);
    return segment && this.segmentPart(segment, servingRules);
  }

  private flagPart(flag: Flag): ReadyAnswer {
    return kept(this.flagParts, flag, () => new ReadyAnswer(Buffer.from(JSON.stringify(sdkFlag(flag)))));
  }

  private segmentPart(segment: Segment, servingRules: boolean): ReadyAnswer {
    return kept(
      this.segmentParts[Number(servingRules) as 0 | 1],
      segment,
      () => new ReadyAnswer(Buffer.from(JSON.stringify(sdkSegment(segment, servingRules)))),
    );
  }
}

function kept<Key extends WeakKey>(
  cache: WeakMap<Key, ReadyAnswer>,
  key: Key,
  make: () => ReadyAnswer,
): ReadyAnswer {
  let answer = cache.get(key);
  if (!answer) cache.set(key, (answer = make()));
  return answer;
}

const COMMA = Buffer.from(',');

function list(parts: readonly ReadyAnswer[]): ReadyAnswer {
  const between = parts.flatMap(({ bytes }, i) => (i === 0 ? [bytes] : [COMMA, bytes]));
  return new ReadyAnswer(Buffer.concat([Buffer.from('['), ...between, Buffer.from(']')]));
}
