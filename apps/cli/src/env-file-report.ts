import { type EnvFileLine, readEnvFile } from '#libs/config';

/** What a line of an env-file comes to, as the other checks say it. */
export interface EnvFileFinding {
  readonly level: 'ok' | 'warn' | 'fail';
  /** `line 3 PORT`, or what the file lacks. */
  readonly subject: string;
  readonly what: string;
}

const LEVELS: Record<EnvFileLine['meaning'], EnvFileFinding['level']> = {
  kept: 'ok',
  renamed: 'ok',
  differs: 'warn',
  default: 'warn',
  none: 'warn',
  unknown: 'warn',
  wrong: 'fail',
  unread: 'fail',
  missing: 'fail',
};

const WORDS: Record<EnvFileLine['meaning'], string> = {
  kept: 'kept',
  renamed: 'renamed',
  differs: 'kept, and not quite the same',
  default: 'not set, and another default here',
  none: 'nothing here',
  unknown: 'unknown',
  wrong: 'cannot be used',
  unread: 'cannot be read',
  missing: 'missing',
};

/** What each line of an env-file means to this relay, in the order of the file, then what it lacks. */
export function envFileFindings(text: string): EnvFileFinding[] {
  return readEnvFile(text).map(({ line, name, meaning, says }) => ({
    level: LEVELS[meaning],
    subject: [line === undefined ? [] : `line ${line}`, name ?? []].flat().join(' '),
    what: `${WORDS[meaning]}: ${says}`,
  }));
}

/** The findings as lines of text, one below the other, and how many of each kind there are. */
export function envFileReport(findings: readonly EnvFileFinding[]): string {
  const width = Math.max(0, ...findings.map(({ subject }) => subject.length));
  const lines = findings.map(
    ({ level, subject, what }) => `${level.padEnd(4)}  ${subject.padEnd(width)}  ${what}`,
  );
  const count = (level: EnvFileFinding['level']) =>
    findings.filter((finding) => finding.level === level).length;
  return [...lines, '', `${count('ok')} ok, ${count('warn')} to look at, ${count('fail')} to change`].join(
    '\n',
  );
}
