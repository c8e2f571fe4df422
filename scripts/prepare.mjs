/**
 * Brings a checkout to where it can run: packages as in the lock file, the build as in the sources, and what the tests
 * need of the machine. Does only what is missing. Runs on any Node that npm runs on, so it uses nothing new.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const binaries = join(root, 'node_modules', '.bin');

/** The Node that the project pins; the machine's own may be older. */
export const node = join(binaries, process.platform === 'win32' ? 'node.cmd' : 'node');

/** @param programs what else must be on the PATH, by its keys in PROGRAMS */
export function prepare(programs = []) {
  installPackages();
  build();
  findPrograms(programs);
}

function installPackages() {
  const stamp = join(root, 'node_modules', '.installed');
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  console.log('Installing packages (once) …');
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  writeFileSync(stamp, wanted);
}

function build() {
  const stamp = join(root, 'dist', '.built');
  const sources = ['apps', 'libs', 'package.json', 'nest-cli.json', '.swcrc', 'tsconfig.json'];
  const newest = Math.max(...sources.map((source) => newestIn(join(root, source))));
  if (existsSync(stamp) && Number(readFileSync(stamp, 'utf8')) === newest) return;
  console.log('Building …');
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  run('nest', ['build', '--all']);
  writeFileSync(stamp, String(newest));
}

/** When anything in there was last changed, a removal included. */
function newestIn(path) {
  const { mtimeMs } = statSync(path);
  if (!statSync(path).isDirectory()) return mtimeMs;
  return Math.max(mtimeMs, ...readdirSync(path).map((name) => newestIn(join(path, name))));
}

/** What runs beside Node, by its Debian package: any of the names will do. */
const PROGRAMS = {
  chromium: { names: ['chromium', 'chromium-browser', 'google-chrome'], setting: 'CHROMIUM_PATH' },
  'nats-server': { names: ['nats-server'] },
  'redis-server': { names: ['redis-server'] },
};

/** Installs the programs that are missing, where that is possible; else says which and how. */
function findPrograms(programs) {
  const missing = programs.filter((program) => {
    const { names, setting } = PROGRAMS[program];
    return !(setting && process.env[setting]) && !names.some(pathOf);
  });
  if (missing.length === 0) return;
  if (pathOf('apt-get') && process.getuid?.() === 0) {
    console.log(`Installing ${missing.join(', ')} (once) …`);
    run('apt-get', ['update', '-qq']);
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing]);
    return;
  }
  console.error(
    `These programs are needed and not on the PATH: ${missing.join(', ')}. ` +
      `Install them (Debian: sudo apt-get install ${missing.join(' ')}; ` +
      `macOS: brew install ${missing.join(' ').replaceAll('redis-server', 'redis')}).`,
  );
  process.exit(1);
}

/** Where a program is on the PATH; undefined if it is not. */
export function pathOf(name) {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Runs a command to its end; what it says is shown only if it fails. */
function run(command, args) {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    shell: process.platform === 'win32',
    env: {
      ...process.env,
      PATH: `${binaries}${delimiter}${process.env.PATH}`,
      DEBIAN_FRONTEND: 'noninteractive',
    },
  });
  if (status === 0) return;
  console.error(`${stdout ?? ''}${stderr ?? ''}`);
  console.error(
    `\`${command} ${args.join(' ')}\` failed${error ? `: ${error.message}` : ` with exit code ${status}`}.`,
  );
  process.exit(1);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  prepare(process.argv.includes('--tests') ? Object.keys(PROGRAMS) : []);
}
