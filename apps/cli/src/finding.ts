import type { Paint, Style } from './terminal.js';

/** What a check came to. */
export interface Finding {
  readonly level: 'ok' | 'warn' | 'fail';
  readonly subject: string;
  readonly what: string;
  /** What to do about it. */
  readonly fix?: string;
}

const STYLES: Record<Finding['level'], Style> = { ok: 'green', warn: 'yellow', fail: 'red' };
const SUBJECT_COLUMN = 'settings'.length;

/** A finding as a line, and what to do below it. @param width of the longest subject */
export function findingLines(
  { level, subject, what, fix }: Finding,
  paint: Paint,
  width = SUBJECT_COLUMN,
): readonly string[] {
  const line = `${paint(STYLES[level], level.padEnd(4))}  ${subject.padEnd(width)}  ${what}`;
  return fix ? [line, `${' '.repeat(width + 8)}${paint('dim', `→ ${fix}`)}`] : [line];
}

export function summaryOf(findings: readonly Finding[]): string {
  const count = (level: Finding['level']) => findings.filter((finding) => finding.level === level).length;
  return `${count('ok')} ok, ${count('warn')} to look at, ${count('fail')} failed`;
}
