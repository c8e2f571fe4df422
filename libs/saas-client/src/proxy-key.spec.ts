import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { firstValueFrom } from 'rxjs';

import { ProxyKey } from './index.js';

describe('A proxy key in a file', () => {
  let folder: string;
  let file: string;
  let key: ProxyKey;
  let warned: PromiseWithResolvers<string>;
  beforeEach(async () => {
    warned = Promise.withResolvers();
    Logger.overrideLogger({
      log: () => undefined,
      error: () => undefined,
      warn: (text: string) => warned.resolve(text),
    });
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-key-'));
    file = join(folder, 'key');
    await writeFile(file, 'first\n');
    key = new ProxyKey('first', file);
    key.watch(5);
  });
  afterEach(async () => {
    key.close();
    await rm(folder, { recursive: true });
  });

  it('is replaced by one that appears there, also when the file itself is replaced', async () => {
    for (const next of ['second', 'third']) {
      const changed = firstValueFrom(key.changed);
      await writeFile(join(folder, 'new'), `${next}\n`);
      await rename(join(folder, 'new'), file);
      await changed;
      expect(key.current).toBe(next);
    }
  });

  it.each([
    ['empty', () => writeFile(file, ' \n')],
    ['gone', () => rm(file)],
    ['no text for a header', () => writeFile(file, 'two\nlines')],
  ])('stays in use when the file is %s, until there is another', async (_, happens) => {
    await happens();
    expect(await warned.promise).toContain('the last proxy key stays in use');
    expect(key.current).toBe('first');
    const changed = firstValueFrom(key.changed);
    await writeFile(file, 'second');
    await changed;
    expect(key.current).toBe('second');
  });
});
