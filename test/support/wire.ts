import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

import { eventually } from './clients.js';

/** A connection to the relay, byte for byte. */
export class Wire {
  text = '';
  readonly closed: Promise<unknown>;

  private constructor(readonly socket: Socket) {
    socket.setEncoding('latin1').on('data', (text) => (this.text += String(text)));
    socket.on('error', () => undefined);
    this.closed = once(socket, 'close');
  }

  static async to(port: number, ...first: string[]): Promise<Wire> {
    const wire = new Wire(connect(port, '127.0.0.1'));
    await once(wire.socket, 'connect');
    for (const text of first) wire.socket.write(text);
    return wire;
  }

  get status(): number {
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.text)?.[1]);
  }
  header(name: string): string | undefined {
    return new RegExp(`\\r\\n${name}: ([^\\r]*)`, 'i').exec(this.text)?.[1];
  }
  get body(): unknown {
    return JSON.parse(this.text.slice(this.text.indexOf('\r\n\r\n') + 4));
  }

  async answered(): Promise<void> {
    await eventually(
      () => this.text,
      (text) => text.includes('\r\n\r\n') && text.endsWith('}'),
    );
  }
}

/** The beginning of a request. */
export const head = (method: string, path: string, headers: Record<string, string | number> = {}) =>
  `${method} ${path} HTTP/1.1\r\nhost: relay\r\n${Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`;
