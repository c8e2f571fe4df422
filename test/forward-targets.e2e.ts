import { once } from 'node:events';
import { createServer, request, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import { afterEach, beforeEach, expect, it } from '@jest/globals';

import { eventually } from './support/clients.js';
import { DEMO, type Service, Workspace } from './support/processes.js';

/** The control plane, but for sign-ins of SDKs, which it answers itself as the test says. */
class UpstreamOfTargets {
  readonly signIns: string[] = [];
  /** The status of the next answer; `hold` for none. */
  answer: () => number | 'hold' = () => 200;
  private readonly server: Server;

  private constructor(controlPlane: string) {
    this.server = createServer((incoming, response) => {
      if (incoming.url === '/api/1.0/client/auth') {
        let body = '';
        incoming.setEncoding('utf8').on('data', (text) => (body += String(text)));
        incoming.on('end', () => this.take(body, response));
        return;
      }
      const { method, headers } = incoming;
      const outgoing = request(`${controlPlane}${incoming.url}`, { method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      outgoing.on('error', () => response.destroy());
      response.on('close', () => outgoing.destroy());
      incoming.pipe(outgoing);
    });
  }

  static async before(controlPlane: string): Promise<UpstreamOfTargets> {
    const upstream = new UpstreamOfTargets(controlPlane);
    upstream.server.listen(0, '127.0.0.1');
    await once(upstream.server, 'listening');
    return upstream;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await once(this.server.close(), 'close');
  }

  private take(body: string, response: ServerResponse): void {
    this.signIns.push(body);
    const answer = this.answer();
    if (answer !== 'hold') response.writeHead(answer).end('{"authToken":"e30.e30.e30"}');
  }
}

let workspace: Workspace;
let upstream: UpstreamOfTargets;
let relay: Service;
beforeEach(async () => {
  workspace = new Workspace();
  upstream = await UpstreamOfTargets.before((await workspace.controlPlane(await workspace.folder())).url);
});
afterEach(async () => {
  await workspace.dispose();
  await upstream.stop();
});

async function startRelay(settings: NodeJS.ProcessEnv) {
  relay = await workspace.relay(await workspace.folder(), upstream.url, 0, settings);
}

async function signIn(target: object, apiKey: string = DEMO.dev.serverKey): Promise<number> {
  const response = await fetch(`${relay.url}/client/auth`, {
    method: 'POST',
    body: JSON.stringify({ apiKey, target }),
  });
  await response.arrayBuffer();
  return response.status;
}

async function targets(): Promise<unknown> {
  const [, managementPort] = await relay.process.printed(/Answering .* on port (\d+)/);
  const response = await fetch(`http://127.0.0.1:${managementPort}/status`);
  return ((await response.json()) as { gateway: { targets?: unknown } }).gateway.targets;
}

const numbered = (count: number) => Array.from({ length: count }, (_, i) => ({ identifier: `anna-${i}` }));

it('A target that signs in a thousand times is told to the upstream once, and a stranger’s never', async () => {
  await startRelay({ FORWARD_TARGETS: 'true' });
  expect(await signIn({ identifier: 'mallory' }, 'no such key')).toBe(401);
  const anna = { identifier: 'anna', attributes: { plan: 'pro' } };
  for (let i = 0; i < 20; i++) {
    const statuses = await Promise.all(Array.from({ length: 50 }, () => signIn(anna)));
    expect(new Set(statuses)).toEqual(new Set([200]));
  }
  await eventually(targets, (told) => JSON.stringify(told) === '{"forwarded":1,"waiting":0,"dropped":0}');
  expect(upstream.signIns.map((body) => JSON.parse(body) as unknown)).toEqual([
    {
      apiKey: DEMO.dev.serverKey,
      target: { identifier: 'anna', name: 'anna', attributes: { plan: 'pro' } },
    },
  ]);
});

it('Sign-ins are answered while the upstream hangs, a flood of targets stays bounded, and the end waits for none', async () => {
  await startRelay({ FORWARD_TARGETS: 'true' });
  upstream.answer = () => 'hold';
  const statuses = new Set<number>();
  const flood = numbered(1500);
  for (let i = 0; i < flood.length; i += 50) {
    for (const status of await Promise.all(flood.slice(i, i + 50).map((target) => signIn(target)))) {
      statuses.add(status);
    }
  }
  expect(statuses).toEqual(new Set([200]));
  expect(await targets()).toEqual({ forwarded: 0, waiting: 1000, dropped: 500 });
  expect(upstream.signIns.length).toBeLessThan(100);
  expect(relay.process.output.match(/more are dropped/g)).toHaveLength(1);
  expect(await relay.process.kill('SIGTERM')).toBe(0);
  expect(relay.process.output).not.toContain(DEMO.dev.serverKey);
});

it('An upstream that fails is said once, and what it takes then is told', async () => {
  await startRelay({ FORWARD_TARGETS: 'true' });
  upstream.answer = () => (upstream.signIns.length > 6 ? 200 : 503);
  const flood = numbered(6);
  await Promise.all(flood.map((target) => signIn(target)));
  await eventually(targets, (told) => JSON.stringify(told) === '{"forwarded":6,"waiting":0,"dropped":0}');
  expect(relay.process.output.match(/Targets do not get through: .*503/g)).toHaveLength(1);
  expect(relay.process.output).toContain('The upstream takes targets again');
  expect(relay.process.output).not.toContain(DEMO.dev.serverKey);
});

it('Nothing is told of targets unless it is asked for', async () => {
  await startRelay({});
  expect(await signIn({ identifier: 'anna' })).toBe(200);
  expect(await targets()).toBeUndefined();
  expect(await relay.process.kill('SIGTERM')).toBe(0);
  expect(upstream.signIns).toEqual([]);
});
