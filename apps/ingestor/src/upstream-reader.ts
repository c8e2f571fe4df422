import pLimit from 'p-limit';

import type { Flag, Segment } from '#libs/domain';
import {
  type CheckedList,
  type ConfigPage,
  type FetchedConfig,
  SaasClient,
  type Session,
  type StreamEvent,
  UpstreamRefusal,
} from '#libs/saas-client';

/** Reads of the upstream at a time, over all environments. */
const READS_AT_A_TIME = 8;

/**
 * The upstream with its session kept: every read goes out with a token that works. A token that is refused is replaced
 * once; what is refused then is refused.
 */
export class UpstreamReader {
  private readonly limit = pLimit(READS_AT_A_TIME);
  private session: Promise<Session> | undefined;

  constructor(private readonly saas: SaasClient) {}

  flags(environment: string, signal: AbortSignal): Promise<CheckedList<Flag>> {
    return this.limit(() =>
      this.withSession(signal, (session) => this.saas.flags(session, environment, signal)),
    );
  }

  segments(environment: string, signal: AbortSignal): Promise<CheckedList<Segment>> {
    return this.limit(() =>
      this.withSession(signal, (session) => this.saas.segments(session, environment, signal)),
    );
  }

  /** Everything about one environment; undefined if the upstream does not list it. */
  environment(id: string, signal: AbortSignal): Promise<FetchedConfig | undefined> {
    return this.limit(() =>
      this.withSession(signal, async (session) => {
        for await (const page of this.saas.configPages(session, signal, id)) {
          const found = page.environments.find((environment) => environment.id === id);
          if (found) return found;
        }
        return undefined;
      }),
    );
  }

  /** The whole account, page by page. */
  async *pages(signal: AbortSignal): AsyncIterable<ConfigPage> {
    const session = this.current(signal);
    try {
      yield* this.saas.configPages(await session, signal);
    } catch (error) {
      this.forgetIfRefused(error, session);
      throw error;
    }
  }

  /** The account of the session; the upstream may not have told. */
  async account(signal: AbortSignal): Promise<string | undefined> {
    return (await this.current(signal)).account;
  }

  /** The account stream, with a new token. Resolves once it is open. */
  async stream(signal: AbortSignal): Promise<AsyncIterable<StreamEvent>> {
    this.forgetSession();
    return this.saas.stream(await this.current(signal), signal);
  }

  /** The next call takes a new token. */
  forgetSession(): void {
    this.session = undefined;
  }

  /** How long the upstream asked to wait, if it did. */
  askedMs(error: unknown): number {
    return error instanceof UpstreamRefusal ? (error.retryAfterMs ?? 0) : 0;
  }

  private async withSession<Result>(
    signal: AbortSignal,
    read: (session: Session) => Promise<Result>,
  ): Promise<Result> {
    const current = this.current(signal);
    const session = await current;
    try {
      return await read(session);
    } catch (error) {
      if (!this.forgetIfRefused(error, current)) throw error;
      return read(await this.current(signal));
    }
  }

  /** Reads that were refused together share the next token, too. */
  private forgetIfRefused(error: unknown, session: Promise<Session>): boolean {
    const refused = error instanceof UpstreamRefusal && (error.status === 401 || error.status === 403);
    if (refused && this.session === session) this.session = undefined;
    return refused;
  }

  private current(signal: AbortSignal): Promise<Session> {
    if (!this.session) {
      const session = this.saas.authenticate(signal);
      session.catch(() => {
        if (this.session === session) this.session = undefined;
      });
      this.session = session;
    }
    return this.session;
  }
}
