import { BlockList, isIP } from 'node:net';
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';

import type { TlsFiles, TlsTexts } from '#libs/config';
import { Agent, type Dispatcher, EnvHttpProxyAgent, fetch, type RequestInit, type Response } from 'undici';

export interface UpstreamLinkOptions {
  /** Authorities to trust beside the usual ones, and what the relay shows the upstream. */
  readonly files?: TlsFiles | undefined;
  /** Where calls to https:// go through. */
  readonly httpsProxy?: string | undefined;
  readonly httpProxy?: string | undefined;
  /** Hosts, domains and address ranges that are asked directly, divided by commas. */
  readonly noProxy?: string | undefined;
}

/** Whoever makes a call has its own end of patience, that of a stream is a setting. */
const NO_TIMEOUTS = { headersTimeout: 0, bodyTimeout: 0 };

interface Ways {
  readonly direct: Dispatcher;
  readonly http: Dispatcher;
  readonly https: Dispatcher;
}

/**
 * How the upstream is reached: with which certificates, and directly or through a proxy (as curl and Go read
 * HTTPS_PROXY, HTTP_PROXY and NO_PROXY; this machine is always asked directly). Certificates that are replaced hold for
 * new connections.
 */
export class UpstreamLink {
  private readonly direct: BlockList;
  private ways: Ways;

  constructor(private readonly options: UpstreamLinkOptions = {}) {
    this.direct = addressesIn(options.noProxy);
    this.ways = this.open(options.files?.current);
  }

  /** Makes a call. It follows no redirect, which would take keys to another host. */
  fetch(url: string, init: RequestInit = {}): Promise<Response> {
    return fetch(url, { ...init, redirect: 'manual', dispatcher: this.dispatcherFor(url) });
  }

  /** What a call to an address is made with. */
  dispatcherFor(url: string): Dispatcher {
    const { protocol, hostname } = new URL(url);
    if (this.isDirect(hostname.replace(/^\[(.+)\]$/, '$1'))) return this.ways.direct;
    return protocol === 'https:' ? this.ways.https : this.ways.http;
  }

  /** Begins to look for new certificates. */
  watch(everyMs?: number): void {
    this.options.files?.watch((texts) => {
      const before = this.ways;
      this.ways = this.open(texts);
      // What is under way, as a stream is, goes on to its end.
      for (const way of new Set(Object.values(before))) void (way as Dispatcher).close();
    }, everyMs);
  }

  async close(): Promise<void> {
    this.options.files?.close();
    await Promise.all([...new Set(Object.values(this.ways))].map((way) => (way as Dispatcher).destroy()));
  }

  private isDirect(host: string): boolean {
    if (host === 'localhost' || host.endsWith('.localhost')) return true;
    const family = isIP(host);
    return family !== 0 && this.direct.check(host, family === 4 ? 'ipv4' : 'ipv6');
  }

  private open(texts: TlsTexts | undefined): Ways {
    const { httpsProxy, httpProxy, noProxy = '' } = this.options;
    const connect = { secureContext: contextOf(texts) };
    // The certificate is for the upstream, and no business of a proxy on the way.
    const proxyTls = { secureContext: contextOf(texts?.ca === undefined ? undefined : { ca: texts.ca }) };
    const direct = new Agent({ ...NO_TIMEOUTS, connect });
    const through = (proxy: { httpProxy: string; httpsProxy: string }) =>
      new EnvHttpProxyAgent({ ...NO_TIMEOUTS, ...proxy, noProxy, connect, requestTls: connect, proxyTls });
    return {
      direct,
      https: httpsProxy ? through({ httpsProxy, httpProxy: '' }) : direct,
      http: httpProxy ? through({ httpProxy, httpsProxy: '' }) : direct,
    };
  }
}

/** Undefined for what Node trusts by itself. */
function contextOf(texts: TlsTexts | undefined): SecureContext | undefined {
  if (!texts) return undefined;
  const { ca, cert, key } = texts;
  return createSecureContext({
    ...(ca !== undefined && { ca: [...getCACertificates('default'), ca] }),
    cert,
    key,
  });
}

/** The addresses that NO_PROXY names, and those of this machine. */
function addressesIn(noProxy = ''): BlockList {
  const list = new BlockList();
  list.addSubnet('127.0.0.0', 8, 'ipv4');
  list.addAddress('::1', 'ipv6');
  for (const entry of noProxy.split(/[\s,]+/)) {
    const [, address = '', bits] = /^\[?([\d.a-f:]+)\]?(?:\/(\d{1,3}))?$/i.exec(entry) ?? [];
    const family = isIP(address);
    const most = family === 4 ? 32 : 128;
    if (family === 0 || Number(bits ?? most) > most) continue;
    list.addSubnet(address, Number(bits ?? most), family === 4 ? 'ipv4' : 'ipv6');
  }
  return list;
}
