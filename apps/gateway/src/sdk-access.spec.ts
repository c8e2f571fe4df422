import { describe, expect, it } from '@jest/globals';

import { unknownEnvironment } from '#libs/domain';

import type { EnvironmentViews } from './environment-views.js';
import { SdkAccess } from './sdk-access.js';
import { SdkTokens } from './sdk-tokens.js';

const tokens = new SdkTokens('s'.repeat(32));
const refusedWith = (status: number) => expect.objectContaining({ status });
const cannotTell = expect.objectContaining({ status: 503, headers: { 'retry-after': '5' } });

/** Access to views that know one environment, by any key that is not called unknown. */
function given(areComplete: boolean, bypassAuth = false) {
  const views: Pick<EnvironmentViews, 'areComplete' | 'environment' | 'environmentOf'> = {
    areComplete,
    environment: (id) => (id === 'dev' ? { ...unknownEnvironment('dev'), exists: true } : undefined),
    environmentOf: (apiKey) => (apiKey === 'gone' ? undefined : areComplete ? undefined : 'dev'),
  };
  return new SdkAccess(views as EnvironmentViews, tokens, { unknownKeyStatus: 401, bypassAuth });
}
const tokenOf = (apiKey: string, environment: string) =>
  `Bearer ${tokens.issue({ apiKey, environment }, Date.now())}`;

describe('Access, while not everything is loaded', () => {
  it('is given to what is known already', () => {
    expect(given(false).authoriseFor('dev', tokenOf('a', 'dev')).state.id).toBe('dev');
  });

  it('is put off, and not refused, where it cannot be told', () => {
    for (const isBypassed of [false, true]) {
      const access = given(false, isBypassed);
      expect(() => access.authoriseFor('later', tokenOf('gone', 'later'))).toThrow(cannotTell);
      expect(() => access.authoriseStream(tokenOf('gone', 'later'), undefined)).toThrow(cannotTell);
    }
    const notYet = new SdkAccess(
      { areComplete: false, environmentOf: () => undefined } as unknown as EnvironmentViews,
      tokens,
      { unknownKeyStatus: 401 },
    );
    expect(() => notYet.signIn('a-key', 0)).toThrow(cannotTell);
  });

  it('is refused to those with no token, or with one that is none of ours, whatever is loaded', () => {
    expect(() => given(false).authoriseFor('dev', undefined)).toThrow(refusedWith(401));
    expect(() => given(false).authoriseFor('dev', 'Bearer x.y.z')).toThrow(refusedWith(401));
  });

  it('is refused once everything is loaded', () => {
    expect(() => given(true).signIn('a-key', 0)).toThrow(refusedWith(401));
    expect(() => given(true).authoriseFor('later', tokenOf('gone', 'later'))).toThrow(refusedWith(401));
    expect(() => given(true, true).authoriseFor('later', undefined)).toThrow(refusedWith(404));
  });
});
