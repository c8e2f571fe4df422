import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client, Event } from '@harnessio/ff-nodejs-server-sdk';

import { Admin, eventually, ownMemory } from './support/clients.js';
import { type Deployment, DEPLOYMENTS } from './support/deployments.js';
import { DEMO } from './support/processes.js';

const target = { identifier: 'anna@example.com', name: 'Anna', attributes: {} };

describe.each(DEPLOYMENTS)('The Harness Node SDK, through the relay as %s', (_name, deploy) => {
  let deployment: Deployment;
  let clients: Client[];
  let admin: Admin;

  beforeEach(async () => {
    clients = [];
    deployment = await deploy();
    admin = new Admin(deployment.controlPlane.url);
  });
  afterEach(async () => {
    await deployment.dispose();
    for (const client of clients) client.close();
  });

  const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {} };
  /** A client; `started` ones are closed after the test, others have nothing to close. */
  const sdk = (
    enableStream: boolean,
    key: string = DEMO.dev.serverKey,
    at = deployment.gateways.at(-1) ?? '',
  ) => {
    const client = new Client(key, {
      baseUrl: at,
      eventsUrl: at,
      enableStream,
      enableAnalytics: false,
      logger: silent,
      ...ownMemory(),
    });
    return client;
  };

  const started = async (client: Client) => {
    await client.waitForInitialization();
    clients.push(client);
    return client;
  };

  it.each([
    ['stream', true],
    ['poll', false],
  ])('starts in %s mode and reads the right values of all four kinds', async (_, enableStream) => {
    const client = await started(sdk(enableStream));
    expect(await client.boolVariation('dark-mode', target, false)).toBe(true);
    expect(await client.stringVariation('banner-text', target, 'none')).toBe(
      'Autumn sale: 20 % off until Sunday',
    );
    expect(await client.numberVariation('page-size', target, -1)).toBe(25);
    expect(await client.jsonVariation('theme', target, {})).toEqual({
      accent: '#a78bfa',
      radius: 12,
      background: '#0b1020',
    });
  });

  it('hears of a toggle over the stream, and reads the new value', async () => {
    const client = await started(sdk(true));
    for (const state of ['off', 'on', 'off'] as const) {
      await admin.setState('dark-mode', state);
      await eventually(
        () => client.boolVariation('dark-mode', target, state === 'off'),
        (value) => value === (state === 'on'),
      );
    }
  });

  it('drops a flag that was deleted, and takes it again when it is made anew', async () => {
    const client = await started(sdk(true));
    await admin.createFlag('new-flag');
    await eventually(
      () => client.boolVariation('new-flag', target, true),
      (value) => !value,
    );
    await admin.deleteFlag('new-flag');
    await eventually(
      () => client.boolVariation('new-flag', target, true),
      (value) => value,
    );
    await admin.createFlag('new-flag');
    await eventually(
      () => client.boolVariation('new-flag', target, true),
      (value) => !value,
    );
  });

  it('with a wrong key is refused: it goes on trying on 401, and fails at once on 403', async () => {
    const wrong = '20000000-0000-4000-8000-00000000ffff';
    const answer = await fetch(`${deployment.gateways[0]}/client/auth`, {
      method: 'POST',
      body: JSON.stringify({ apiKey: wrong }),
    });
    expect(answer.status).toBe(401);

    const failFast = await deployment.gateway({ UNKNOWN_KEY_STATUS: '403' });
    const client = sdk(true, wrong, failFast);
    const failed = new Promise((done) => client.on(Event.FAILED, done));
    await expect(client.waitForInitialization()).rejects.toBeDefined();
    await failed;
    expect(await client.boolVariation('dark-mode', target, true)).toBe(true);
  });
});
