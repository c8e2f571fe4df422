import { type EnvFileLine, readEnvFile } from '#libs/config';

import type { Finding } from './finding.js';

const LEVELS: Record<EnvFileLine['meaning'], Finding['level']> = {
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
export function envFileFindings(text: string): Finding[] {
  return readEnvFile(text).map(({ line, name, meaning, says }) => ({
    level: LEVELS[meaning],
    subject: [line === undefined ? [] : `line ${line}`, name ?? []].flat().join(' '),
    what: `${WORDS[meaning]}: ${says}`,
  }));
}
