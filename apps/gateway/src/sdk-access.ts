import { createHash } from 'node:crypto';

import type { EnvironmentState } from '#libs/domain';

import type { EnvironmentViews } from './environment-views.js';
import { SdkError } from './sdk-error.js';
import type { SdkTokens, TokenIdentity } from './sdk-tokens.js';

/** An SDK that may read an environment. */
export interface Access {
  /** SHA-256 of its SDK key, lower-case hex. */
  readonly apiKey: string;
  readonly state: EnvironmentState;
}

export interface SdkAccessOptions {
  /** The answer to an SDK key that nobody knows. */
  readonly unknownKeyStatus: number;
  /** Whoever asks may read whatever environment they name. */
  readonly bypassAuth?: boolean;
}

/** Bounded, so that a token that is kept keeps no long header with it. */
const BEARER = /^Bearer {1,16}(\S+) *$/i;
const RETRY_AFTER_S = '5';

/** Decides who may read what (protocol §4.1, §4.2): a valid token of a key that still exists, for its environment. */
export class SdkAccess {
  constructor(
    private readonly views: EnvironmentViews,
    private readonly tokens: SdkTokens,
    private readonly options: SdkAccessOptions,
  ) {}

  /** A token for an SDK key, and the environment that it opens. Throws SdkError. */
  signIn(key: string, now: number): { readonly authToken: string; readonly environment: string } {
    const apiKey = sha256(key);
    const environment = this.views.environmentOf(apiKey);
    const state = environment && this.views.environment(environment);
    if (!state) {
      throw this.unknown(this.options.unknownKeyStatus, 'unauthorised: this relay does not know the SDK key');
    }
    const authToken = this.tokens.issue(
      { apiKey, environment, environmentIdentifier: identifierOf(state), account: state.account },
      now,
    );
    return { authToken, environment };
  }

  /** The environment that a path names. Throws SdkError unless the token is for it. */
  authoriseFor(environment: string, authorization: string | undefined): Access {
    if (this.options.bypassAuth) return this.withoutAuth(environment);
    const access = this.authorise(authorization);
    if (access.state.id === environment) return access;
    throw new SdkError(401, `Environment ID [${access.state.id}] mismatch with requested ${environment}`);
  }

  /**
   * The environment of an SDK key, or of a token that was issued for one. Throws SdkError.
   *
   * @param key in a header of its own; else it is the bearer
   */
  authoriseKey(authorization: string | undefined, key: string | undefined): Access {
    const credential = key || tokenIn(authorization);
    if (!credential) {
      throw new SdkError(
        401,
        'unauthorised: neither X-API-Key nor a bearer in Authorization names an SDK key',
      );
    }
    const hash = sha256(credential);
    const ofKey = this.views.environmentOf(hash);
    const identity =
      ofKey !== undefined
        ? { apiKey: hash, environment: ofKey }
        : this.options.bypassAuth
          ? this.tokens.unverified(credential)
          : this.stillKnown(this.tokens.verify(credential));
    const state = identity && this.views.environment(identity.environment);
    if (state) return { apiKey: identity.apiKey, state };
    throw this.unknown(401, 'unauthorised: this relay does not know the SDK key');
  }

  /** The environment of a stream: the key it names must be the token's. Throws SdkError. */
  authoriseStream(authorization: string | undefined, key: string | undefined): Access {
    if (this.options.bypassAuth) return this.streamWithoutAuth(authorization, key);
    const access = this.authorise(authorization);
    if (!key) throw new SdkError(400, "bad request: API-Key can't be empty");
    if (this.views.environmentOf(sha256(key)) === access.state.id) return access;
    throw this.unknown(401, 'unauthorised: the API-Key does not belong to the environment of the token');
  }

  /** What lets an OpenFeature provider hear of changes, in an address: it can send no headers there. */
  eventsToken({ apiKey, state }: Access): string {
    return this.tokens.issueForEvents({ apiKey, environment: state.id });
  }

  /** The environment of the event stream of an OpenFeature provider. Throws SdkError. */
  authoriseEvents(eventsToken: string | undefined): Access {
    return this.opened(eventsToken ? this.tokens.verifyForEvents(eventsToken) : undefined);
  }

  /** The environment that the token is for. Throws SdkError. */
  private authorise(authorization: string | undefined): Access {
    const token = tokenIn(authorization);
    if (!token) throw new SdkError(401, 'unauthorised: the Authorization header carries no bearer token');
    return this.opened(this.tokens.verify(token));
  }

  private opened(identity: TokenIdentity | undefined): Access {
    if (!identity) throw new SdkError(401, 'unauthorised: the token was not issued by this relay');
    const { apiKey, environment } = identity;
    const state = this.views.environment(environment);
    const isKnown = this.options.bypassAuth || this.views.environmentOf(apiKey) === environment;
    if (state && isKnown) return { apiKey, state };
    throw this.unknown(401, 'unauthorised: the SDK key of the token was revoked, or its environment is gone');
  }

  private stillKnown(identity: TokenIdentity | undefined): TokenIdentity | undefined {
    return identity && this.views.environmentOf(identity.apiKey) === identity.environment
      ? identity
      : undefined;
  }

  private withoutAuth(environment: string): Access {
    const state = this.views.environment(environment);
    if (state) return { apiKey: '', state };
    throw this.unknown(404, `not found: environment ${environment}`);
  }

  /** As the Go relay: the environment of the API-Key, whatever the token says; of the token only if there is no key. */
  private streamWithoutAuth(authorization: string | undefined, key: string | undefined): Access {
    const token = tokenIn(authorization);
    const identity = key
      ? { apiKey: sha256(key), environment: this.views.environmentOf(sha256(key)) }
      : token && this.tokens.unverified(token);
    if (!identity) {
      throw new SdkError(400, 'bad request: neither an API-Key nor a token says which environment to stream');
    }
    const { apiKey, environment } = identity;
    const state = environment === undefined ? undefined : this.views.environment(environment);
    if (state) return { apiKey, state };
    throw this.unknown(401, 'unauthorised: this relay does not know the environment of the API-Key or token');
  }

  /** What is not known may only not be loaded yet. */
  private unknown(status: number, message: string): SdkError {
    if (this.views.areComplete) return new SdkError(status, message);
    return new SdkError(503, 'this gateway has not loaded everything yet', { 'retry-after': RETRY_AFTER_S });
  }
}

function tokenIn(authorization: string | undefined): string | undefined {
  return BEARER.exec(authorization ?? '')?.[1];
}

/** How keys are named everywhere but on the wire to SDKs (protocol §5). */
function sha256(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/** `dev`, as the environment's flags tell it. */
function identifierOf(state: EnvironmentState): string | undefined {
  for (const { value } of state.flags.values()) if (value) return value.environment;
  return undefined;
}
