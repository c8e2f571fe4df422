import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { SaasClient } from '#libs/saas-client';

import { aFlag } from '../../domain/src/builders.suite.js';
import { generateBundle, readBundle } from './index.js';

const KEY = 'a'.repeat(64);
const TOKEN = `e30.${Buffer.from('{"account":"acme"}').toString('base64url')}.x`;

describe('A bundle from the upstream', () => {
  let folder: string;
  let upstream: Server;
  let saas: SaasClient;
  /** What the upstream says of its only environment, each time that it is asked; then the last. */
  let answers: object[];
  let asked: number;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-generated-'));
    asked = 0;
    upstream = createServer(({ url }, response) => {
      if (url?.startsWith('/proxy/auth')) return response.end(JSON.stringify({ authToken: TOKEN }));
      asked++;
      const told = (answers.length > 1 ? answers.shift() : answers[0]) ?? {};
      const environments = [{ id: 'dev', featureConfigs: [aFlag('theme')], segments: [], ...told }];
      return response.end(JSON.stringify({ itemCount: 1, pageCount: 1, environments }));
    });
    await once(upstream.listen(0, '127.0.0.1'), 'listening');
    const baseUrl = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;
    saas = new SaasClient({ baseUrl, proxyKey: { current: 'key' }, streamIdleTimeoutMs: 1000 });
  });
  afterEach(async () => {
    upstream.closeAllConnections();
    upstream.close();
    await rm(folder, { recursive: true });
  });

  const generate = (partial = false) =>
    generateBundle(saas, folder, AbortSignal.timeout(60_000), { partial, backoff: () => 0 });

  it('holds what the upstream says', async () => {
    answers = [{ apiKeys: [KEY] }];
    await generate();
    expect(await readBundle(folder)).toMatchObject({
      environments: [{ id: 'dev', account: 'acme', flags: [aFlag('theme')], apiKeys: [KEY] }],
      manifest: { source: 'upstream', complete: true },
    });
  });

  it.each([{}, { apiKeys: null }])('is not written where SDK keys are not told: %j', async (untold) => {
    answers = [{ apiKeys: [KEY] }];
    await generate();
    const before = await readFile(join(folder, 'manifest.json'), 'utf8');
    answers = [untold];
    asked = 0;
    await expect(generate()).rejects.toThrow('the upstream does not tell the SDK keys of environment dev');
    expect(asked).toBe(5);
    expect(await readFile(join(folder, 'manifest.json'), 'utf8')).toBe(before);
    expect((await readBundle(folder)).environments).toMatchObject([{ apiKeys: [KEY] }]);
  });

  it('is written once SDK keys are told, also if there are none', async () => {
    answers = [{}, { apiKeys: [] }];
    await generate();
    expect(await readBundle(folder)).toMatchObject({
      environments: [{ apiKeys: [] }],
      manifest: { complete: true },
    });
  });

  it('that may be a part is written without them, and says so', async () => {
    answers = [{}];
    await generate(true);
    expect((await readBundle(folder)).manifest).toMatchObject({
      complete: false,
      leftOut: ['SDK keys of dev: the upstream does not tell them'],
    });
  });
});
