import {
  type EnvironmentState,
  type Flag,
  flagIn,
  flagsOf,
  type Segment,
  segmentIn,
  segmentsOf,
} from '#libs/domain';

import { sdkFlag, sdkSegment } from './sdk-payloads.js';

/**
 * Answers as bytes, made once for each change and kept as long as the state that they say. A state never changes, so its
 * parts are the keys: a flag is serialised once in its life, and a list is put together again from parts that are ready.
 */
export class EnvironmentBytes {
  private readonly flagParts = new WeakMap<Flag, Buffer>();
  private readonly flagLists = new WeakMap<EnvironmentState['flags'], Buffer>();
  private readonly segmentParts = [new WeakMap<Segment, Buffer>(), new WeakMap<Segment, Buffer>()] as const;
  private readonly segmentLists = [
    new WeakMap<EnvironmentState['segments'], Buffer>(),
    new WeakMap<EnvironmentState['segments'], Buffer>(),
  ] as const;

  /** All flags, as a JSON array. */
  flags(state: EnvironmentState): Buffer {
    return kept(this.flagLists, state.flags, () => list(flagsOf(state).map((flag) => this.flagPart(flag))));
  }

  flag(state: EnvironmentState, identifier: string): Buffer | undefined {
    const flag = flagIn(state, identifier);
    return flag && this.flagPart(flag);
  }

  /** All target groups, as a JSON array. @param servingRules whether the reader knows them */
  segments(state: EnvironmentState, servingRules: boolean): Buffer {
    return kept(this.segmentLists[Number(servingRules) as 0 | 1], state.segments, () =>
      list(segmentsOf(state).map((segment) => this.segmentPart(segment, servingRules))),
    );
  }

  segment(state: EnvironmentState, identifier: string, servingRules: boolean): Buffer | undefined {
    const segment = segmentIn(state, identifier);
    return segment && this.segmentPart(segment, servingRules);
  }

  private flagPart(flag: Flag): Buffer {
    return kept(this.flagParts, flag, () => Buffer.from(JSON.stringify(sdkFlag(flag))));
  }

  private segmentPart(segment: Segment, servingRules: boolean): Buffer {
    return kept(this.segmentParts[Number(servingRules) as 0 | 1], segment, () =>
      Buffer.from(JSON.stringify(sdkSegment(segment, servingRules))),
    );
  }
}

function kept<Key extends WeakKey>(cache: WeakMap<Key, Buffer>, key: Key, make: () => Buffer): Buffer {
  let bytes = cache.get(key);
  if (!bytes) cache.set(key, (bytes = make()));
  return bytes;
}

const COMMA = Buffer.from(',');

function list(parts: readonly Buffer[]): Buffer {
  const between = parts.flatMap((part, i) => (i === 0 ? [part] : [COMMA, part]));
  return Buffer.concat([Buffer.from('['), ...between, Buffer.from(']')]);
}
