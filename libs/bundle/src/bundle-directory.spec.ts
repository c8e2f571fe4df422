import {
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import { aFlag, aSegment } from '../../domain/src/builders.suite.js';
import {
  type BundleEnvironment,
  BundleError,
  type BundleOrigin,
  glanceAt,
  readBundle,
  writeBundle,
} from './index.js';

const key = (digit: string) => digit.repeat(64);
const dev: BundleEnvironment = {
  id: 'e1',
  account: 'acme',
  flags: [aFlag('dark-mode', { version: 7 }), aFlag('theme')],
  segments: [aSegment('beta')],
  apiKeys: [key('a'), key('b')],
};
const prod: BundleEnvironment = { ...dev, id: 'e2', flags: [], segments: [], apiKeys: [key('c')] };
const origin: BundleOrigin = {
  source: 'log',
  position: { epoch: 'one', sequence: 12 },
  time: '2026-11-20T12:00:00.000Z',
  writtenAt: '2026-11-21T12:00:00.000Z',
  complete: true,
};

describe('A bundle', () => {
  let folder: string;
  let directory: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-bundle-'));
    directory = join(folder, 'bundle');
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const write = (environments: readonly BundleEnvironment[], replaces = false) =>
    writeBundle(directory, environments, origin, { replaces });
  const at = (path: string) => join(directory, path);
  const refusal = async () => {
    const error = await readBundle(directory).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(BundleError);
    return (error as BundleError).message;
  };

  it('is read as it was written, with where it is from', async () => {
    await write([dev, prod]);
    const { environments, manifest } = await readBundle(directory);
    expect(environments).toEqual([dev, prod]);
    expect(manifest).toMatchObject({
      ...origin,
      environments: [
        { id: 'e1', account: 'acme', flags: 2, segments: 1, apiKeys: 2 },
        { id: 'e2', account: 'acme', flags: 0, segments: 0, apiKeys: 1 },
      ],
    });
    expect(Object.keys(manifest?.files ?? {})).toHaveLength(10);
  });

  it('is read as it was written, whatever the flags hold, byte for byte', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ identifier: fc.string({ minLength: 1, unit: 'grapheme' }), value: fc.json() })),
        async (variations) => {
          const flag = { ...aFlag('any', { variations }), unknown: variations };
          await write([{ ...dev, flags: [flag] }], true);
          const [read] = (await readBundle(directory)).environments;
          expect(JSON.stringify(read?.flags)).toBe(JSON.stringify([flag]));
        },
      ),
      { numRuns: 50 },
    );
  });

  it('has the files of the Go relay, and nothing left of how it was written', async () => {
    await write([dev]);
    expect((await readdir(directory)).toSorted()).toEqual(['env-e1', 'manifest.json']);
    expect((await readdir(at('env-e1'))).toSorted()).toEqual([
      'README.md',
      'auth_config.json',
      'feature_config.json',
      'segments.json',
      'targets.json',
    ]);
    expect(JSON.parse(await readFile(at('env-e1/auth_config.json'), 'utf8'))).toEqual(dev.apiKeys);
  });

  it('replaces another only if that is asked for, and then all of it', async () => {
    await write([dev, prod]);
    await expect(write([prod])).rejects.toThrow('add --replace');
    expect((await readBundle(directory)).environments).toHaveLength(2);
    await write([prod], true);
    expect((await readdir(directory)).toSorted()).toEqual(['env-e2', 'manifest.json']);
    expect((await readBundle(directory)).environments).toEqual([prod]);
  });

  it('does not remove what is of no bundle', async () => {
    await write([dev]);
    await writeFile(at('env-e1/notes.txt'), 'mine');
    await expect(write([prod], true)).rejects.toThrow(/notes\.txt is of no bundle: move it away/);
    expect((await readBundle(directory)).environments).toEqual([dev]);
  });

  it.each(['{"name":"My app","start_url":"/"}', '{"format":"another"}', 'no JSON', ''])(
    'does not take the place of a manifest of something else: %s',
    async (manifest) => {
      await mkdir(directory);
      await writeFile(at('manifest.json'), manifest);
      for (const replaces of [false, true])
        await expect(write([dev], replaces)).rejects.toThrow(/manifest\.json is of no bundle: move it away/);
      expect(await readdir(directory)).toEqual(['manifest.json']);
      expect(await readFile(at('manifest.json'), 'utf8')).toBe(manifest);
    },
  );

  it.each(['/../../elsewhere', '\\..\\elsewhere', 'e\0'])(
    'is not written for an environment whose id would lead out of its folder: %j',
    async (id) => {
      await expect(write([{ ...dev, id }, prod])).rejects.toThrow(/would lead out of its folder/);
      expect(await readdir(folder)).toEqual([]);
    },
  );

  it('takes the place of one of which only the manifest is left, if that is asked for', async () => {
    await write([dev]);
    await rm(at('env-e1'), { recursive: true });
    await expect(write([prod])).rejects.toThrow('add --replace');
    await write([prod], true);
    expect((await readBundle(directory)).environments).toEqual([prod]);
  });

  it('stays as it is when a folder of the next cannot be written', async () => {
    await write([dev, prod]);
    const next = ['e3', 'e4', 'e5'].map((id, i) => ({ ...dev, id, apiKeys: [key(String(i))] }));
    await writeFile(at('env-e4'), 'in the way');
    await expect(write(next, true)).rejects.toThrow(/cannot be written: .*env-e4 is no folder/);
    expect((await readBundle(directory)).environments).toEqual([dev, prod]);
    await rm(at('env-e4'));
    // Longer than a name in a folder may be.
    await expect(write([...next, { ...prod, id: 'x'.repeat(300) }], true)).rejects.toThrow('ENAMETOOLONG');
    expect((await readBundle(directory)).environments).toEqual([dev, prod]);
    expect((await readdir(directory)).toSorted()).toEqual(['env-e1', 'env-e2', 'manifest.json']);
  });

  it('is written beside what writers left that were killed, which goes after a day', async () => {
    const [old, young] = [`.bundle-${process.pid}.part`, '.bundle-0a1b2c.part'];
    for (const name of [old, young]) await mkdir(join(at(name), 'any'), { recursive: true });
    const twoDaysAgo = Date.now() / 1000 - 2 * 24 * 3600;
    await utimes(at(old), twoDaysAgo, twoDaysAgo);
    await mkdir(at('.bundle'));
    await write([dev]);
    expect((await readdir(directory)).toSorted()).toEqual(['.bundle', young, 'env-e1', 'manifest.json']);
    await rename(at(young), at(old));
    await write([dev], true);
    expect((await readBundle(directory)).environments).toEqual([dev]);
  });

  it('is none while any of its files is not in its place yet', async () => {
    await write([dev, prod]);
    const before = join(folder, 'before');
    await rename(directory, before);
    await write([
      { ...dev, flags: [aFlag('new')] },
      { ...prod, id: 'e3' },
    ]);
    for (const path of ['env-e1/feature_config.json', 'env-e3/segments.json']) {
      const mixed = join(folder, 'mixed');
      await cp(directory, mixed, { recursive: true });
      const old = await readFile(join(before, path)).catch(() => undefined);
      if (old) await writeFile(join(mixed, path), old);
      else await rm(join(mixed, path));
      await expect(readBundle(mixed)).rejects.toThrow(path);
      await rm(mixed, { recursive: true });
    }
    await cp(join(before, 'env-e2'), at('env-e2'), { recursive: true });
    expect(await refusal()).toContain('env-e2: is not in manifest.json');
  });

  it.each(['feature_config.json', 'segments.json', 'auth_config.json'])(
    'is none when writing it broke off before %s, whatever was there before',
    async (file) => {
      await write([dev, prod]);
      await rm(at('manifest.json'));
      const inTheWay = at(`env-e2/${file}`);
      const old = await readFile(inTheWay);
      await rm(inTheWay);
      await mkdir(join(inTheWay, 'any'), { recursive: true });
      const next = { flags: [aFlag('new')], segments: [aSegment('new')] };
      const states = [
        { ...dev, ...next, apiKeys: [key('d')] },
        { ...prod, ...next, apiKeys: [key('e')] },
      ];
      await expect(write(states, true)).rejects.toThrow(BundleError);
      await rm(inTheWay, { recursive: true });
      await writeFile(inTheWay, old);
      expect(await refusal()).toContain(`env-e2/${file}: it is not as manifest.json says`);
      await write([prod], true);
      expect((await readBundle(directory)).environments).toEqual([prod]);
    },
  );

  describe('that the Go relay wrote', () => {
    beforeEach(async () => {
      for (const { id, flags, segments, apiKeys } of [dev, prod]) {
        await mkdir(at(`env-${id}`), { recursive: true });
        const orNull = (list: readonly unknown[]) => `${JSON.stringify(list.length > 0 ? list : null)}\n`;
        await writeFile(at(`env-${id}/feature_config.json`), orNull(flags));
        await writeFile(at(`env-${id}/segments.json`), orNull(segments));
        await writeFile(at(`env-${id}/targets.json`), 'null\n');
        await writeFile(at(`env-${id}/auth_config.json`), orNull(apiKeys));
        await writeFile(at(`env-${id}/README.md`), '# Env');
      }
      await mkdir(at('lost+found'));
      await writeFile(at('env-file'), 'no folder');
    });

    it('is read, lists that are null and the prefix of keys too', async () => {
      await writeFile(at('env-e2/auth_config.json'), JSON.stringify([`auth-key-${key('c')}`]));
      const { environments, manifest } = await readBundle(directory);
      expect(environments).toEqual([
        { ...dev, account: undefined },
        { ...prod, account: undefined },
      ]);
      expect(manifest).toBeUndefined();
    });

    it.each<[string, string, (path: string) => Promise<void>]>([
      ['env-e1/feature_config.json', 'it is not JSON, or cut off', (path) => truncate(path, 40)],
      ['env-e1/feature_config.json', 'it is empty', (path) => writeFile(path, '')],
      ['env-e1/segments.json', 'it is missing', (path) => rm(path)],
      [
        'env-e1/segments.json',
        'illegal operation on a directory',
        (path) => rm(path).then(() => mkdir(path)),
      ],
      ['env-e2/auth_config.json', 'it is missing', (path) => rm(path)],
      ['env-e1/segments.json', 'a list was expected', (path) => writeFile(path, '{}')],
      ['env-e1/feature_config.json', 'dark-mode: state', (path) => replaceIn(path, '"off"', '"maybe"')],
      [
        'env-e1/feature_config.json',
        'dark-mode: is listed twice',
        (path) => replaceIn(path, 'theme', 'dark-mode'),
      ],
      ['env-e1/auth_config.json', 'SHA-256', (path) => writeFile(path, '["a key"]')],
      [
        'env-e2/auth_config.json',
        'is a key of env-e1 too',
        (path) => writeFile(path, JSON.stringify(dev.apiKeys)),
      ],
    ])('is refused when %s has a fault, with its name and the reason: %s', async (path, reason, spoil) => {
      await spoil(at(path));
      const message = await refusal();
      expect(message).toContain(directory);
      expect(message).toContain(`${path}: `);
      expect(message).toContain(reason);
    });
  });

  it('is refused when there is none: an empty folder, no folder, a file', async () => {
    expect(await refusal()).toContain('there is no such directory');
    await mkdir(directory);
    expect(await refusal()).toContain('it has no folder env-<UUID>');
    await rm(directory, { recursive: true });
    await writeFile(directory, '');
    expect(await refusal()).toContain('it is no directory');
  });

  it.each([
    ['{', 'not JSON'],
    ['{}', 'no manifest of a bundle'],
  ])('is refused with a manifest that cannot be read: %s', async (text, reason) => {
    await write([dev]);
    await writeFile(at('manifest.json'), text);
    expect(await refusal()).toMatch(new RegExp(`manifest\\.json: .*${reason}`));
  });

  it('of a later format is refused with what to do', async () => {
    await write([dev]);
    await replaceIn(at('manifest.json'), '"version": 1', '"version": 2');
    expect(await refusal()).toContain('a later version of ff-relay wrote this bundle');
  });

  it('looks different from outside after every change', async () => {
    const seen = new Set<string>();
    const looksNew = async () => {
      const { text } = await glanceAt(directory);
      expect(seen.has(text)).toBe(false);
      seen.add(text);
      expect((await glanceAt(directory)).text).toBe(text);
    };
    await looksNew();
    await write([dev]);
    await looksNew();
    await write([dev, prod], true);
    await looksNew();
    await truncate(at('env-e1/segments.json'), 1);
    await looksNew();
    await rm(at('env-e1/segments.json'));
    await looksNew();
    await rm(at('env-e2'), { recursive: true });
    await looksNew();
  });
});

async function replaceIn(file: string, from: string, to: string): Promise<void> {
  await writeFile(file, (await readFile(file, 'utf8')).replace(from, to));
}
