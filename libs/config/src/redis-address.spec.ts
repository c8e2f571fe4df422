import { describe, expect, it } from '@jest/globals';

import { parseRedisAddress } from './index.js';

describe('An address of Redis', () => {
  it.each([
    ['localhost', { kind: 'server', hosts: [{ host: 'localhost', port: 6379 }], tls: false }],
    ['redis.local:7000', { kind: 'server', hosts: [{ host: 'redis.local', port: 7000 }], tls: false }],
    ['[::1]:7000', { kind: 'server', hosts: [{ host: '::1', port: 7000 }], tls: false }],
    [
      'rediss://relay:p%40ss@a:1/',
      { kind: 'server', hosts: [{ host: 'a', port: 1 }], tls: true, username: 'relay', password: 'p@ss' },
    ],
    [
      'redis://:secret@a, redis://b:2',
      {
        kind: 'cluster',
        hosts: [
          { host: 'a', port: 6379 },
          { host: 'b', port: 2 },
        ],
        tls: false,
        password: 'secret',
      },
    ],
    [
      'sentinel://relay:secret@a,b:2/main',
      {
        kind: 'sentinel',
        hosts: [
          { host: 'a', port: 26_379 },
          { host: 'b', port: 2 },
        ],
        master: 'main',
        tls: false,
        username: 'relay',
        password: 'secret',
      },
    ],
    [
      'sentinels://a/main',
      { kind: 'sentinel', hosts: [{ host: 'a', port: 26_379 }], master: 'main', tls: true },
    ],
  ])('may be %s', (address, expected) => {
    expect(JSON.parse(JSON.stringify(parseRedisAddress(address)))).toEqual(expected);
  });

  it.each([
    '',
    'a:port',
    'a:70000',
    'http://a',
    'redis://a/3',
    'redis://a?db=3',
    'redis://a,rediss://b',
    'a,,b',
    'sentinel://a',
    'sentinel:///main',
    'sentinel://a/main/3',
    'redis://:%zz@a',
  ])('is not %p, and the fault says what to write and nothing that was written', (address) => {
    expect(() => parseRedisAddress(address)).toThrow(/^an address of Redis is host:port, .*sentinel:/);
    expect(() => parseRedisAddress(`redis://:hidden@a:port,${address}`)).not.toThrow(/hidden/);
  });
});
