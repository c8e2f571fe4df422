import { readFileSync } from 'node:fs';
import util from 'node:util';

import { Command, CommanderError, Option } from 'commander';

import { GO_RELAY, isSet, withPresentNames } from './go-relay.js';
import { RELAY_SETTINGS, RelayConfig, type Role } from './relay-config.js';
import { isSecret, noteOf, typeOf } from './settings.js';

/** Where the settings of a process come from, put together. */
export interface GivenSettings {
  /** By the name of the environment variable: flags go before the environment, that before an env-file. */
  readonly environment: NodeJS.ProcessEnv;
  readonly faults: readonly string[];
  readonly remarks: readonly string[];
}

/** A flag, and the setting that it sets. */
interface Flag {
  readonly name: string;
  readonly setting: string;
  readonly isYesOrNo: boolean;
  readonly description: string;
  readonly isSecret: boolean;
  readonly isShown: boolean;
}

const FLAGS: readonly Flag[] = flags();

/**
 * Reads the settings that a process is started with: each has a flag, as in the Go relay (`--proxy-key X`,
 * `-proxy-key X`, `--proxy-key=X`; what is true or false needs no value), and `--env-file` names a file with more.
 * `--help` tells of them all and ends the process. What is wrong with the command line is returned, so that it is told
 * together with what is wrong with the settings.
 *
 * @param args without the program and its script
 */
export function givenSettings(args: readonly string[], environment: NodeJS.ProcessEnv): GivenSettings {
  const { values, envFile, faults } = readFlags(args);
  const set = Object.entries(environment).filter(([, text]) => isSet(text));
  let given = withPresentNames(Object.fromEntries(set));
  if (envFile !== undefined) {
    try {
      given = laidOver(given, withPresentNames(util.parseEnv(readFileSync(envFile, 'utf8'))));
    } catch (error) {
      faults.push(`--env-file: ${(error as Error).message}`);
    }
  }
  const told = FLAGS.filter(({ setting, isSecret }) => isSecret && holdsSecret(setting, values[setting]));
  const settings = new Set(told.map(({ setting }) => setting));
  return {
    environment: laidOver(withPresentNames(values), given),
    faults,
    remarks: [...settings].map(
      (setting) =>
        `${setting} is on the command line, which everybody on this machine may read: set it in the environment, or ` +
        `set ${setting}_FILE to a file that holds it`,
    ),
  };
}

/** An address holds one only with a password in it. */
function holdsSecret(setting: string, text: string | undefined): boolean {
  if (text === undefined) return false;
  const isAddress = /_(ADDRESS|URL|PROXY)$/.test(setting);
  return !isAddress || text.includes('@');
}

/** The settings of this process. @param roles what it runs, by what its environment says. Throws SettingsError */
export function ownConfig(roles: (environment: NodeJS.ProcessEnv) => readonly Role[]): RelayConfig {
  const { environment, ...told } = givenSettings(process.argv.slice(2), process.env);
  return new RelayConfig(environment, roles(environment), told);
}

function flags(): Flag[] {
  const ofSettings = Object.entries(RELAY_SETTINGS).flatMap(([setting, schema]) => {
    // `--no-…` takes something back, for whoever reads command lines.
    if (setting.startsWith('NO_')) return [];
    const { description } = noteOf(schema);
    const secret = isSecret(schema);
    const flag = { name: flagOf(setting), setting, description, isSecret: secret, isShown: true };
    return [
      { ...flag, isYesOrNo: typeOf(schema) === 'true or false' },
      ...(secret
        ? [
            {
              ...flag,
              name: `${flag.name}-file`,
              setting: `${setting}_FILE`,
              isSecret: false,
              isYesOrNo: false,
              description: `a file that holds ${setting}`,
            },
          ]
        : []),
    ];
  });
  const known = new Set(ofSettings.map(({ name }) => name));
  const ofTheGoRelay = Object.entries(GO_RELAY).flatMap(
    ([setting, { flag = flagOf(setting), yesOrNo = false }]) => {
      if (known.has(flag)) return [];
      const same = ofSettings.find((other) => other.setting === setting);
      const isYesOrNo = same?.isYesOrNo ?? yesOrNo;
      return [{ name: flag, setting, isYesOrNo, description: '', isSecret: false, isShown: false }];
    },
  );
  return [...ofSettings, ...ofTheGoRelay];
}

function flagOf(setting: string): string {
  return setting.toLowerCase().replaceAll('_', '-');
}

interface ReadFlags {
  readonly values: Record<string, string>;
  readonly envFile: string | undefined;
  readonly faults: string[];
}

function readFlags(args: readonly string[]): ReadFlags {
  const values: Record<string, string> = {};
  const faults: string[] = [];
  let envFile: string | undefined;
  const command = new Command('ff-relay')
    .usage('[flags]')
    .description(
      'Runs the relay. Each setting is a flag, an environment variable (--proxy-key is PROXY_KEY), or a line of an ' +
        'env-file; a flag goes before the environment, and that before the file.',
    )
    .allowUnknownOption()
    .allowExcessArguments()
    .configureOutput({ writeErr: () => undefined })
    .exitOverride((error) => {
      if (error.exitCode === 0) process.exit(0);
      throw error;
    })
    .option('--env-file <file>', 'a file with lines NAME=value')
    .on('option:env-file', (file: string) => (envFile = file));
  for (const { name, setting, isYesOrNo, description, isShown } of FLAGS) {
    const flag = `--${name} ${isYesOrNo ? '[true or false]' : '<value>'}`;
    command
      .addOption(new Option(flag, description).hideHelp(!isShown))
      .on(`option:${name}`, (value?: string | null) => (values[setting] = value ?? 'true'));
  }
  try {
    command.parse(inTwoDashes(args), { from: 'user' });
    faults.push(...unknownIn(command.args));
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    faults.push(`The last flag has no value (${error.message.replace(/^error: /, '')})`);
  }
  return { values, envFile, faults };
}

const WITH_VALUE = new Set(['env-file', ...FLAGS.flatMap(({ name, isYesOrNo }) => (isYesOrNo ? [] : name))]);
const WITHOUT_VALUE = new Set(['help', ...FLAGS.flatMap(({ name, isYesOrNo }) => (isYesOrNo ? name : []))]);

/** `-proxy-key` as `--proxy-key`; a value that begins with a dash stays as it is. */
function inTwoDashes(args: readonly string[]): string[] {
  let isValue = false;
  return args.map((arg) => {
    const [, name = '', equals] = /^--?([A-Za-z][\w-]*)(=?)/.exec(arg) ?? [];
    if (isValue || !(WITH_VALUE.has(name) || WITHOUT_VALUE.has(name))) {
      isValue = false;
      return arg;
    }
    isValue = !equals && WITH_VALUE.has(name);
    return arg.startsWith('--') ? arg : `-${arg}`;
  });
}

/** What belongs to no flag. Values are not repeated: they may be secrets. */
function unknownIn(args: readonly string[]): string[] {
  const unknown = args.filter((arg) => arg.startsWith('-')).map((arg) => arg.split('=', 1)[0]);
  if (unknown.length > 0) return unknown.map((name) => `${name} is no flag of this relay: --help lists them`);
  return args.length === 0
    ? []
    : [
        'The command line has a word that belongs to no flag: write --port 7000 or --port=7000 (and `npm start -- --port 7000`, with the two dashes, where npm starts it)',
      ];
}

/**
 * A secret and the file that may hold it are one: who sets either leaves nothing of what lies under it. In an environment
 * empty is not set, as compose files write it; a flag without text takes back what lies under it.
 */
function laidOver(over: NodeJS.ProcessEnv, under: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const hidden = new Set(
    Object.keys(RELAY_SETTINGS).flatMap((name) =>
      name in over || `${name}_FILE` in over ? [name, `${name}_FILE`] : [],
    ),
  );
  const left = Object.entries(under).filter(([name]) => !hidden.has(name));
  return { ...Object.fromEntries(left), ...over };
}
