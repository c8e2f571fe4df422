import { describe, expect, it } from '@jest/globals';

import { targetIn } from './import.command.js';

describe('The target of an import', () => {
  it.each([
    ['http://localhost:7100/', 'http://localhost:7100'],
    ['HTTPS://flags.example.com//', 'HTTPS://flags.example.com'],
    ['data/', 'data/'],
    ['a@b', 'a@b'],
    ['/', '/'],
  ])('is an address, or a folder as it was named: %s', (text, target) => {
    expect(targetIn(text)).toBe(target);
  });

  it.each(['http://admin:hush@localhost:7100', 'http://admin:hu/sh@localhost', 'http://localhost/?key=hush'])(
    'is refused where it may have a password, which is not repeated: %s',
    (text) => {
      const refusal = () => targetIn(text);
      expect(refusal).toThrow('--into takes an address without user, password or query');
      expect(refusal).not.toThrow(/hu/);
    },
  );

  it.each(['', 'http:', 'https://'])('is refused where it is none: %j', (text) => {
    expect(() => targetIn(text)).toThrow(/^it is (empty|an http or https address)/);
  });
});
