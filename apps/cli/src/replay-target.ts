import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { type FileHandle, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { parseRedisAddress, type RelayConfig } from '#libs/config';
import type { Past } from '#libs/projection';
import type { StateStore } from '#libs/state-store';

import { CommandFailed, reasonOf } from './outcome.js';
import { openStore } from './services.js';
import { environmentsIn, stateJson } from './state-json.js';

/** Where a past state goes. It is opened before the log is read, so that what stands in the way is said at once. */
export interface ReplayTarget {
  write(past: Past, progress: (done: number, of: number) => void): Promise<void>;
  readonly place: string;
  /** How to get rid of what was written, where that is no file. */
  readonly removal?: string;
  close(): Promise<void>;
}

/** Of the keys that relays use. */
const NAMES = ['env-', 'auth-key-', 'ff-relay-'];
const REDIS = 'redis:';
/** What stands behind the name of a file that is written. */
const PART = /^\.(\d+|[0-9a-f]{12})\.part$/;
/** No replay takes so long. */
const LEFT_AFTER_MS = 24 * 3600 * 1000;

/** The prefix of keys that `--into` asks for; undefined if it asks for a file. Throws an Error that says what to write. */
export function prefixIn(target: string): string | undefined {
  if (!target.startsWith(REDIS)) return undefined;
  const prefix = target.slice(REDIS.length);
  if (!/^[A-Za-z0-9_.-]+:$/.test(prefix)) {
    throw new Error('a prefix is letters, digits, "_", "." and "-", then a colon, for example redis:noon:');
  }
  if (NAMES.some((name) => prefix.startsWith(name)))
    throw new Error(`the relay's own keys begin so; take another prefix, for example redis:noon:`);
  return prefix;
}

/** @param replaces whether keys of an earlier replay may be replaced */
export async function openTarget(
  target: string,
  config: RelayConfig,
  replaces: boolean,
): Promise<ReplayTarget> {
  const prefix = prefixIn(target);
  if (prefix !== undefined) return openKeys(config, prefix, replaces);
  return target === '-' ? standardOutput : openFile(target);
}

const standardOutput: ReplayTarget = {
  place: 'on standard output',
  write: (past) => pipeline(Readable.from(stateJson(past)), process.stdout, { end: false }),
  close: async () => undefined,
};

/** The file appears, or is replaced, when all of it is on the disk. */
async function openFile(file: string): Promise<ReplayTarget> {
  // In a container each process has the number of the one before, which may have been killed.
  const beside = `${file}.${randomBytes(6).toString('hex')}.part`;
  const failed = (error: unknown) => {
    return new CommandFailed(
      `${file} cannot be written: ${reasonOf(error)}. Name a file in a folder that you may write to.`,
      { cause: error },
    );
  };
  const remove = () => rmSync(beside, { force: true });
  let handle: FileHandle;
  try {
    await removeLeftovers(file);
    handle = await open(beside, 'wx');
  } catch (error) {
    throw failed(error);
  }
  // Also when the command is interrupted.
  process.once('exit', remove);
  return {
    place: `in ${file}`,
    write: async (past) => {
      try {
        await pipeline(Readable.from(stateJson(past)), handle.createWriteStream({ flush: true }));
        await rename(beside, file);
      } catch (error) {
        throw failed(error);
      }
    },
    close: async () => {
      await handle.close();
      remove();
    },
  };
}

/** Of replays into that file that were killed. */
async function removeLeftovers(file: string): Promise<void> {
  const folder = dirname(file);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.startsWith(`${basename(file)}.`)) continue;
    if (!PART.test(entry.name.slice(basename(file).length))) continue;
    const path = join(folder, entry.name);
    const { mtimeMs } = await stat(path);
    if (Date.now() - mtimeMs > LEFT_AFTER_MS) await rm(path, { force: true });
  }
}

async function openKeys(config: RelayConfig, prefix: string, replaces: boolean): Promise<ReplayTarget> {
  const store = await openStore(config, prefix);
  if (!replaces && (await store.positions()).size > 0) {
    await store.close();
    throw new CommandFailed(
      `Redis has keys that begin with ${prefix} already: take another prefix, or add --replace to remove them first.`,
    );
  }
  return {
    place: `in Redis, in keys that begin with ${prefix}`,
    removal: howToRemove(config, prefix),
    write: (past, progress) =>
      writeKeys(store, past, progress).catch((error: unknown) => {
        const advice = `Call this again with --replace: some keys that begin with ${prefix} may be there`;
        throw new CommandFailed(`The state was not written: ${reasonOf(error)}. ${advice}.`, {
          cause: error,
        });
      }),
    close: () => store.close(),
  };
}

async function writeKeys(
  store: StateStore,
  past: Past,
  progress: (done: number, of: number) => void,
): Promise<void> {
  const { epoch } = past.fold.position;
  // Whatever is there, however new.
  await store.sweep(new Map(), { epoch, sequence: Number.MAX_SAFE_INTEGER });
  const states = environmentsIn(past);
  for (const [i, state] of states.entries()) {
    if (!(await store.replace(state, epoch, undefined)))
      throw new Error('somebody else writes such keys at the same time');
    progress(i + 1, states.length);
  }
}

function howToRemove({ redis }: RelayConfig, prefix: string): string {
  const { kind, hosts, tls } = parseRedisAddress(redis?.address ?? '');
  const [at] = hosts;
  if (kind !== 'server' || !at) return 'Remove all of them when they are of no more use.';
  const client = `redis-cli -h ${at.host} -p ${at.port} -n ${redis?.db ?? 0}${tls ? ' --tls' : ''}`;
  return `Remove them with: ${client} --scan --pattern '${prefix}*' | xargs ${client} unlink`;
}
