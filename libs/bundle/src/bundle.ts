/**
 * The directory that a relay serves from when it is offline, in the layout of the Go relay (protocol §5): a folder
 * `env-<UUID>` for each environment, with its flags, target groups and the SHA-256 of its SDK keys. Ours have a manifest
 * beside the folders, which says what every file must hold: a directory that was written or copied in part is none.
 */
import { createHash } from 'node:crypto';

import { z } from 'zod';

import { apiKeysOf, type EnvironmentState, type Flag, flagsOf, type Segment, segmentsOf } from '#libs/domain';
import { apiKeysIn, type CheckedList, flagsIn, segmentsIn } from '#libs/saas-client';

export interface BundleEnvironment {
  /** UUID. */
  readonly id: string;
  /** The SaaS account that it belongs to, if it is known. */
  readonly account?: string | undefined;
  readonly flags: readonly Flag[];
  readonly segments: readonly Segment[];
  /** SHA-256, lower-case hex. */
  readonly apiKeys: readonly string[];
}

/** Where the contents of a bundle come from. Times in ISO 8601. */
export interface BundleOrigin {
  readonly source: 'log' | 'upstream';
  /** The newest fact in it; null if it was read from the upstream. */
  readonly position: { readonly epoch: string; readonly sequence: number } | null;
  /** When that fact was appended, or the upstream was read. */
  readonly time: string;
  readonly writtenAt: string;
  /** Whether it holds all that there was at that time. */
  readonly complete: boolean;
  /** What it lacks, as far as that is known. */
  readonly leftOut?: readonly string[] | undefined;
}

const count = z.int().nonnegative();
const manifest = z.object({
  format: z.literal('ff-relay-bundle'),
  version: z.int().positive(),
  source: z.enum(['log', 'upstream']),
  position: z.object({ epoch: z.string(), sequence: count }).nullable(),
  time: z.string(),
  writtenAt: z.string(),
  complete: z.boolean(),
  leftOut: z.array(z.string()).optional(),
  environments: z.array(
    z.object({
      id: z.string(),
      account: z.string().optional(),
      flags: count,
      segments: count,
      apiKeys: count,
    }),
  ),
  /** By path. */
  files: z.record(z.string(), z.object({ bytes: count, sha256: z.string() })),
});
export type Manifest = z.infer<typeof manifest>;
const FORMAT_VERSION = 1;

export const MANIFEST = 'manifest.json';
const FOLDER = 'env-';
const FLAGS = 'feature_config.json';
const SEGMENTS = 'segments.json';
const API_KEYS = 'auth_config.json';
/** The Go relay asks for it. Targets are remembered by gateways alone, so there is nothing to say. */
const TARGETS = 'targets.json';
const README = 'README.md';

/** Of each environment, what is read. */
export const READ_FILES = [FLAGS, SEGMENTS, API_KEYS] as const;
/** Of each environment, what is written. */
export const WRITTEN_FILES = [...READ_FILES, TARGETS, README] as const;

/** So many faults are told. */
const MOST_FAULTS = 5;

/** A directory that cannot be loaded or written. The message names it, and each file with its reason. */
export class BundleError extends Error {
  override readonly name = 'BundleError';

  static of(directory: string, faults: readonly string[]): BundleError {
    const more = faults.length > MOST_FAULTS ? `; and ${faults.length - MOST_FAULTS} more` : '';
    return new BundleError(`${directory} cannot be used: ${faults.slice(0, MOST_FAULTS).join('; ')}${more}`);
  }
}

export const folderOf = (environment: string) => `${FOLDER}${environment}`;

/** The environment that a folder is of; undefined for what has nothing to do with bundles. */
export function environmentOf(folder: string): string | undefined {
  return folder.startsWith(FOLDER) && folder.length > FOLDER.length ? folder.slice(FOLDER.length) : undefined;
}

/** A state of the fold, as bundles hold it. */
export function bundled(state: EnvironmentState): BundleEnvironment {
  const { id, account } = state;
  return { id, account, flags: flagsOf(state), segments: segmentsOf(state), apiKeys: apiKeysOf(state) };
}

export interface EncodedFile {
  /** Relative to the directory, with `/`. */
  readonly path: string;
  readonly text: string;
}

/** The files of a bundle, one environment after the other; the manifest is the last. */
export function* encode(
  environments: readonly BundleEnvironment[],
  origin: BundleOrigin,
): Iterable<EncodedFile> {
  const files: Record<string, { bytes: number; sha256: string }> = {};
  for (const environment of environments) {
    for (const [name, text] of Object.entries(textsOf(environment, origin))) {
      const path = `${folderOf(environment.id)}/${name}`;
      files[path] = { bytes: Buffer.byteLength(text), sha256: sha256(text) };
      yield { path, text };
    }
  }
  const { leftOut = [], ...from } = origin;
  const told: Manifest = {
    format: 'ff-relay-bundle',
    version: FORMAT_VERSION,
    ...from,
    ...(leftOut.length > 0 && { leftOut: [...leftOut] }),
    environments: environments.map(({ id, account, flags, segments, apiKeys }) => ({
      id,
      ...(account !== undefined && { account }),
      flags: flags.length,
      segments: segments.length,
      apiKeys: apiKeys.length,
    })),
    files,
  };
  yield { path: MANIFEST, text: `${JSON.stringify(told, undefined, 2)}\n` };
}

function textsOf(environment: BundleEnvironment, { time }: BundleOrigin) {
  const { id, flags, segments, apiKeys } = environment;
  return {
    [FLAGS]: listText(flags),
    [SEGMENTS]: listText(segments),
    [API_KEYS]: listText(apiKeys),
    [TARGETS]: '[]\n',
    [README]: [
      `# Environment ${flags[0]?.environment ?? id}`,
      '',
      `- UUID: ${id}`,
      `- flags: ${flags.length}`,
      `- target groups: ${segments.length}`,
      `- SDK keys: ${apiKeys.length}`,
      `- as of: ${time}`,
      '',
    ].join('\n'),
  };
}

/** Each entry on a line of its own, so that two bundles can be compared by line. */
function listText(entries: readonly unknown[]): string {
  return entries.length === 0
    ? '[]\n'
    : `[\n${entries.map((entry) => JSON.stringify(entry)).join(',\n')}\n]\n`;
}

/** Whether a file of that name is a bundle's, of whatever version: web apps have one, too. */
export function isManifest(text: string): boolean {
  try {
    return z.looseObject({ format: manifest.shape.format }).safeParse(JSON.parse(text)).success;
  } catch {
    return false;
  }
}

/** Throws an Error that says what is wrong with it. */
export function manifestIn(text: string): Manifest {
  const read = manifest.safeParse(parsed(text));
  if (!read.success) {
    const [issue] = read.error.issues;
    throw new Error(`it is no manifest of a bundle (${issue?.path.join('.') || 'it'}: ${issue?.message})`);
  }
  if (read.data.version > FORMAT_VERSION)
    throw new Error('a later version of ff-relay wrote this bundle: use that version, or export it again');
  return read.data;
}

/**
 * What the files of one environment say.
 *
 * @param textOf the text of a file by its name; undefined if it is not there, or why it cannot be read
 * @param faults gets what is wrong, file by file
 */
export function decodeEnvironment(
  id: string,
  textOf: (file: (typeof READ_FILES)[number]) => string | Error | undefined,
  told: Manifest | undefined,
  faults: string[],
): BundleEnvironment {
  const listOf = <Item>(file: (typeof READ_FILES)[number], check: (list: unknown) => CheckedList<Item>) => {
    const path = `${folderOf(id)}/${file}`;
    const text = textOf(file);
    try {
      if (text === undefined) throw new Error('it is missing');
      if (text instanceof Error) throw text;
      if (told && told.files[path]?.sha256 !== sha256(text))
        throw new Error(`it is not as ${MANIFEST} says: changed, or not copied to its end`);
      // The Go relay writes an empty list as null.
      const { items, faults: wrong } = check(parsed(text) ?? []);
      if (wrong.length > 0) throw new Error(wrong.slice(0, MOST_FAULTS).join(', '));
      return items;
    } catch (error) {
      faults.push(`${path}: ${(error as Error).message}`);
      return [];
    }
  };
  return {
    id,
    account: told?.environments.find((environment) => environment.id === id)?.account,
    flags: listOf(FLAGS, flagsIn),
    segments: listOf(SEGMENTS, segmentsIn),
    apiKeys: listOf(API_KEYS, (list) => apiKeysIn(withoutPrefix(list))),
  };
}

/** Some Go relays wrote the hashes of SDK keys as they name them in Redis. */
function withoutPrefix(list: unknown): unknown {
  if (!Array.isArray(list)) return list;
  return list.map((key: unknown) => (typeof key === 'string' ? key.replace(/^auth-key-/, '') : key));
}

/** What is wrong with the environments together. */
export function faultsBetween(
  environments: readonly BundleEnvironment[],
  told: Manifest | undefined,
): string[] {
  const faults: string[] = [];
  const holders = new Map<string, string>();
  for (const { id, apiKeys } of environments) {
    for (const key of apiKeys) {
      const other = holders.get(key);
      if (other !== undefined)
        faults.push(`${folderOf(id)}/${API_KEYS}: ${key.slice(0, 8)}… is a key of ${folderOf(other)} too`);
      holders.set(key, id);
    }
  }
  if (!told) return faults;
  const present = new Set(environments.map(({ id }) => id));
  const listed = new Set(told.environments.map(({ id }) => id));
  for (const id of listed)
    if (!present.has(id)) faults.push(`${folderOf(id)}: is missing, and in ${MANIFEST}`);
  for (const id of present) if (!listed.has(id)) faults.push(`${folderOf(id)}: is not in ${MANIFEST}`);
  return faults;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = text.trim() === '' ? 'it is empty' : (error as Error).message;
    throw new Error(`it is not JSON, or cut off (${reason})`, { cause: error });
  }
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
