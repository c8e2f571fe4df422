import { type SaasClient, type Session, UpstreamRefusal } from './saas-client.js';

/** A session for many calls. A token that is refused is replaced once; what is refused then is refused. */
export class KeptSession {
  private session: Promise<Session> | undefined;

  constructor(private readonly saas: SaasClient) {}

  /** Makes a call with a token that works. Throws what the call throws. */
  async use<Result>(signal: AbortSignal, call: (session: Session) => Promise<Result>): Promise<Result> {
    const current = this.current(signal);
    const session = await current;
    try {
      return await call(session);
    } catch (error) {
      if (!this.forgetIfRefused(error, current)) throw error;
      return call(await this.current(signal));
    }
  }

  current(signal: AbortSignal): Promise<Session> {
    if (!this.session) {
      const session = this.saas.authenticate(signal);
      session.catch(() => {
        if (this.session === session) this.session = undefined;
      });
      this.session = session;
    }
    return this.session;
  }

  /** The next call takes a new token. */
  forget(): void {
    this.session = undefined;
  }

  /** Calls that were refused together share the next token, too. */
  forgetIfRefused(error: unknown, session: Promise<Session>): boolean {
    const refused = error instanceof UpstreamRefusal && (error.status === 401 || error.status === 403);
    if (refused && this.session === session) this.session = undefined;
    return refused;
  }
}
