import pLimit from 'p-limit';

import type { Flag, Segment } from '#libs/domain';
import {
  type CheckedList,
  type ConfigPage,
  type FetchedConfig,
  KeptSession,
  type SaasClient,
  type StreamEvent,
} from '#libs/saas-client';

/** Reads of the upstream at a time, over all environments. */
const READS_AT_A_TIME = 8;

/** The upstream with its session kept: every read goes out with a token that works. */
export class UpstreamReader {
  private readonly limit = pLimit(READS_AT_A_TIME);
  private readonly session: KeptSession;
  /** What the open stream tells of; undefined if its token does not say. */
  private streamed: ReadonlySet<string> | undefined;

  constructor(private readonly saas: SaasClient) {
    this.session = new KeptSession(saas);
  }

  flags(environment: string, signal: AbortSignal): Promise<CheckedList<Flag>> {
    return this.limit(() =>
      this.session.use(signal, (session) => this.saas.flags(session, environment, signal)),
    );
  }

  segments(environment: string, signal: AbortSignal): Promise<CheckedList<Segment>> {
    return this.limit(() =>
      this.session.use(signal, (session) => this.saas.segments(session, environment, signal)),
    );
  }

  /** Everything about one environment; undefined if the upstream does not list it. */
  environment(id: string, signal: AbortSignal): Promise<FetchedConfig | undefined> {
    return this.limit(() =>
      this.session.use(signal, async (session) => {
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
    const session = this.session.current(signal);
    try {
      yield* this.saas.configPages(await session, signal);
    } catch (error) {
      this.session.forgetIfRefused(error, session);
      throw error;
    }
  }

  /** The account of the session; the upstream may not have told. */
  async account(signal: AbortSignal): Promise<string | undefined> {
    return (await this.session.current(signal)).account;
  }

  /** The account stream, with a new token. Resolves once it is open. */
  async stream(signal: AbortSignal): Promise<AsyncIterable<StreamEvent>> {
    this.session.forget();
    const session = await this.session.current(signal);
    this.streamed = session.environments;
    return this.saas.stream(session, signal);
  }

  /** Whether the newest token opens environments that the token of the stream does not. */
  async isStreamOutdated(signal: AbortSignal): Promise<boolean> {
    const { streamed } = this;
    const { environments = [] } = await this.session.current(signal);
    return streamed !== undefined && [...environments].some((id) => !streamed.has(id));
  }

  /** The next call takes a new token. */
  forgetSession(): void {
    this.session.forget();
  }
}
