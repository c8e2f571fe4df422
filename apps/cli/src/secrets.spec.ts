import { describe, expect, it } from '@jest/globals';

import { type Secrets, secretFindings } from './secrets.js';

const GOOD: Secrets = {
  proxyKey: '6e5c1a0e-9f43-4f0f-8f55-1f5b1c9d2a77',
  authSecret: '0f4b8f7a6c2e9d1b3a5c7e90d2f4b6a8c1e3d5f7092b4d6f8a1c3e5b7d9f0a2c',
  formerAuthSecrets: [],
  bypassAuth: false,
  files: [],
};
const said = (changes: Partial<Secrets>) =>
  secretFindings({ ...GOOD, ...changes }).map(({ level, what }) => `${level}: ${what}`);

describe('Secrets', () => {
  it('that are random and kept to themselves are all right', () => {
    expect(said({})).toEqual(['ok: nothing to say against PROXY_KEY and AUTH_SECRET']);
  });

  it('that nobody set are not spoken of', () => {
    expect(said({ proxyKey: undefined, authSecret: undefined })).toEqual([]);
  });

  it.each<[string, Partial<Secrets>, RegExp]>([
    ['are the same', { authSecret: GOOD.proxyKey }, /^fail: AUTH_SECRET is the proxy key/],
    ['repeat a few characters', { authSecret: 'ab'.repeat(32) }, /^warn: AUTH_SECRET repeats/],
    [
      'look like an example',
      { authSecret: `my-secret-${'0123456789abcdef'.repeat(2)}` },
      /^warn: .* example/,
    ],
    [
      "are the demo's",
      { proxyKey: '30000000-0000-4000-8000-000000000001' },
      /^warn: PROXY_KEY is the demo's/,
    ],
    [
      'are their own former',
      { formerAuthSecrets: [GOOD.authSecret ?? ''] },
      /^warn: AUTH_SECRET_PREVIOUS names/,
    ],
    ['have a short former', { formerAuthSecrets: ['secret'] }, /^warn: AUTH_SECRET_PREVIOUS has a short/],
    ['are not asked for', { bypassAuth: true }, /^warn: BYPASS_AUTH/],
    [
      'lie open in a file',
      { files: [{ setting: 'PROXY_KEY_FILE', file: '/etc/key', mode: 0o100644 }] },
      /^warn: \/etc\/key \(PROXY_KEY_FILE\) is open/,
    ],
  ])('that %s are told of', (_, changes, message) => {
    expect(said(changes)).toEqual([expect.stringMatching(message)]);
  });

  it('in files that only their user reads, or that a platform mounts, are all right', () => {
    const files = [
      { setting: 'PROXY_KEY_FILE', file: '/etc/key', mode: 0o100640 },
      { setting: 'AUTH_SECRET_FILE', file: '/run/secrets/auth', mode: 0o100444 },
    ];
    expect(said({ files })).toEqual([expect.stringMatching(/^ok/)]);
  });
});
