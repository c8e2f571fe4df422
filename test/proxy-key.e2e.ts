import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { ScriptedUpstream } from '../apps/ingestor/src/scripted-upstream.suite.js';
import { aFlag } from '../libs/domain/src/builders.suite.js';

import { eventually, type SdkEvent, SdkSession, without } from './support/clients.js';
import { Workspace } from './support/processes.js';
import { hashOf } from './support/upstream-world.js';

const SDK_KEY = 'an-sdk-key';

describe('A proxy key that is rotated', () => {
  let workspace: Workspace;
  let upstream: ScriptedUpstream;
  beforeEach(async () => {
    workspace = new Workspace();
    upstream = await ScriptedUpstream.start({
      dev: { flags: [aFlag('dark-mode')], segments: [], apiKeys: [hashOf(SDK_KEY)] },
    });
    upstream.proxyKey = 'the-first-key';
  });
  afterEach(async () => {
    await workspace.dispose();
    upstream.close();
  });

  it('is taken from its file without a restart, and SDKs hear only of what changes', async () => {
    const data = await workspace.folder();
    const file = join(await workspace.folder(), 'key');
    await writeFile(file, 'the-first-key\n');
    const relay = await workspace.relay(data, upstream.url, 0, {
      PROXY_KEY: '',
      PROXY_KEY_FILE: file,
      CLIENT_SERVICE: upstream.url,
      METRIC_SERVICE: upstream.url,
    });
    const stop = new AbortController();
    const session = await SdkSession.signIn(relay.url, { id: 'dev', serverKey: SDK_KEY });
    const heard: SdkEvent[] = [];
    const events = without(['dark-mode'], await session.stream(stop.signal));
    const listening = (async () => {
      for await (const event of events) heard.push(event);
    })();

    // The old key dies at once.
    upstream.proxyKey = 'the-second-key';
    upstream.revokeTokens();
    upstream.endStreams();
    await relay.process.printed(/the upstream refuses PROXY_KEY/);
    expect(await session.flagVersion('dark-mode')).toBe(1);
    await writeFile(file, 'the-second-key\n');
    await relay.process.printed(/A new proxy key was found/);
    await eventually(
      () => upstream.openStreams,
      (open) => open === 1,
    );
    upstream.environment('dev').flags = [aFlag('dark-mode', { version: 2, state: 'on' })];
    upstream.tell({
      domain: 'flag',
      event: 'patch',
      identifier: 'dark-mode',
      version: 2,
      environment: 'dev',
    });
    await eventually(
      () => heard.length,
      (count) => count > 0,
    );
    expect(heard).toMatchObject([{ event: 'patch', identifier: 'dark-mode', version: 2 }]);
    expect(relay.process.output).not.toMatch(/the-(first|second)-key/);
    stop.abort();
    await listening;
  });
});
