import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { Admin, eventually, SdkSession } from './support/clients.js';
import { DEMO, run, Workspace } from './support/processes.js';

let workspace: Workspace;
beforeEach(() => {
  workspace = new Workspace();
});
afterEach(() => workspace.dispose());

describe('The comparison of two relays', () => {
  const start = async () => {
    const controlPlane = await workspace.controlPlane(await workspace.folder());
    return { controlPlane, relay: await workspace.relay(await workspace.folder(), controlPlane.url) };
  };
  const compare = async (one: string, other: string) => {
    const script = run('node', ['docs/examples/compare-relays.mjs', one, other], {
      SDK_KEY: DEMO.dev.serverKey,
    });
    return { code: await script.exited, output: script.output };
  };

  it('agrees where they serve the same, and names what differs', async () => {
    const [here, there] = await Promise.all([start(), start()]);
    const [one, other] = [here.relay.url, there.relay.url];
    expect(await compare(one, other)).toMatchObject({
      code: 0,
      output: expect.stringMatching(/^[1-9]\d* agree, 0 differ\n$/),
    });
    await new Admin(there.controlPlane.url).setState('dark-mode', 'off');
    const sdk = await SdkSession.signIn(other);
    await eventually(
      () => sdk.flagVersion('dark-mode'),
      (version) => version === 2,
    );
    const { code, output } = await compare(one, other);
    expect(code).toBe(1);
    expect(output).toContain(`flag dark-mode, version: 1 at ${one}, 2 at ${other}\n`);
    expect(output).toMatch(/flag dark-mode, for anna: true at \S+, false at /);
  });
});
