import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import type { Flag, Segment } from '#libs/domain';

export interface UpstreamEnvironment {
  flags: Flag[];
  segments: Segment[];
  apiKeys: string[];
}

/** How one request is answered; `usual` answers with the state. */
export type Answer = (response: ServerResponse, usual: () => void) => void;

export const refusal =
  (status: number, headers: Record<string, string> = {}): Answer =>
  (response) =>
    response.writeHead(status, headers).end();
export const body =
  (content: unknown): Answer =>
  (response) =>
    response.end(typeof content === 'string' ? content : JSON.stringify(content));
export const cut: Answer = (response) => response.destroy();

/** Environments as a page of the configuration. */
export const page = (environments: Record<string, UpstreamEnvironment>, counts: object = {}) => ({
  itemCount: Object.keys(environments).length,
  pageCount: 1,
  environments: Object.entries(environments).map(([id, { flags, segments, apiKeys }]) => ({
    id,
    featureConfigs: flags,
    segments,
    apiKeys,
  })),
  ...counts,
});

/**
 * An upstream that holds what a test gives it, answers as the test says, and remembers what it was asked: `auth`,
 * `stream`, `config` and `config <environment>`, `flags <environment>`, `segments <environment>`.
 */
export class ScriptedUpstream {
  readonly asked: string[] = [];
  environments: Record<string, UpstreamEnvironment> = {};
  environmentsPerPage = 10;
  /** The configuration may leave out the flags and groups of its environments. */
  leavesOutLists = false;
  /** What a request reads; another than the state for a replica that lags. */
  readBy: (request: IncomingMessage) => Record<string, UpstreamEnvironment> = () => this.environments;
  /** Told of each request, with its page if it has one. */
  watch: (request: string, response: ServerResponse) => void = () => undefined;
  /** The only proxy key that opens it; any does, if this is left out. */
  proxyKey: string | undefined;
  private readonly script = new Map<string, Answer[]>();
  private readonly streams = new Set<ServerResponse>();
  private validTokens = new Set<string>();
  private lastToken = 0;

  private constructor(
    private readonly server: Server,
    readonly url: string,
  ) {
    server.on(
      'request',
      (request: IncomingMessage, response: ServerResponse) =>
        void request.toArray().then((sent) => this.serve(request, Buffer.concat(sent).toString(), response)),
    );
  }

  static async start(environments: Record<string, UpstreamEnvironment>): Promise<ScriptedUpstream> {
    // A token names up to 1,000 environments.
    const server = createServer({ maxHeaderSize: 512 * 1024 });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const upstream = new ScriptedUpstream(
      server,
      `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    );
    upstream.environments = environments;
    return upstream;
  }

  get openStreams(): number {
    return this.streams.size;
  }

  environment(id: string): UpstreamEnvironment {
    return (this.environments[id] ??= { flags: [], segments: [], apiKeys: [] });
  }

  /** Answers the next requests of that name, one each; those after them as usual. */
  next(request: string, ...answers: Answer[]): void {
    this.script.set(request, [...(this.script.get(request) ?? []), ...answers]);
  }

  /** Answers requests of that name as usual again. */
  forget(request: string): void {
    this.script.delete(request);
  }

  /** Keeps the next request of that name waiting. */
  hold(
    request: string,
    answer: Answer = (_, usual) => usual(),
  ): { readonly arrived: Promise<void>; readonly release: () => void } {
    const arrived = Promise.withResolvers<void>();
    const released = Promise.withResolvers<void>();
    this.next(request, (response, usual) => {
      arrived.resolve();
      void released.promise.then(() => answer(response, usual));
    });
    return { arrived: arrived.promise, release: released.resolve };
  }

  timesAsked(request: string): number {
    return this.asked.filter((asked) => asked === request).length;
  }

  /** Sends a message on every open stream. */
  tell(message: { domain: string; event: string; [field: string]: unknown }): void {
    this.say(`event: *\ndata: ${JSON.stringify(message)}\n\n`);
  }

  say(text: string): void {
    for (const stream of this.streams) stream.write(text);
  }

  endStreams(): void {
    for (const stream of this.streams) stream.end();
  }

  /** From now on the tokens that were given out are refused. */
  revokeTokens(): void {
    this.validTokens = new Set();
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private serve(request: IncomingMessage, sent: string, response: ServerResponse): void {
    const { pathname, searchParams } = new URL(request.url ?? '', this.url);
    const name = nameOf(pathname, searchParams);
    this.asked.push(name);
    this.watch([name, searchParams.get('pageNumber')].join(' ').trim(), response);
    const usual = () => this.answer(name, request, searchParams, response);
    const key = name === 'auth' ? (JSON.parse(sent) as { proxyKey: string }).proxyKey : this.proxyKey;
    if (this.proxyKey !== undefined && key !== this.proxyKey) {
      response.writeHead(401).end();
      return;
    }
    const answer = this.script.get(name)?.shift();
    if (answer) answer(response, usual);
    else usual();
  }

  private answer(
    name: string,
    request: IncomingMessage,
    query: URLSearchParams,
    response: ServerResponse,
  ): void {
    if (name !== 'auth' && !this.validTokens.has(request.headers.authorization ?? '')) {
      response.writeHead(401).end();
      return;
    }
    const [kind = '', id = ''] = name.split(' ');
    switch (kind) {
      case 'auth':
        response.end(JSON.stringify({ authToken: this.newToken() }));
        break;
      case 'stream':
        response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
        this.streams.add(response);
        response.on('close', () => this.streams.delete(response));
        break;
      case 'config':
        response.end(JSON.stringify(this.pageOf(this.readBy(request), id, Number(query.get('pageNumber')))));
        break;
      default: {
        const environment = this.readBy(request)[id];
        if (!environment) response.writeHead(403).end();
        else response.end(JSON.stringify(kind === 'flags' ? environment.flags : environment.segments));
      }
    }
  }

  private pageOf(environments: Record<string, UpstreamEnvironment>, id: string, pageNumber: number): object {
    const listed = Object.entries(environments).filter(([each]) => !id || each === id);
    const first = pageNumber * this.environmentsPerPage;
    const answer = page(Object.fromEntries(listed.slice(first, first + this.environmentsPerPage)), {
      itemCount: listed.length,
      pageCount: Math.ceil(listed.length / this.environmentsPerPage),
    });
    if (!this.leavesOutLists) return answer;
    return { ...answer, environments: answer.environments.map(({ id, apiKeys }) => ({ id, apiKeys })) };
  }

  private newToken(): string {
    const claims = Buffer.from(
      JSON.stringify({
        account: 'acc',
        number: ++this.lastToken,
        environments: Object.keys(this.environments),
      }),
    );
    const token = `e30.${claims.toString('base64url')}.x`;
    this.validTokens.add(`Bearer ${token}`);
    return token;
  }
}

function nameOf(pathname: string, query: URLSearchParams): string {
  switch (pathname) {
    case '/proxy/auth':
      return 'auth';
    case '/stream':
      return 'stream';
    case '/proxy/config':
      return `config ${query.get('environment') ?? ''}`.trim();
    default: {
      const [, , , environment = '', list] = pathname.split('/');
      return `${list === 'feature-configs' ? 'flags' : 'segments'} ${environment}`;
    }
  }
}
