import { describe, expect, it } from '@jest/globals';

import { prefixIn } from './replay-target.js';

describe('The target of a replay', () => {
  it('is a prefix of keys after redis:, and else a file', () => {
    expect(prefixIn('redis:noon:')).toBe('noon:');
    expect(prefixIn('noon.json')).toBeUndefined();
    expect(prefixIn('-')).toBeUndefined();
  });

  it.each(['redis:', 'redis:noon', 'redis::', 'redis:no*n:', 'redis:a:b:', 'redis:{a}:'])(
    'is no prefix that a pattern could take for another: %s',
    (target) => {
      expect(() => prefixIn(target)).toThrow('a prefix is letters');
    },
  );

  it.each(['redis:env-a:', 'redis:auth-key-a:', 'redis:ff-relay-a:'])(
    'is no prefix that a relay could take for its own: %s',
    (target) => {
      expect(() => prefixIn(target)).toThrow("the relay's own keys begin so");
    },
  );
});
