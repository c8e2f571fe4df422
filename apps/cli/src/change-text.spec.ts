import { describe, expect, it } from '@jest/globals';

import { fold, unknownEnvironment } from '#libs/domain';

import { aFlag, environmentAdded, environmentRemoved } from '../../../libs/domain/src/builders.suite.js';
import { EnvironmentNames, entryOf, fieldLines } from './change-text.js';
import { changedFields } from './changes.js';
import type { Paint } from './terminal.js';

const plain: Paint = (_, text) => text;

describe('A change in words', () => {
  const flag = { environment: 'dev', kind: 'flag', identifier: 'dark-mode', fields: [] } as const;

  it('is a line with its sign, its name and its versions', () => {
    const [before, after] = [aFlag('dark-mode'), aFlag('dark-mode', { version: 2, state: 'on' })];
    expect(entryOf({ ...flag, change: 'changed', before, after }, 0, plain)).toBe(
      '~ flag dark-mode  v1 → v2',
    );
    expect(entryOf({ ...flag, change: 'added', after }, 0, plain)).toBe('+ flag dark-mode  boolean, on, v2');
    expect(entryOf({ ...flag, change: 'removed', before }, 0, plain)).toBe('- flag dark-mode  v1');
  });

  it('shows the beginning of the hash of an SDK key', () => {
    const key = { environment: 'dev', kind: 'apikey', identifier: '0123456789abcdef', fields: [] } as const;
    expect(entryOf({ ...key, change: 'added' }, 20, plain)).toBe('+ key 0123456789ab…');
  });

  it('has its fields in columns, and not the version again', () => {
    const fields = changedFields(
      aFlag('a', { variations: [{ identifier: 'x', value: 'old words' }], rules: null }),
      aFlag('a', { variations: [{ identifier: 'x', value: 'new' }], state: 'on', version: 2 }),
    );
    expect(fieldLines(fields, plain)).toEqual([
      'state                off → on',
      'variations[x].value  "old words" → new',
      'rules                null → []',
    ]);
  });

  it('shows of long values where they differ', () => {
    const text = (end: string) => `${'x'.repeat(300)}${end}${'y'.repeat(300)}`;
    const lines = fieldLines([{ path: 'value', before: text('old'), after: text('new') }], plain);
    expect(lines).toEqual([
      expect.stringMatching(/^value {2}- …x{20}oldy+…$/),
      expect.stringMatching(/^ {7}\+ …x{20}newy+…$/),
    ]);
  });

  it('says with a sign that a field came or went', () => {
    const fields = [
      { path: 'rules[a]', after: { priority: 1 } },
      { path: 'rules[b]', before: {} },
    ];
    expect(fieldLines(fields, plain)).toEqual(['rules[a]  + {"priority":1}', 'rules[b]  - {}']);
  });

  it('lets nothing of strangers reach the terminal that would steer it', () => {
    const fields = [{ path: 'name\u001b[2J', before: 'a\u001b[31mb', after: 'c\u202e' }];
    const said = fieldLines(fields, plain).join('\n');
    expect(said.split('').filter((char) => (char < ' ' && char !== '\n') || char === '\u202e')).toEqual([]);
    const bell = {
      environment: 'dev',
      kind: 'flag',
      identifier: 'a\u0007',
      change: 'removed',
      fields: [],
    } as const;
    expect(entryOf(bell, 0, plain)).toContain('flag a\\u0007');
  });
});

describe('The name of an environment', () => {
  const stateOf = (id: string, project: string, environment: string) =>
    fold(unknownEnvironment(id), [
      { fact: environmentAdded(id), sequence: 1 },
      {
        fact: { type: 'FlagPublished', environment: id, flag: aFlag('a', { project, environment }) },
        sequence: 2,
      },
    ]);

  it('is what its flags call it, with the project where another is called so, and else its id', () => {
    const names = new EnvironmentNames([
      stateOf('1', 'shop', 'dev'),
      stateOf('2', 'shop', 'prod'),
      stateOf('3', 'mail', 'prod'),
      stateOf('4', 'twin', 'qa'),
      stateOf('5', 'twin', 'qa'),
    ]);
    expect(['1', '2', '3', '4', '6'].map((id) => names.of(id))).toEqual([
      'dev',
      'shop/prod',
      'mail/prod',
      '4',
      '6',
    ]);
    expect(names.matching('prod')).toEqual(['2', '3']);
    expect(names.matching('mail/prod')).toEqual(['3']);
    expect(names.matching('2')).toEqual(['2']);
    expect(names.matching('nowhere')).toEqual([]);
  });

  it('without flags, or of one that was removed, is its id', () => {
    const empty = fold(unknownEnvironment('1'), [{ fact: environmentAdded('1'), sequence: 1 }]);
    const gone = fold(stateOf('2', 'shop', 'dev'), [{ fact: environmentRemoved('2'), sequence: 3 }]);
    const names = new EnvironmentNames([empty, gone]);
    expect(['1', '2'].map((id) => [names.of(id), names.matching(id)])).toEqual([
      ['1', ['1']],
      ['2', ['2']],
    ]);
    expect(names.present()).toEqual(['1']);
  });
});
