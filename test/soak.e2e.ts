import { describe, expect, it } from '@jest/globals';

import { PATIENCE_MS } from './support/processes.js';
import { soak } from './support/soak.js';

/** SOAK_SEED repeats one; the others are for `npm run soak`. */
const {
  SOAK_SEED,
  SOAK_FROM = SOAK_SEED ?? '1',
  SOAK_SEEDS = SOAK_SEED ? '1' : '25',
  SOAK_LAG_MS = '80',
  SOAK_AGREE_WITHIN_MS = String(PATIENCE_MS),
} = process.env;
const seeds = Array.from({ length: Number(SOAK_SEEDS) }, (_, i) => Number(SOAK_FROM) + i);
/** They mostly wait. */
const AT_A_TIME = 3;

describe('Whatever happens upstream and to the link, when it is over', () => {
  it(
    `log, store, gateway, SDKs and upstream agree, nobody saw time go back, and a restart tells nobody anything (P2, P4, P5, P6; seeds ${seeds[0]} to ${seeds.at(-1)})`,
    async () => {
      const failures: string[] = [];
      const agreedAfterMs: number[] = [];
      const left = [...seeds];
      const work = async () => {
        for (let seed = left.shift(); seed !== undefined; seed = left.shift()) {
          await soak({
            seed,
            lagMs: Number(SOAK_LAG_MS),
            agreeWithinMs: Number(SOAK_AGREE_WITHIN_MS),
          }).then(
            (ms) => agreedAfterMs.push(ms),
            (error: Error) => failures.push(error.message),
          );
        }
      };
      await Promise.all(Array.from({ length: AT_A_TIME }, work));
      console.log(
        `all agreed ${Math.round(Math.max(0, ...agreedAfterMs))} ms after the last fault, or sooner`,
      );
      expect(failures.join('\n\n')).toBe('');
    },
    (1 + seeds.length) * PATIENCE_MS,
  );
});
