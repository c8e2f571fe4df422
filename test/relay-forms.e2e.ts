import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession, upstreamFlags } from './support/clients.js';
import { ServiceSet } from './support/deployments.js';
import { DEMO, runApp, Workspace } from './support/processes.js';

describe('The relay in one process', () => {
  let servers: ServiceSet;
  let workspace: Workspace;
  let admin: Admin;

  beforeEach(async () => {
    workspace = new Workspace();
    servers = await ServiceSet.start(['nats', 'redis', 'control-plane']);
    admin = new Admin(servers.controlPlane.url);
  });
  afterEach(async () => {
    await workspace.dispose();
    await servers.dispose();
  });

  const relay = async (settings: NodeJS.ProcessEnv, folder?: string) =>
    workspace.relay(folder ?? (await workspace.folder()), servers.controlPlane.url, 0, settings);
  const expectToFollow = async (url: string) => {
    const session = await SdkSession.signIn(url);
    await admin.setState('dark-mode', ((await session.flagVersion('dark-mode')) ?? 0) % 2 ? 'off' : 'on');
    const upstream = await upstreamFlags(servers.controlPlane.url);
    await eventually(
      () => session.flags(),
      (flags) => flags === upstream,
    );
  };

  it.each<[string, () => NodeJS.ProcessEnv]>([
    ['NATS alone', () => ({ NATS_URL: servers.natsUrl })],
    ['Redis alone', () => ({ REDIS_ADDRESS: servers.redisAddress })],
    ['NATS and Redis', () => ({ NATS_URL: servers.natsUrl, REDIS_ADDRESS: servers.redisAddress })],
  ])('works over %s, now and after a restart', async (_name, settings) => {
    const folder = await workspace.folder();
    const first = await relay(settings(), folder);
    await expectToFollow(first.url);
    expect(await first.process.kill('SIGTERM')).toBe(0);
    await expectToFollow((await relay(settings(), folder)).url);
  });

  it('is a gateway beside others with READ_REPLICA, and needs no proxy key then', async () => {
    const shared = { NATS_URL: servers.natsUrl, REDIS_ADDRESS: servers.redisAddress };
    await relay(shared);
    const replica = await relay({ ...shared, READ_REPLICA: 'true', PROXY_KEY: '' });
    expect(replica.process.output).not.toContain('leads');
    await expectToFollow(replica.url);
    await eventually(
      async () => (await (await fetch(`${replica.url}/health`)).json()) as Record<string, { state: string }>,
      ({ streamStatus }) => streamStatus?.state === 'CONNECTED',
    );
  });

  it('says what READ_REPLICA needs, all at once', async () => {
    const process = runApp('relay', { READ_REPLICA: 'true', DATA_DIR: await workspace.folder() });
    expect(await process.exited).toBe(1);
    for (const setting of ['AUTH_SECRET', 'NATS_URL', 'REDIS_ADDRESS']) {
      expect(process.output).toContain(`${setting} is not set`);
    }
    expect(process.output).not.toContain('PROXY_KEY');
    expect(process.output).not.toContain(DEMO.proxyKey);
  });
});
