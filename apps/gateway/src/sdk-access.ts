import { createHash } from 'node:crypto';

import type { EnvironmentState } from '#libs/domain';

import type { EnvironmentViews } from './environment-views.js';
import { SdkError } from './sdk-error.js';
import type { SdkIdentity, SdkTokens } from './sdk-tokens.js';

/** An SDK that may read an environment. */
export interface Access {
  /** SHA-256 of its SDK key, lower-case hex. */
  readonly apiKey: string;
  readonly state: EnvironmentState;
}

/** Decides who may read what (protocol §4.1, §4.2): a valid token of a key that still exists, for its environment. */
export class SdkAccess {
  constructor(
    private readonly views: EnvironmentViews,
    private readonly tokens: SdkTokens,
    private readonly unknownKeyStatus: number,
  ) {}

  /** A token for an SDK key. Throws SdkError. */
  signIn(key: string, now: number): string {
    const apiKey = sha256(key);
    const environment = this.views.environmentOf(apiKey);
    const state = environment && this.views.environment(environment);
    if (!state)
      throw new SdkError(this.unknownKeyStatus, 'unauthorised: this relay does not know the SDK key');
    return this.tokens.issue(
      { apiKey, environment, environmentIdentifier: identifierOf(state), account: state.account },
      now,
    );
  }

  /** The environment that the token is for. Throws SdkError. */
  authorise(authorization: string | undefined): Access {
    const token = /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
    if (!token) throw new SdkError(401, 'unauthorised: the Authorization header carries no bearer token');
    const identity = this.tokens.verify(token);
    if (!identity) throw new SdkError(401, 'unauthorised: the token was not issued by this relay');
    return { apiKey: identity.apiKey, state: this.stateFor(identity) };
  }

  /** The same, for a path that names its environment. Throws SdkError. */
  authoriseFor(environment: string, authorization: string | undefined): Access {
    const access = this.authorise(authorization);
    if (access.state.id === environment) return access;
    throw new SdkError(401, `Environment ID [${access.state.id}] mismatch with requested ${environment}`);
  }

  /** The same, for a stream: the key it names must be the token's. Throws SdkError. */
  authoriseStream(authorization: string | undefined, key: string | undefined): Access {
    const access = this.authorise(authorization);
    if (!key) throw new SdkError(400, "bad request: API-Key can't be empty");
    if (this.views.environmentOf(sha256(key)) === access.state.id) return access;
    throw new SdkError(401, 'unauthorised: the API-Key does not belong to the environment of the token');
  }

  private stateFor({ apiKey, environment }: Pick<SdkIdentity, 'apiKey' | 'environment'>): EnvironmentState {
    const state = this.views.environment(environment);
    if (state && this.views.environmentOf(apiKey) === environment) return state;
    throw new SdkError(401, 'unauthorised: the SDK key of the token was revoked, or its environment is gone');
  }
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
