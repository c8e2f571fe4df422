import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, it } from '@jest/globals';

import { RelayConfig } from '#libs/config';

import { openTarget, prefixIn } from './replay-target.js';

describe('The target of a replay', () => {
  it('is a prefix of keys after redis:, and else a file', () => {
    expect(prefixIn('redis:noon:')).toBe('noon:');
    expect(prefixIn('noon.json')).toBeUndefined();
    expect(prefixIn('-')).toBeUndefined();
  });

  it.each(['redis:', 'redis:noon', 'redis::', 'redis:no*n:', 'redis:a:b:', 'redis:{a}:'])(
    'is no prefix that a pattern could take for another: %s',
    (target) => {
      expect(() => prefixIn(target)).toThrow('a prefix is letters');
    },
  );

  it.each(['redis:env-a:', 'redis:auth-key-a:', 'redis:ff-relay-a:'])(
    'is no prefix that a relay could take for its own: %s',
    (target) => {
      expect(() => prefixIn(target)).toThrow("the relay's own keys begin so");
    },
  );

  it('is opened beside what replays left that were killed, which goes after a day', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'ff-relay-replay-'));
    const names = [`noon.json.${process.pid}.part`, 'noon.json.0123456789ab.part', 'noon.json.film.part'];
    const twoDaysAgo = Date.now() / 1000 - 2 * 24 * 3600;
    const leave = async (...left: string[]) => {
      for (const name of left) await writeFile(join(folder, name), 'any');
    };
    const open = async () => {
      const target = await openTarget(join(folder, 'noon.json'), new RelayConfig({}, []), false);
      await target.close();
      return (await readdir(folder)).toSorted();
    };
    await leave(...names);
    expect(await open()).toEqual(names.toSorted());
    for (const name of names) await utimes(join(folder, name), twoDaysAgo, twoDaysAgo);
    expect(await open()).toEqual(['noon.json.film.part']);
    await rm(folder, { recursive: true });
  });
});
