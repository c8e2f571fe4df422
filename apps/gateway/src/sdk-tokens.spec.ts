import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { JwtService } from '@nestjs/jwt';

import { SdkTokens } from './sdk-tokens.js';

const [NEW, OLD, OLDER] = ['n'.repeat(32), 'o'.repeat(32), 'secret'];
const identity = { apiKey: 'a'.repeat(64), environment: 'dev' };

afterEach(() => void jest.restoreAllMocks());

describe('The tokens of SDKs', () => {
  it('of former secrets are good, and those of others are not', () => {
    const tokens = new SdkTokens(NEW, [OLD, OLDER]);
    for (const secret of [NEW, OLD, OLDER]) {
      expect(tokens.verify(new SdkTokens(secret).issue(identity, Date.now()))).toEqual(identity);
    }
    const stranger = new SdkTokens('s'.repeat(32)).issue(identity, Date.now());
    expect(tokens.verify(stranger)).toBeUndefined();
    expect(new SdkTokens(NEW).verify(new SdkTokens(OLD).issue(identity, Date.now()))).toBeUndefined();
  });

  it('are signed with the secret of today', () => {
    const token = new SdkTokens(NEW, [OLD]).issue(identity, Date.now());
    expect(new SdkTokens(NEW).verify(token)).toEqual(identity);
    expect(new SdkTokens(OLD).verify(token)).toBeUndefined();
  });

  it('are verified once as long as they are remembered, unless they are refused or too long to keep', () => {
    const tokens = new SdkTokens(NEW);
    const verify = jest.spyOn(JwtService.prototype, 'verify');
    const times = (token: string) => {
      verify.mockClear();
      for (let i = 0; i < 3; i++) tokens.verify(token);
      return verify.mock.calls.length;
    };
    const token = tokens.issue(identity, Date.now());
    expect(times(token)).toBe(1);
    expect(times(`${token}x`)).toBe(3);
    expect(times(tokens.issue({ ...identity, account: 'x'.repeat(5000) }, Date.now()))).toBe(3);
    for (let i = 0; i < 20_000; i++) tokens.verify(tokens.issue({ ...identity, account: `a-${i}` }, 1));
    expect(times(token)).toBe(1);
  });

  it('that expire, which somebody else must have made, are not good for longer', () => {
    jest.useFakeTimers({ now: 1_000_000_000_000 });
    try {
      const signer = new JwtService({ secret: NEW });
      const token = signer.sign({ ...identity, apiKey: `auth-key-${identity.apiKey}` }, { expiresIn: '1h' });
      const tokens = new SdkTokens(NEW);
      expect(tokens.verify(token)).toEqual(identity);
      jest.setSystemTime(1_000_000_000_000 + 2 * 3_600_000);
      expect(tokens.verify(token)).toBeUndefined();
    } finally {
      jest.useRealTimers();
    }
  });
});
