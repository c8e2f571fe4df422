import {
  access,
  constants,
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
} from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';

import { byIdentifier } from '#libs/domain';

import {
  type BundleEnvironment,
  BundleError,
  type BundleOrigin,
  decodeEnvironment,
  encode,
  environmentOf,
  faultsBetween,
  folderOf,
  isManifest,
  MANIFEST,
  type Manifest,
  manifestIn,
  READ_FILES,
  WRITTEN_FILES,
} from './bundle.js';

/** No account has more: a proxy key may have 1,000. */
const MOST_ENVIRONMENTS = 10_000;
/** Of one file: more cannot be one text in memory. */
const MOST_BYTES = 256 * 1024 * 1024;
/** Where a bundle is written before any of it is put in its place. */
const STAGING = /^\.bundle-\w+\.part$/;
/** Nobody writes for so long. */
const LEFT_AFTER_MS = 24 * 3600 * 1000;

export interface Bundle {
  /** By id. */
  readonly environments: readonly BundleEnvironment[];
  /** Undefined for a directory that the Go relay wrote. */
  readonly manifest: Manifest | undefined;
}

/** Reads a bundle as a whole. Throws BundleError with all that is wrong. */
export async function readBundle(directory: string): Promise<Bundle> {
  const ids = await environmentsIn(directory);
  const faults: string[] = [];
  let told: Manifest | undefined;
  try {
    const text = await textOf(join(directory, MANIFEST));
    told = text === undefined ? undefined : manifestIn(text);
  } catch (error) {
    throw BundleError.of(directory, [`${MANIFEST}: ${(error as Error).message}`]);
  }
  if (ids.length === 0 && !told)
    throw BundleError.of(directory, ['it has no folder env-<UUID>: is it the right one, and is it mounted']);
  const environments: BundleEnvironment[] = [];
  for (const id of ids) {
    const texts = new Map<string, string | Error | undefined>();
    for (const file of READ_FILES) {
      const text = await textOf(join(directory, folderOf(id), file)).catch(
        (error: unknown) => error as Error,
      );
      texts.set(file, text);
    }
    environments.push(decodeEnvironment(id, (file) => texts.get(file), told, faults));
  }
  faults.push(...faultsBetween(environments, told));
  if (faults.length > 0) throw BundleError.of(directory, faults);
  return { environments, manifest: told };
}

/** The environments that a directory has folders for, in order. Throws BundleError. */
async function environmentsIn(directory: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    throw BundleError.of(directory, [reasonIn(error)]);
  }
  const ids: string[] = [];
  for (const name of names.toSorted(byIdentifier)) {
    const id = environmentOf(name);
    if (id !== undefined && (await statOf(join(directory, name)))?.isDirectory()) ids.push(id);
  }
  if (ids.length > MOST_ENVIRONMENTS)
    throw BundleError.of(directory, [
      `it has ${ids.length} environments, and ${MOST_ENVIRONMENTS} is the most`,
    ]);
  return ids;
}

/** A file's text; undefined if there is none. */
async function textOf(file: string): Promise<string | undefined> {
  const size = (await statOf(file))?.size;
  if (size === undefined) return undefined;
  if (size > MOST_BYTES) throw new Error(`has ${size} bytes, and ${MOST_BYTES} is the most`);
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new Error(reasonIn(error), { cause: error });
  }
}

async function statOf(path: string) {
  try {
    return await stat(path, { bigint: false });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new Error(reasonIn(error), { cause: error });
  }
}

function reasonIn(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT') return 'there is no such directory';
  if (code === 'ENOTDIR') return 'it is no directory';
  if (code === 'EACCES' || code === 'EPERM') return 'this process may not read it';
  return message;
}

/** What a directory looks like from outside: cheap to take, and another one after every change. */
export interface Glance {
  readonly text: string;
  /** When its newest file or folder changed, in ms since the epoch. */
  readonly changedMs: number;
  /** Whether a manifest says what it must hold. */
  readonly hasManifest: boolean;
}

/** Looks at a directory without reading it; one that is not there has a glance too. */
export async function glanceAt(directory: string): Promise<Glance> {
  let ids: readonly string[];
  try {
    ids = await environmentsIn(directory);
  } catch (error) {
    return { text: String(error), changedMs: 0, hasManifest: false };
  }
  const paths = [
    '.',
    MANIFEST,
    ...ids.flatMap((id) => [folderOf(id), ...READ_FILES.map((file) => `${folderOf(id)}/${file}`)]),
  ];
  const seen: string[] = [];
  let changedMs = 0;
  let hasManifest = false;
  for (const path of paths) {
    try {
      const { ino, size, mtimeNs, ctimeNs } = await stat(join(directory, path), { bigint: true });
      seen.push(`${path} ${ino} ${size} ${mtimeNs} ${ctimeNs}`);
      changedMs = Math.max(changedMs, Number(ctimeNs / 1_000_000n));
      hasManifest ||= path === MANIFEST;
    } catch (error) {
      seen.push(`${path} ${(error as NodeJS.ErrnoException).code}`);
    }
  }
  return { text: seen.join('\n'), changedMs, hasManifest };
}

/**
 * Writes a bundle. Everything is on the disk before any of it is put in its place, the manifest first: until all is there,
 * nobody takes the directory for a bundle. If it fails before that, nothing is changed.
 *
 * Throws BundleError.
 *
 * @param replaces whether a bundle that is there may be replaced
 */
export async function writeBundle(
  directory: string,
  environments: readonly BundleEnvironment[],
  origin: BundleOrigin,
  {
    replaces,
    progress = () => undefined,
  }: { replaces: boolean; progress?: (done: number, of: number) => void },
): Promise<void> {
  const stray = environments.find(({ id }) => ['/', '\\', '\0'].some((character) => id.includes(character)));
  if (stray)
    throw new BundleError(
      `${directory} was not written: the id of environment ${JSON.stringify(stray.id)} would lead out of its folder.`,
    );
  // In a container each process has the number of the one before, which may have been killed.
  const staging = join(directory, `.bundle-${randomBytes(6).toString('hex')}.part`);
  const removeStaging = () => rmSync(staging, { recursive: true, force: true });
  try {
    await mkdir(directory, { recursive: true });
    const before = await environmentsIn(directory);
    await refuseStrangers(directory, before, replaces);
    // Also when the process is interrupted.
    process.once('exit', removeStaging);
    await removeLeftovers(directory);
    await mkdir(staging);
    const staged: string[] = [];
    for (const { path, text } of encode(environments, origin)) {
      await writeThrough(join(staging, String(staged.length)), text);
      staged.push(path);
      progress(staged.length, environments.length * WRITTEN_FILES.length + 1);
    }
    const ids = new Set(environments.map(({ id }) => id));
    await makeRoom(directory, ids.union(new Set(before)));
    await rename(join(staging, String(staged.length - 1)), join(directory, MANIFEST));
    await flush(directory);
    for (const [index, path] of staged.slice(0, -1).entries())
      await rename(join(staging, String(index)), join(directory, path));
    for (const id of ids) await flush(join(directory, folderOf(id)));
    for (const id of before.filter((each) => !ids.has(each))) {
      for (const file of WRITTEN_FILES) await rm(join(directory, folderOf(id), file), { force: true });
      await rmdir(join(directory, folderOf(id)));
    }
    await flush(directory);
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(
      `${directory} cannot be written: ${(error as Error).message}. Name a directory that you may write to.`,
      { cause: error },
    );
  } finally {
    removeStaging();
    process.removeListener('exit', removeStaging);
  }
}

/** Of writers that were killed. */
async function removeLeftovers(directory: string): Promise<void> {
  for (const name of (await readdir(directory)).filter((each) => STAGING.test(each))) {
    const path = join(directory, name);
    const { mtimeMs = Date.now() } = (await statOf(path)) ?? {};
    if (Date.now() - mtimeMs > LEFT_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
}

/** What is in the way of a bundle is not removed with what it replaces. */
async function refuseStrangers(directory: string, ids: readonly string[], replaces: boolean): Promise<void> {
  const refusal = (path: string) =>
    new BundleError(`${path} is of no bundle: move it away, or name another directory.`);
  const manifest = await textOf(join(directory, MANIFEST));
  if (manifest !== undefined && !isManifest(manifest)) throw refusal(join(directory, MANIFEST));
  if ((ids.length > 0 || manifest !== undefined) && !replaces) {
    throw new BundleError(
      `${directory} holds a bundle already: name another directory, or add --replace to put the new one in its place.`,
    );
  }
  const ours: ReadonlySet<string> = new Set(WRITTEN_FILES);
  for (const id of ids) {
    const stranger = (await readdir(join(directory, folderOf(id)))).find((name) => !ours.has(name));
    if (stranger !== undefined) throw refusal(join(directory, folderOf(id), stranger));
  }
}

/** Throws if something in a directory stands in the way of a bundle that would replace what is there. Changes nothing. */
export async function expectRoom(directory: string): Promise<void> {
  const ids = await environmentsIn(directory);
  await refuseStrangers(directory, ids, true);
  await missingFolders(directory, ids);
}

/** Makes the folders that are not there yet. Throws, and changes nothing, if one that is there cannot be changed. */
async function makeRoom(directory: string, ids: Iterable<string>): Promise<void> {
  const made: string[] = [];
  try {
    for (const folder of await missingFolders(directory, ids)) {
      await mkdir(folder);
      made.push(folder);
    }
  } catch (error) {
    for (const folder of made) await rmdir(folder);
    throw error;
  }
}

/** Of these environments, the folders that are not there. Throws if one that is there cannot be changed. */
async function missingFolders(directory: string, ids: Iterable<string>): Promise<readonly string[]> {
  const missing: string[] = [];
  for (const id of ids) {
    const folder = join(directory, folderOf(id));
    const there = await statOf(folder);
    if (!there) missing.push(folder);
    else if (!there.isDirectory()) throw new Error(`${folder} is no folder`);
    else await access(folder, constants.W_OK | constants.X_OK);
  }
  return missing;
}

async function writeThrough(file: string, text: string): Promise<void> {
  const handle = await open(file, 'wx');
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Brings the names in a folder to the disk, where the system can. */
async function flush(folder: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(folder, 'r');
    await handle.sync();
  } catch {
    // Some systems cannot do that with folders.
  } finally {
    await handle?.close();
  }
}
