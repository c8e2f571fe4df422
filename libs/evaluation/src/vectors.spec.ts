import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

import { describe, expect, it } from '@jest/globals';

import type { Flag, Segment } from '#libs/domain';

import { bucketOf } from './bucket.js';
import { isAnswered, type Target } from './index.js';
import { rulesetOf } from './worlds.suite.js';

interface World {
  readonly id: string;
  readonly flags: readonly Flag[];
  readonly segments: readonly Segment[];
  readonly target: Target;
  readonly expected: Readonly<
    Record<string, { variationIdentifier: string; value: string } | { error: true }>
  >;
}

function recorded<Line>(name: string): Line[] {
  const text = brotliDecompressSync(
    readFileSync(join(import.meta.dirname, '..', 'vectors', `${name}.jsonl.br`)),
  ).toString();
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line);
}

describe('The answers on which the published evaluators agree', () => {
  it('are ours, flag by flag', () => {
    const worlds = recorded<World>('evaluation');
    const differences: unknown[] = [];
    let answers = 0;
    for (const { id, flags, segments, target, expected } of worlds) {
      const got = rulesetOf(flags, segments).evaluateAll(target);
      expect(got.map(({ flag }) => flag).toSorted()).toEqual(Object.keys(expected).toSorted());
      for (const answer of got) {
        answers++;
        const theirs = expected[answer.flag];
        const ours = isAnswered(answer)
          ? { variationIdentifier: answer.variation, value: answer.value }
          : { error: true };
        const { variationIdentifier, value, error } = { ...theirs } as Record<string, unknown>;
        const wanted = error ? { error } : { variationIdentifier, value };
        if (JSON.stringify(ours) !== JSON.stringify(wanted)) {
          differences.push({ world: id, flag: answer.flag, ours, wanted, target });
        }
      }
    }
    expect(differences).toEqual([]);
    expect({ worlds: worlds.length, answers }).toEqual({ worlds: 1500, answers: 4453 });
  });

  it('put every text into our bucket', () => {
    const rows = recorded<{ bucketBy: string; value: string; bucket: number }>('bucket');
    expect(rows).toHaveLength(2000);
    expect(
      rows.map(({ bucketBy, value }) => ({ bucketBy, value, bucket: bucketOf(bucketBy, value) })),
    ).toEqual(rows);
  });
});
