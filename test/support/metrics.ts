import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** One entry of a metrics post. */
export interface Entry {
  readonly timestamp: number;
  readonly count: number;
  readonly metricsType: string;
  readonly attributes: readonly { readonly key: string; readonly value: string | null }[];
}

export interface Post {
  readonly environment: string;
  readonly entries: readonly Entry[];
}

/** How often each variation of each flag was served, as `flag/variation`. */
export type Sums = Record<string, number>;

export function sumsOf(posts: readonly Post[]): Sums {
  const sums: Sums = {};
  for (const { count, attributes } of posts.flatMap(({ entries }) => entries)) {
    const valueOf = (name: string) => attributes.find(({ key }) => key === name)?.value;
    const name = `${valueOf('featureIdentifier') ?? valueOf('featureName')}/${valueOf('variationIdentifier')}`;
    sums[name] = (sums[name] ?? 0) + count;
  }
  return sums;
}

/** An upstream for counts alone, which remembers what it has taken. */
export class MetricsUpstream {
  readonly taken: Post[] = [];
  refused = 0;
  /** The status of the next answer; `hold` to take a post and not to answer it until `release`. */
  answer: () => number | 'hold' = () => 200;
  /** The same, by what is posted. */
  answerTo: ((post: { readonly environment: string }) => number) | undefined;
  private readonly waiting: ServerResponse[] = [];
  private readonly server: Server;

  private constructor() {
    this.server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const environment = /^\/api\/1\.0\/metrics\/([^/?]+)\?/.exec(request.url ?? '')?.[1];
        const answer =
          environment && request.headers.authorization
            ? (this.answerTo?.({ environment }) ?? this.answer())
            : 401;
        if (environment && (answer === 'hold' || answer === 200)) {
          const { metricsData } = JSON.parse(Buffer.concat(chunks).toString());
          this.taken.push({ environment, entries: metricsData });
        } else this.refused++;
        if (answer === 'hold') this.waiting.push(response);
        else response.writeHead(answer).end();
      });
    });
  }

  static async start(): Promise<MetricsUpstream> {
    const upstream = new MetricsUpstream();
    upstream.server.listen(0, '127.0.0.1');
    await once(upstream.server, 'listening');
    return upstream;
  }

  /** As METRIC_SERVICE. */
  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/api/1.0`;
  }

  /** Posts that were taken and not answered. */
  get held(): number {
    return this.waiting.length;
  }

  release(): void {
    for (const response of this.waiting.splice(0)) response.writeHead(200).end();
  }

  /** What was taken of an environment. */
  of(environment: string): Post[] {
    return this.taken.filter((post) => post.environment === environment);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await once(this.server.close(), 'close');
  }
}
