/**
 * Keeps a set of processes running. They start group by group, each once all of the group before it are up. One that
 * ends is started again, after a pause that grows while it keeps ending. At the end the groups stop in reverse order.
 *
 * Each process leads a group of its own, so that Ctrl-C reaches the supervisor only, and the order holds.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
/** Who ran for so long has recovered: the next pause is short again. */
const STEADY_MS = 30_000;
const GRACE_MS = 15_000;
const POLL_MS = 100;
const COLOURS = [32, 33, 34, 35, 36, 92, 94, 95];

/**
 * @typedef Service
 * @property {string} name stands before each line that it prints
 * @property {string} command
 * @property {string[]} args
 * @property {NodeJS.ProcessEnv} [env] added to this process's own
 * @property {boolean} [endsWithParent] it has an IPC channel, and ends when that closes
 * @property {() => Promise<boolean>} up whether it does what the next group needs
 */

export class Supervisor {
  #groups;
  #watcher;
  #stopping = new AbortController();

  /**
   * @param {Service[][]} groups
   * @param {(service: Service) => void} cannotStart called when a process ends by itself before it was ever up; it has
   * said why, and is not started again
   */
  constructor(groups, cannotStart) {
    const names = groups.flat().map(({ name }) => name);
    const width = Math.max(...names.map(({ length }) => length));
    this.#groups = groups.map((services) =>
      services.map((service) => {
        const prefix = `${service.name.padEnd(width)} │ `;
        return new Keeper(service, {
          stopping: this.#stopping.signal,
          say: (line) => console.log(coloured(prefix, names.indexOf(service.name)) + line),
          changed: () => this.#tellWatcher(),
          cannotStart,
        });
      }),
    );
  }

  /** Resolves to true once all are up, to false if it was stopped before. */
  async start() {
    this.#startWatcher();
    for (const group of this.#groups) {
      for (const keeper of group) keeper.start();
      const up = await Promise.all(group.map((keeper) => keeper.up()));
      if (up.includes(false)) return false;
    }
    return true;
  }

  /** Resolves when none is left. */
  async stop() {
    this.#stopping.abort();
    for (const group of this.#groups.toReversed()) {
      await Promise.all(group.map((keeper) => keeper.stop()));
    }
  }

  pidOf(name) {
    return this.#groups.flat().find((keeper) => keeper.name === name).pid;
  }

  #startWatcher() {
    this.#watcher = spawn(process.execPath, [join(dirname(fileURLToPath(import.meta.url)), 'watcher.mjs')], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      detached: true,
    });
    this.#watcher.once('exit', () => !this.#stopping.signal.aborted && this.#startWatcher());
    this.#tellWatcher();
  }

  #tellWatcher() {
    const pids = this.#groups.flat().flatMap(({ pid }) => pid ?? []);
    // It may just have died; the next one is told anew.
    if (this.#watcher.connected) this.#watcher.send(pids, () => {});
  }
}

/** Keeps one process running. */
class Keeper {
  #service;
  #set;
  #child;
  #startedAt = 0;
  #wasUp = false;
  #pauseMs = FIRST_PAUSE_MS;

  constructor(service, set) {
    this.#service = service;
    this.#set = set;
  }

  get name() {
    return this.#service.name;
  }

  get pid() {
    return this.#child?.pid;
  }

  start() {
    const { command, args, env, endsWithParent } = this.#service;
    const child = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe', ...(endsWithParent ? ['ipc'] : [])],
      detached: true,
    });
    this.#child = child;
    this.#startedAt = Date.now();
    for (const input of [child.stdout, child.stderr]) createInterface({ input }).on('line', this.#set.say);
    child.once('error', (error) => this.#set.say(error.message));
    child.once('close', (code, signal) => this.#ended(code, signal));
    this.#set.say(`runs as process ${child.pid}`);
    this.#set.changed();
  }

  async up() {
    while (!this.#set.stopping.aborted) {
      if (this.#child && (await this.#service.up())) return (this.#wasUp = true);
      await delay(POLL_MS);
    }
    return false;
  }

  async stop() {
    const child = this.#child;
    if (!child) return;
    const force = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
    child.kill('SIGTERM');
    await once(child, 'close');
    clearTimeout(force);
  }

  #ended(code, signal) {
    this.#child = undefined;
    this.#set.changed();
    if (this.#set.stopping.aborted) return;
    if (!this.#wasUp && code) return this.#set.cannotStart(this.#service);
    if (Date.now() - this.#startedAt > STEADY_MS) this.#pauseMs = FIRST_PAUSE_MS;
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    this.#set.say(`ended (${signal ?? `exit code ${code}`}); starting it again in ${pauseMs / 1000} s`);
    delay(pauseMs, undefined, { signal: this.#set.stopping }).then(
      () => this.start(),
      () => {},
    );
  }
}

function coloured(text, index) {
  if (!process.stdout.isTTY || process.env.NO_COLOR) return text;
  return `\x1b[${COLOURS[index % COLOURS.length]}m${text}\x1b[0m`;
}
