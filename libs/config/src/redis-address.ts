/** Where Redis is. */
export interface RedisAddress {
  /** One server, the nodes of a cluster, or Sentinels that know the server. */
  readonly kind: 'server' | 'cluster' | 'sentinel';
  readonly hosts: readonly { readonly host: string; readonly port: number }[];
  /** The server's name among Sentinels. */
  readonly master?: string | undefined;
  /** To the servers; Sentinels are asked without. */
  readonly tls: boolean;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
}

const EXPECTED =
  'an address of Redis is host:port, redis://host:port or rediss://host:port (TLS); several of one kind, divided by ' +
  'commas, for a cluster; or sentinel://host:26379,host:26379/name (sentinels:// for TLS to the servers). ' +
  'The database is a setting of its own';

const SERVER_PORT = 6379;
const SENTINEL_PORT = 26_379;

/** Throws an Error that says what to write. It shows nothing of the address, since that may hold a password. */
export function parseRedisAddress(address: string): RedisAddress {
  const [, secure, sentinels, master] = /^sentinel(s?):\/\/([^/]+)\/([^/?#]+)$/.exec(address.trim()) ?? [];
  const scheme = secure ? 'rediss' : 'redis';
  const nodes = sentinels
    ? sentinels.split(',').map((host) => nodeAt(`${scheme}://${host}`, SENTINEL_PORT))
    : address.split(',').map((node) => nodeAt(node, SERVER_PORT));
  const { tls } = nodes[0] ?? { tls: false };
  if (nodes.some((node) => node.tls !== tls)) throw new Error(EXPECTED);
  const { username, password } = nodes.find((node) => node.username || node.password) ?? {};
  return {
    kind: sentinels ? 'sentinel' : nodes.length > 1 ? 'cluster' : 'server',
    hosts: nodes.map(({ host, port }) => ({ host, port })),
    master,
    tls,
    username: username || undefined,
    password: password || undefined,
  };
}

function nodeAt(text: string, standardPort: number) {
  try {
    const node = text.trim();
    const url = new URL(/^rediss?:\/\//.test(node) ? node : `redis://${node}`);
    if (!url.hostname || url.search || url.hash || !['', '/'].includes(url.pathname))
      throw new Error(EXPECTED);
    return {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: Number(url.port || standardPort),
      tls: url.protocol === 'rediss:',
      username: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
    };
  } catch {
    // Without the cause, which quotes the address.
    throw new Error(EXPECTED);
  }
}
