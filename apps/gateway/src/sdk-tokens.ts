import { createSecretKey } from 'node:crypto';

import { JwtService } from '@nestjs/jwt';

import { RecentlyUsed } from './recently-used.js';

/** Clocks of gateways may differ by so much. */
const LEEWAY_S = 300;
/** The Go relay's cache key, which its tokens carry (protocol §4.1). */
const KEY_PREFIX = 'auth-key-';
/** A token is some 400 characters. What is longer is verified each time, so that nobody can fill the memory with it. */
const MOST_KEPT_CHARACTERS = 4096;
const MOST_KEPT_TOKENS = 20_000;
const MOST_KEPT_EVENT_TOKENS = 10_000;
const MOST_KEPT_WEIGHT = 16 * 1024 * 1024;

export interface SdkIdentity {
  /** SHA-256 of the SDK key, lower-case hex. */
  readonly apiKey: string;
  /** The environment's UUID. */
  readonly environment: string;
  /** `dev`; SDKs send it back in a header. */
  readonly environmentIdentifier?: string | undefined;
  readonly account?: string | undefined;
}

export type TokenIdentity = Pick<SdkIdentity, 'apiKey' | 'environment'>;

/**
 * The tokens of SDKs (protocol §4.1): HS256, no expiry, since SDKs sign in once in their life. They are good for as long
 * as the secret is and the SDK key exists.
 */
export class SdkTokens {
  private readonly jwt: JwtService;
  private readonly former: readonly JwtService[];
  /** Those that were verified, since every request brings one. Whether their keys still exist is not asked here. */
  private readonly verified = new RecentlyUsed<TokenIdentity>(MOST_KEPT_TOKENS, MOST_KEPT_WEIGHT);
  /** By environment and SDK key. */
  private readonly forEvents = new RecentlyUsed<string>(MOST_KEPT_EVENT_TOKENS);

  /** @param formerSecrets tokens that were signed with one of them are still good */
  constructor(secret: string, formerSecrets: readonly string[] = []) {
    this.jwt = jwtWith(secret);
    this.former = formerSecrets.map(jwtWith);
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

  /**
   * A token that opens the event stream of OpenFeature providers, and nothing else: it stands in an address, which others
   * may get to see. The same each time, so that the address stays the same.
   */
  issueForEvents({ apiKey, environment }: TokenIdentity): string {
    const name = `${environment}/${apiKey}`;
    let token = this.forEvents.get(name);
    if (!token) {
      token = this.jwt.sign({ eventsOf: apiKey, environment }, { noTimestamp: true });
      this.forEvents.set(name, token);
    }
    return token;
  }

  /** Whom such a token was issued for; undefined if it is none of ours. */
  verifyForEvents(token: string): TokenIdentity | undefined {
    const { eventsOf, environment } = this.claimsIn(token) ?? {};
    return typeof eventsOf === 'string' && typeof environment === 'string'
      ? { apiKey: eventsOf, environment }
      : undefined;
  }

  /** Who a token was issued to; undefined if it is none of ours. */
  verify(token: string): TokenIdentity | undefined {
    const known = this.verified.get(token);
    if (known) return known;
    const claims = this.claimsIn(token);
    const identity = claims && identityIn(claims);
    // None of ours expires, but one that somebody else made with the secret may.
    if (identity && claims['exp'] === undefined && token.length <= MOST_KEPT_CHARACTERS) {
      this.verified.set(token, identity, token.length);
    }
    return identity;
  }

  /** Of a token that was signed with one of the secrets. */
  private claimsIn(token: string): Record<string, unknown> | undefined {
    return claimsBy(this.jwt, token) ?? firstOf(this.former, (jwt) => claimsBy(jwt, token));
  }

  /** Who a token says that it was issued to, whoever wrote it. */
  unverified(token: string): TokenIdentity | undefined {
    const claims = unverifiedClaims(this.jwt, token);
    return claims && identityIn(claims);
  }
}

function jwtWith(secret: string): JwtService {
  return new JwtService({
    // A key object and no text: for text, every verification first tries whether it is a public key.
    secret: createSecretKey(Buffer.from(secret)),
    signOptions: { algorithm: 'HS256' },
    verifyOptions: { algorithms: ['HS256'], clockTolerance: LEEWAY_S },
  });
}

function claimsBy(jwt: JwtService, token: string): Record<string, unknown> | undefined {
  try {
    return jwt.verify<Record<string, unknown>>(token);
  } catch {
    return undefined;
  }
}

function unverifiedClaims(jwt: JwtService, token: string): Record<string, unknown> | undefined {
  try {
    const claims = jwt.decode<unknown>(token);
    return typeof claims === 'object' && claims !== null ? (claims as Record<string, unknown>) : undefined;
  } catch {
    // It has the three parts of a token, and they are not JSON.
    return undefined;
  }
}

function firstOf<Item, Found>(
  items: readonly Item[],
  find: (item: Item) => Found | undefined,
): Found | undefined {
  for (const item of items) {
    const found = find(item);
    if (found) return found;
  }
  return undefined;
}

function identityIn({ apiKey, environment }: Record<string, unknown>): TokenIdentity | undefined {
  if (typeof apiKey !== 'string' || typeof environment !== 'string') return undefined;
  return { apiKey: apiKey.slice(KEY_PREFIX.length), environment };
}
