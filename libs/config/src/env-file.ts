import util from 'node:util';

import type { z } from 'zod';

import { GO_RELAY, isSet, OTHER_SPELLINGS, withPresentNames } from './go-relay.js';
import { rulesOf, startedAs } from './relay-config.js';
import { faultIn, isRequired, isSecret, noteOf, setTwice } from './settings.js';

/** What a line of an env-file means to this relay. */
export interface EnvFileLine {
  /** From 1; undefined for what the file lacks, and for what is wrong with several lines together. */
  readonly line: number | undefined;
  /** The name that it sets; undefined if it sets none. */
  readonly name: string | undefined;
  /**
   * `kept` works as it is; `renamed` works, and has another name here; `differs` works, and not quite as there;
   * `default` is not there, and has another default here; `none` has no meaning here; `unknown` is no setting of either relay; `wrong` cannot be used, and keeps the relay
   * from starting; `unread` is no line of an env-file; `missing` is not there, and must be.
   */
  readonly meaning:
    'kept' | 'renamed' | 'differs' | 'default' | 'none' | 'unknown' | 'wrong' | 'unread' | 'missing';
  /** A sentence, with what to write where something is to change. Never holds a value that may be a secret. */
  readonly says: string;
}

/** Node reads these before the relay begins, so it takes no file for them. */
const OF_NODE = new Set(['NODE_OPTIONS', 'NODE_EXTRA_CA_CERTS', 'NODE_USE_SYSTEM_CA']);
const SETS = /^\s*(?:export\s+)?([A-Za-z_][\w.-]*)\s*=(.*)$/;

/**
 * What each line of an env-file, for example a Go relay's, means to this relay. Nothing else is looked at: neither the
 * environment nor the files that it names.
 *
 * @param text of the file, with lines `NAME=value`
 */
export function readEnvFile(text: string): EnvFileLine[] {
  const values = util.parseEnv(text) as Record<string, string>;
  const lines = text.split(/\r?\n/);
  const last = new Map(lines.map((line, i) => [SETS.exec(line)?.[1], i + 1]));
  const environment = withPresentNames(values);
  const { roles, required } = startedAs(environment);
  const { shape, faultsBetween } = rulesOf(environment, roles, required);
  const inside = Object.values(values).flatMap((value) => value.split('\n').slice(1));
  const read = lines.flatMap((line, i): EnvFileLine[] => {
    const at = i + 1;
    const [, name, written = ''] = SETS.exec(line) ?? [];
    if (/^\s*(#.*)?$/.test(line)) return [];
    const value = name === undefined ? undefined : values[name];
    if (name === undefined || value === undefined) {
      if (inside.some((rest) => rest.includes(line.trim()))) return [];
      return [{ line: at, name: undefined, meaning: 'unread', says: 'a line is NAME=value' }];
    }
    if (last.get(name) !== at)
      return [{ line: at, name, meaning: 'none', says: `line ${last.get(name)} sets it again` }];
    return [{ line: at, name, ...meaningOf(name, value, written, shape) }];
  });
  const wrong = new Set(read.flatMap(({ name, meaning }) => (meaning === 'wrong' && name) || []));
  const missing = missingIn(environment, shape).filter(({ name }) => !wrong.has(name ?? ''));
  const between = [...twiceIn(environment, shape), ...faultsBetween(readableIn(environment, shape))];
  return [...read, ...missing, ...between.map(ofSeveralLines), ...defaultsIn(values)];
}

type Shape = Readonly<Record<string, z.ZodType>>;

type Meaning = Pick<EnvFileLine, 'meaning' | 'says'>;

function meaningOf(name: string, value: string, written: string, shape: Shape): Meaning {
  if (OF_NODE.has(name))
    return {
      meaning: 'differs',
      says: 'Node reads it before the relay reads a file: set it in the environment (for certificates, UPSTREAM_CA does the same)',
    };
  const former = GO_RELAY[name];
  if (former?.instead !== undefined) return { meaning: 'none', says: former.instead };
  const setting = former?.now ?? OTHER_SPELLINGS[name] ?? name;
  const schema = shape[setting] ?? shape[setting.replace(/_FILE$/, '')];
  const isFile = shape[setting] === undefined;
  if (schema === undefined || (isFile && !isSecret(schema)))
    return { meaning: 'unknown', says: 'it is no setting of this relay, nor of the Go relay' };
  if (isCut(written))
    return {
      meaning: 'wrong',
      says: 'what stands behind # is taken for a comment: put the value in single quotes',
    };
  if (!isSet(value)) return { meaning: 'kept', says: 'it is empty, which is the same as not set' };
  if (value.includes('\n'))
    return {
      meaning: 'wrong',
      says: 'its quote does not end on the line, so it takes in the lines after it',
    };
  const fault = isFile ? undefined : faultIn(setting, value, schema);
  if (fault !== undefined) return { meaning: 'wrong', says: adviceFor(setting, fault) };
  if (setting !== name) return { meaning: 'renamed', says: `it is ${setting} here` };
  if (former?.differs !== undefined && (former.differsFor ?? value) === value)
    return { meaning: 'differs', says: `it ${former.differs}` };
  return { meaning: 'kept', says: noteOf(schema).description };
}

/** Docker takes a `#` for a part of the value, and other readers do not. @param written all that stands behind `=` */
function isCut(written: string): boolean {
  const [beforeComment = ''] = written.split(/\s#/, 1);
  return !/^\s*['"`]/.test(written) && beforeComment.includes('#');
}

function adviceFor(setting: string, fault: string): string {
  if (setting !== 'AUTH_SECRET') return fault;
  return `${fault}. To keep SDKs signed in, give the value that stands here as AUTH_SECRET_PREVIOUS`;
}

/** Without these the relay does not start. */
function missingIn(environment: NodeJS.ProcessEnv, shape: Shape): EnvFileLine[] {
  return Object.entries(shape).flatMap(([name, schema]) => {
    if (!isRequired(schema) || isSet(environment[name])) return [];
    if (isSecret(schema) && isSet(environment[`${name}_FILE`])) return [];
    const { expected, description } = noteOf(schema);
    const says = `set it to ${expected} (${description})`;
    return [{ line: undefined, name, meaning: 'missing', says }];
  });
}

function twiceIn(environment: NodeJS.ProcessEnv, shape: Shape): string[] {
  return Object.entries(shape).flatMap(
    ([name, schema]) => (isSecret(schema) && setTwice(name, environment)) || [],
  );
}

/** What can be read of the settings. */
function readableIn(environment: NodeJS.ProcessEnv, shape: Shape) {
  return Object.fromEntries(
    Object.entries(shape).map(([name, schema]) => [
      name,
      schema.safeParse(environment[name]?.trim() || undefined).data,
    ]),
  );
}

function ofSeveralLines(says: string): EnvFileLine {
  return { line: undefined, name: /^[A-Z_]+/.exec(says)?.[0], meaning: 'wrong', says };
}

function defaultsIn(values: Readonly<Record<string, string>>): EnvFileLine[] {
  return Object.entries(GO_RELAY).flatMap(([name, { unset }]) =>
    unset === undefined || isSet(values[name])
      ? []
      : [{ line: undefined, name, meaning: 'default', says: unset }],
  );
}
