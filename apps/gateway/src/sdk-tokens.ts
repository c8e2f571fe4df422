import { createSecretKey } from 'node:crypto';

import { JwtService } from '@nestjs/jwt';

/** Clocks of gateways may differ by so much. */
const LEEWAY_S = 300;
/** The Go relay's cache key, which its tokens carry (protocol §4.1). */
const KEY_PREFIX = 'auth-key-';

export interface SdkIdentity {
  /** SHA-256 of the SDK key, lower-case hex. */
  readonly apiKey: string;
  /** The environment's UUID. */
  readonly environment: string;
  /** `dev`; SDKs send it back in a header. */
  readonly environmentIdentifier?: string | undefined;
  readonly account?: string | undefined;
}

/**
 * The tokens of SDKs (protocol §4.1): HS256, no expiry, since SDKs sign in once in their life. They are good for as long
 * as the secret is and the SDK key exists.
 */
export class SdkTokens {
  private readonly jwt: JwtService;

  constructor(secret: string) {
    this.jwt = new JwtService({
      // A key object and no text: for text, every verification first tries whether it is a public key.
      secret: createSecretKey(Buffer.from(secret)),
      signOptions: { algorithm: 'HS256' },
      verifyOptions: { algorithms: ['HS256'], clockTolerance: LEEWAY_S },
    });
  }

  issue({ apiKey, environment, environmentIdentifier, account }: SdkIdentity, now: number): string {
    const seconds = Math.floor(now / 1000);
    const claims = {
      apiKey: `${KEY_PREFIX}${apiKey}`,
      environment,
      ...(environmentIdentifier && { environmentIdentifier }),
      ...(account && { accountID: account }),
      clusterIdentifier: '1',
      iat: seconds,
      nbf: seconds,
    };
    return this.jwt.sign(claims);
  }

  /** Who a token was issued to; undefined if it is none of ours. */
  verify(token: string): Pick<SdkIdentity, 'apiKey' | 'environment'> | undefined {
    try {
      const claims = this.jwt.verify<Record<string, unknown>>(token);
      const { apiKey, environment } = claims;
      if (typeof apiKey !== 'string' || typeof environment !== 'string') return undefined;
      return { apiKey: apiKey.slice(KEY_PREFIX.length), environment };
    } catch {
      return undefined;
    }
  }
}
