import { once } from 'node:events';
import { createServer, request, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

/**
 * A proxy as companies have them: it opens tunnels (CONNECT), takes plain requests with a whole address, and may ask for
 * a user and password. It alone knows where a host is, which is always a port of this machine.
 */
export class WebProxy {
  /** What it was asked for: `CONNECT host:port`, or method and address. */
  readonly asked: string[] = [];
  refuses = false;
  private readonly sockets = new Set<Socket>();

  private constructor(
    private readonly server: Server,
    private readonly credentials: string | undefined,
  ) {
    server.on('connection', (socket: Socket) => this.keep(socket));
    server.on('connect', ({ url = '', headers }, near: Socket) => {
      this.asked.push(`CONNECT ${url}`);
      if (!this.lets(headers['proxy-authorization'])) {
        near.end('HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n');
        return;
      }
      const far = connect(Number(url.split(':')[1]), '127.0.0.1', () => {
        near.write('HTTP/1.1 200 Connection established\r\n\r\n');
        near.pipe(far).pipe(near);
      });
      this.keep(far);
      far.once('close', () => near.destroy());
      near.once('close', () => far.destroy());
    });
    server.on('request', (incoming, response) => {
      this.asked.push(`${incoming.method} ${incoming.url}`);
      if (!this.lets(incoming.headers['proxy-authorization'])) {
        response.writeHead(407).end();
        return;
      }
      const { port, pathname, search } = new URL(incoming.url ?? '');
      const { method, headers } = incoming;
      const outgoing = request({ host: '127.0.0.1', port, path: `${pathname}${search}`, method, headers });
      outgoing.once('response', (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      outgoing.once('error', () => response.destroy());
      incoming.pipe(outgoing);
    });
  }

  /** @param credentials `user:password`, if it asks for them */
  static async start(credentials?: string): Promise<WebProxy> {
    const server = createServer();
    const proxy = new WebProxy(server, credentials);
    await once(server.listen(0, '127.0.0.1'), 'listening');
    return proxy;
  }

  get host(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** How many connections are open, either side. */
  get open(): number {
    return this.sockets.size;
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await once(this.server.close(), 'close');
  }

  private lets(authorization: string | undefined): boolean {
    if (this.refuses) return false;
    return (
      this.credentials === undefined ||
      authorization === `Basic ${Buffer.from(this.credentials).toString('base64')}`
    );
  }

  private keep(socket: Socket): void {
    this.sockets.add(socket);
    socket.on('error', () => undefined).once('close', () => this.sockets.delete(socket));
  }
}
