import { readFileSync } from 'node:fs';

import { z } from 'zod';

/** Settings that cannot be used: every fault, each with what to write instead. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError';
  constructor(readonly faults: readonly string[]) {
    super(`These settings need a change:\n${faults.map((fault) => `  - ${fault}`).join('\n')}`);
  }
}

/** What a setting says about itself, beside its type and default. */
export interface SettingNote extends Record<string, unknown> {
  /** One line on what it does, with its unit. */
  readonly description: string;
  /** What to write, shown when the value cannot be used. */
  readonly expected: string;
  /** Never shown, not even when it is wrong. */
  readonly secret?: boolean;
}

/**
 * Reads the settings named by `shape` (environment variable → schema of its text). Empty text is unset, as
 * compose files write it. A secret may also stand in a file that `<NAME>_FILE` names, as container platforms mount it.
 * Throws SettingsError with all faults together.
 */
export function readSettings<Shape extends Record<string, z.ZodType>>(
  shape: Shape,
  environment: NodeJS.ProcessEnv,
): { [Name in keyof Shape]: z.infer<Shape[Name]> } {
  const faults: string[] = [];
  const settings = Object.entries(shape).map(([name, schema]) => {
    try {
      const text = textOf(name, schema, environment);
      const read = schema.safeParse(text);
      if (!read.success) faults.push(faultIn(name, text, schema));
      return [name, read.data];
    } catch (error) {
      faults.push((error as Error).message);
      return [name, undefined];
    }
  });
  if (faults.length > 0) throw new SettingsError(faults);
  return Object.fromEntries(settings) as { [Name in keyof Shape]: z.infer<Shape[Name]> };
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
  if (text !== undefined) throw new Error(`${name} and ${name}_FILE are both set: leave one of them out`);
  try {
    return secretIn(file);
  } catch (error) {
    throw new Error(`${name}_FILE: ${(error as Error).message}`, { cause: error });
  }
}

/** The secret that a file holds, without the space around it. Throws if there is none. */
function secretIn(file: string): string {
  const secret = readFileSync(file, 'utf8').trim();
  if (!secret) throw new Error(`${file} is empty`);
  return secret;
}

function isSecret(schema: z.ZodType): boolean {
  return (schema.meta() as SettingNote | undefined)?.secret === true;
}

function faultIn(name: string, text: string | undefined, schema: z.ZodType): string {
  const { description, expected, secret } = schema.meta() as unknown as SettingNote;
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
  z
    .string()
    .regex(/^\d+$/)
    .transform(Number)
    .refine((value) => value >= least && value <= most);

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
    } satisfies SettingNote);

export const logFormat = () =>
  z
    .enum(['text', 'json'])
    .default('text')
    .meta({ description: 'how log lines are written', expected: 'text or json' } satisfies SettingNote);

/** The settings as rows of a Markdown table: name, default, what to write, what it does. */
export function settingsTable(shape: Record<string, z.ZodType>): string {
  const rows = Object.entries(shape).map(([name, schema]) => {
    const { description, expected } = schema.meta() as unknown as SettingNote;
    const names = isSecret(schema) ? `\`${name}\` or \`${name}_FILE\`` : `\`${name}\``;
    return `| ${names} | ${standardOf(schema)} | ${expected} | ${description} |`;
  });
  return ['| setting | default | write | what it does |', '| --- | --- | --- | --- |', ...rows, ''].join(
    '\n',
  );
}

function standardOf(schema: z.ZodType): string {
  const { success, data } = schema.safeParse(undefined) as {
    success: boolean;
    data?: string | number | boolean;
  };
  if (!success) return 'required';
  return data === undefined ? 'not set' : `\`${data}\``;
}
