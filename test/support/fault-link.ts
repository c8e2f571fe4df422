import { once } from 'node:events';
import { createServer, type IncomingMessage, request as httpRequest, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** What happens to a call on its way. */
export type CallFault =
  /** Somebody else answers: a proxy, a firewall's page. */
  | {
      readonly answer: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string;
    }
  /** The connection is reset instead of an answer. */
  | 'reset'
  /** So much of the answer comes; then the connection is reset, or it ends as if this were all. */
  | { readonly part: number; readonly how: 'reset' | 'end' }
  /** The answer comes late; it was made before. */
  | { readonly lateMs: number }
  /** No byte comes; then the connection is reset. */
  | { readonly silentMs: number }
  /** The answer as it would have been a moment ago: a replica that lags. */
  | { readonly staleMs: number };

/** What happens to a message of the stream on its way. */
export type MessageFault =
  | 'lost'
  | 'twice'
  /** Others overtake it. */
  | { readonly lateMs: number }
  /** Something comes before it. */
  | { readonly after: string }
  /** Instead of it the stream ends: by a reset, cleanly, or without anybody saying so. */
  | 'reset'
  | 'end'
  | 'silence';

/** The words for requests: `auth`, `stream`, `config`, `flags`, `segments` and `metrics`. */
export type CallName = 'auth' | 'stream' | 'config' | 'flags' | 'segments' | 'metrics';

/** The header that asks an upstream of ours for an answer as it would have been so many ms ago. */
export const STALE_HEADER = 'x-stale-ms';

/**
 * The link from a relay to its upstream, with faults. Every call passes through whole, and the stream message by
 * message; what happens to each is asked for when it comes.
 */
export class FaultLink {
  /** Asked for each call. */
  onCall: (name: CallName) => CallFault | undefined = () => undefined;
  /** Asked for each message of the stream, heartbeats not among them. */
  onMessage: (data: string) => MessageFault | undefined = () => undefined;
  private readonly closing = new AbortController();
  private readonly streams = new Set<Stream>();
  private readonly late = new Set<Promise<void>>();

  private constructor(
    private readonly server: ReturnType<typeof createServer>,
    private readonly upstream: string,
  ) {
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      response.on('error', () => undefined);
      this.pass(request, response).catch(() => response.destroy());
    });
  }

  static async to(upstream: string): Promise<FaultLink> {
    const server = createServer({ keepAliveTimeout: 60_000, maxHeaderSize: 512 * 1024 });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new FaultLink(server, upstream);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** From now on nothing happens to what passes. A silent stream stays silent. Resolves when all that was late has come. */
  async calm(): Promise<void> {
    this.onCall = () => undefined;
    this.onMessage = () => undefined;
    while (this.late.size > 0) await Promise.all(this.late);
  }

  /** Ends the streams that are open. */
  endStreams(how: 'reset' | 'end' | 'silence'): void {
    for (const stream of this.streams) stream.end(how);
  }

  async close(): Promise<void> {
    this.closing.abort();
    this.server.closeAllConnections();
    await once(this.server.close(), 'close');
  }

  private async pass(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const sent = await bytesOf(request);
    const name = nameOf(request.url ?? '');
    const fault = this.onCall(name);
    if (fault === 'reset') {
      reset(response);
    } else if (typeof fault === 'object' && 'answer' in fault) {
      response.writeHead(fault.answer, fault.headers).end(fault.body);
    } else if (typeof fault === 'object' && 'silentMs' in fault) {
      await this.wait(fault.silentMs);
      reset(response);
    } else {
      const stale = typeof fault === 'object' && 'staleMs' in fault ? fault.staleMs : undefined;
      const answer = await this.ask(request, sent, stale);
      if (name === 'stream' && answer.statusCode === 200) {
        if (typeof fault === 'object' && 'lateMs' in fault) await this.wait(fault.lateMs);
        this.passStream(answer, response);
      } else await this.passAnswer(answer, response, fault);
    }
  }

  private async ask(
    { method, url, headers }: IncomingMessage,
    sent: Buffer,
    staleMs: number | undefined,
  ): Promise<IncomingMessage> {
    const asked = httpRequest(`${this.upstream}${url}`, {
      method,
      agent: false,
      signal: this.closing.signal,
      headers: { ...headers, ...(staleMs !== undefined && { [STALE_HEADER]: String(staleMs) }) },
    });
    asked.end(sent);
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    asked.on('error', () => undefined);
    return answer;
  }

  private async passAnswer(
    answer: IncomingMessage,
    response: ServerResponse,
    fault: CallFault | undefined,
  ): Promise<void> {
    const body = await bytesOf(answer);
    const { statusCode = 502, headers } = answer;
    const { connection: _, 'transfer-encoding': __, ...told } = headers;
    if (typeof fault === 'object' && 'lateMs' in fault) await this.wait(fault.lateMs);
    if (typeof fault === 'object' && 'part' in fault) {
      const part = body.subarray(0, Math.floor(body.length * fault.part));
      if (fault.how === 'reset') {
        response.writeHead(statusCode, { ...told, 'content-length': body.length });
        response.write(part, () => reset(response));
      } else {
        // Without a length or chunks, the end of the connection is the end of the body.
        response.useChunkedEncodingByDefault = false;
        delete told['content-length'];
        response.writeHead(statusCode, { ...told, connection: 'close' }).end(part);
      }
      return;
    }
    response.writeHead(statusCode, { ...told, 'content-length': body.length }).end(body);
  }

  private passStream(from: IncomingMessage, to: ServerResponse): void {
    to.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    const stream = new Stream(to);
    this.streams.add(stream);
    to.once('close', () => {
      this.streams.delete(stream);
      from.destroy();
    });
    from.once('close', () => stream.end('end'));
    from.on('error', () => undefined);
    let text = '';
    from.setEncoding('utf8').on('data', (more: string) => {
      const frames = (text + more).split('\n\n');
      text = frames.pop() ?? '';
      for (const frame of frames) {
        const fault = frame.startsWith(':') ? undefined : this.onMessage(frame);
        if (typeof fault === 'object' && 'lateMs' in fault) {
          void this.wait(fault.lateMs).then(
            () => stream.carry(frame, undefined),
            () => undefined,
          );
        } else stream.carry(frame, fault);
      }
    });
  }

  private async wait(ms: number): Promise<void> {
    const waited = delay(ms, undefined, { signal: this.closing.signal });
    const over = waited.catch(() => undefined).finally(() => this.late.delete(over));
    this.late.add(over);
    await waited;
  }
}

class Stream {
  private isSilent = false;

  constructor(private readonly to: ServerResponse) {}

  end(how: 'reset' | 'end' | 'silence'): void {
    if (this.isSilent) return;
    if (how === 'reset') reset(this.to);
    else if (how === 'end') this.to.end();
    else this.isSilent = true;
  }

  carry(frame: string, fault: Exclude<MessageFault, { lateMs: number }> | undefined): void {
    if (fault === 'lost') return;
    if (fault === 'reset' || fault === 'end' || fault === 'silence') {
      this.end(fault);
    } else {
      if (typeof fault === 'object') this.write(fault.after);
      this.write(frame);
      if (fault === 'twice') this.write(frame);
    }
  }

  private write(frame: string): void {
    if (!this.isSilent && !this.to.writableEnded && !this.to.destroyed) this.to.write(`${frame}\n\n`);
  }
}

function nameOf(url: string): CallName {
  const { pathname } = new URL(url, 'http://upstream');
  if (pathname.endsWith('/proxy/auth')) return 'auth';
  if (pathname.endsWith('/proxy/config')) return 'config';
  if (pathname.endsWith('/stream')) return 'stream';
  if (pathname.includes('/metrics/')) return 'metrics';
  return pathname.endsWith('/feature-configs') ? 'flags' : 'segments';
}

function reset(response: ServerResponse): void {
  response.socket?.resetAndDestroy();
}

async function bytesOf(message: IncomingMessage): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(message as AsyncIterable<Buffer>));
}
