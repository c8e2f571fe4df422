import { readFileSync } from 'node:fs';

import { z } from 'zod';

/** Settings that cannot be used: every fault, each with what to write instead. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';

  /** @param remarks what else was found: it keeps nothing from starting, and may explain a fault */
  constructor(
    readonly faults: readonly string[],
    readonly remarks: readonly string[] = [],
  ) {
    const listed = (lines: readonly string[]) => lines.map((line) => `  - ${line}`).join('\n');
    super(
      `These settings need a change:\n${listed(faults)}` +
        (remarks.length > 0 ? `\nThese are good to know:\n${listed(remarks)}` : ''),
    );
  }
}

/** What a setting says about itself, beside its type and default. */
export interface SettingNote extends Record<string, unknown> {
  /** One line on what it does. */
  readonly description: string;
  /** What to write, shown when the value cannot be used. */
  readonly expected: string;
  /** Never shown, not even when it is wrong. */
  readonly secret?: boolean;
  /** What its number counts. */
  readonly unit?: string;
  /** What its text is, where the schema does not tell. */
  readonly type?: string;
}

/**
 * Reads the settings named by `shape` (environment variable → schema of its text). Empty text is unset, as
 * compose files write it. A secret may also stand in a file that `<NAME>_FILE` names, as container platforms mount it.
 * Throws SettingsError with all faults together.
 *
 * @param more what else is told: faults that no setting has alone, found in what could be read, and remarks
 */
export function readSettings<Shape extends Record<string, z.ZodType>>(
  shape: Shape,
  environment: NodeJS.ProcessEnv,
  more: {
    readonly faultsIn?: (read: Partial<Read<Shape>>) => readonly string[];
    readonly remarks?: readonly string[];
  } = {},
): Read<Shape> {
  const faults: string[] = [];
  const settings = Object.entries(shape).map(([name, schema]) => {
    try {
      const text = textOf(name, schema, environment);
      const read = schema.safeParse(text);
      if (!read.success) faults.push(faultFor(name, text, schema));
      return [name, read.data];
    } catch (error) {
      faults.push((error as Error).message);
      return [name, undefined];
    }
  });
  const read = Object.fromEntries(settings) as Read<Shape>;
  faults.push(...(more.faultsIn?.(read) ?? []));
  if (faults.length > 0) throw new SettingsError(faults, more.remarks);
  return read;
}

type Read<Shape extends Record<string, z.ZodType>> = { [Name in keyof Shape]: z.infer<Shape[Name]> };

/** What is wrong with the text of a setting, and what to write instead; undefined if it can be used. */
export function faultIn(name: string, text: string | undefined, schema: z.ZodType): string | undefined {
  return schema.safeParse(text).success ? undefined : faultFor(name, text, schema);
}

/** The same settings, of which those named must be set if they are needed, and may be left out if not. */
export function neededBy(
  shape: Record<string, z.ZodType>,
  needs: Readonly<Record<string, boolean>>,
): Record<string, z.ZodType> {
  const changed = Object.entries(needs).map(([name, needed]) => {
    const schema = shape[name] ?? z.string();
    const next =
      needed && schema instanceof z.ZodOptional ? schema.unwrap() : needed ? schema : schema.optional();
    return [name, (next as z.ZodType).meta(schema.meta() ?? {})];
  });
  return { ...shape, ...Object.fromEntries(changed) } as Record<string, z.ZodType>;
}

/** The text of a setting; undefined if it is not set. Throws with what to change if a file that holds it is of no use. */
function textOf(name: string, schema: z.ZodType, environment: NodeJS.ProcessEnv): string | undefined {
  const text = environment[name]?.trim() || undefined;
  const file = isSecret(schema) ? environment[`${name}_FILE`]?.trim() : undefined;
  if (!file) return text;
  const twice = setTwice(name, environment);
  if (twice !== undefined) throw new Error(twice);
  try {
    return secretIn(file);
  } catch (error) {
    throw new Error(`${name}_FILE: ${(error as Error).message}`, { cause: error });
  }
}

/** What is wrong if a secret and the file that holds it are both set. */
export function setTwice(name: string, environment: NodeJS.ProcessEnv): string | undefined {
  const isTwice = environment[name]?.trim() && environment[`${name}_FILE`]?.trim();
  return isTwice ? `${name} and ${name}_FILE are both set: leave one of them out` : undefined;
}

/** The secret that a file holds, without the space around it. Throws if there is none. */
function secretIn(file: string): string {
  const secret = readFileSync(file, 'utf8').trim();
  if (!secret) throw new Error(`${file} is empty`);
  return secret;
}

export function isRequired(schema: z.ZodType): boolean {
  return !schema.safeParse(undefined).success;
}

export function isSecret(schema: z.ZodType): boolean {
  return noteOf(schema)?.secret === true;
}

function faultFor(name: string, text: string | undefined, schema: z.ZodType): string {
  const { description, expected, secret } = noteOf(schema);
  const found =
    text === undefined
      ? 'is not set'
      : secret
        ? 'cannot be used'
        : `cannot be ${JSON.stringify(masked(text))}`;
  return `${name} ${found}: set it to ${expected} (${description})`;
}

/** An address without what it may give away. */
function masked(text: string): string {
  return text.replace(/\/\/[^/]*@/, '//…@').replace(/\?.*/, '?…');
}

export const wholeNumber = (least: number, most: number) =>
  z.string().regex(/^\d+$/).transform(Number).pipe(z.number().min(least).max(most));

export const yesOrNo = () =>
  z.stringbool({ truthy: ['true', 't', '1'], falsy: ['false', 'f', '0'], case: 'insensitive' });

/** Paths are appended to it, and what stands in it is shown: no query, no user and no password. */
export const baseUrl = () =>
  z
    .url({ protocol: /^https?$/ })
    .refine((url) => !/[?#@]/.test(url))
    .transform((url) => url.replace(/\/+$/, ''));

/** A secret that goes into a header. */
export const headerText = () => z.string().regex(/^[\x21-\x7e]+$/);

export const port = (standard: number, description: string) =>
  wholeNumber(0, 65_535)
    .default(standard)
    .meta({
      description,
      expected: 'a port number from 1 to 65535 (0 takes a free one)',
    } satisfies SettingNote);

export const logLevel = () =>
  z
    .string()
    .transform((text) => text.toUpperCase())
    .pipe(z.enum(['DEBUG', 'INFO', 'WARN', 'ERROR']))
    .default('INFO')
    .meta({
      description: 'the least severe lines to log',
      expected: 'DEBUG, INFO, WARN or ERROR',
      type: 'DEBUG, INFO, WARN or ERROR',
    } satisfies SettingNote);

export const logFormat = () =>
  z
    .enum(['text', 'json'])
    .default('text')
    .meta({ description: 'how log lines are written', expected: 'text or json' } satisfies SettingNote);

/**
 * The settings as rows of a Markdown table.
 *
 * @param former the names that a setting had before, as they are to be shown; without it, the table has no such column
 */
export function settingsTable(shape: Record<string, z.ZodType>, former?: (name: string) => string): string {
  const rows = Object.entries(shape).map(([name, schema]) => {
    const { description, expected, unit = '' } = noteOf(schema);
    const names = isSecret(schema) ? `\`${name}\` or \`${name}_FILE\`` : `\`${name}\``;
    const before = former ? [former(name)] : [];
    return [names, ...before, typeOf(schema), standardOf(schema), unit, description, expected];
  });
  const before = former ? ['in the Go relay'] : [];
  const heads = ['setting', ...before, 'type', 'default', 'unit', 'what it does', 'write'];
  const lines = [heads, heads.map(() => '---'), ...rows];
  return lines.map((cells) => `| ${cells.join(' | ')} |\n`.replaceAll('|  |', '| |')).join('');
}

function standardOf(schema: z.ZodType): string {
  const { success, data } = schema.safeParse(undefined) as {
    success: boolean;
    data?: string | number | boolean;
  };
  if (!success) return 'required';
  return data === undefined ? 'not set' : `\`${data}\``;
}

/** In words. */
export function typeOf(schema: z.ZodType): string {
  const { type } = noteOf(schema);
  if (type) return type;
  const [read, written] = (['output', 'input'] as const).map((io) =>
    z.toJSONSchema(schema, { io, unrepresentable: 'any' }),
  );
  if (read?.type === 'boolean') return 'true or false';
  if (read?.type === 'number') return 'whole number';
  if (written?.enum) return written.enum.join(' or ').replace(/ or (?=.* or )/g, ', ');
  return written?.['format'] === 'uri' ? 'URL' : 'text';
}

export function noteOf(schema: z.ZodType): SettingNote {
  return schema.meta() as unknown as SettingNote;
}
