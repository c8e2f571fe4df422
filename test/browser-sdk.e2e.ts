import { afterAll, afterEach, beforeAll, beforeEach, describe, it } from '@jest/globals';
import type { Browser } from 'playwright-core';

import { launchChromium } from './support/chromium.js';
import { Admin } from './support/clients.js';
import { type Service, Workspace } from './support/processes.js';
import { WebApp } from './support/web-app.js';

const KEY = '20000000-0000-4000-8000-000000000002';

/** The Harness JavaScript SDK on a page that shows what it knows. */
const JAVASCRIPT = `
import { Event, initialize } from '@harnessio/ff-javascript-client-sdk';
const { key, target, relay } = settings;
const client = initialize(key, target, { baseUrl: relay, eventUrl: relay });
const state = { connected: 0 };
const update = () => {
  for (const flag of ['banner-text', 'dark-mode', 'page-size', 'theme', 'no-such-flag']) {
    state[flag] = client.variation(flag, 'default');
  }
  show(state);
};
client.on(Event.READY, update);
client.on(Event.CHANGED, update);
client.on(Event.CONNECTED, () => { state.connected++; update(); });
`;

/** The Harness React SDK. */
const REACT = `
import { FFContextProvider, useFeatureFlag } from '@harnessio/ff-react-client-sdk';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
const { key, target, relay } = settings;
const Flags = () => JSON.stringify([useFeatureFlag('dark-mode'), useFeatureFlag('theme').accent]);
createRoot(document.querySelector('main')).render(
  createElement(
    FFContextProvider,
    { apiKey: key, target, options: { baseUrl: relay, eventUrl: relay } },
    createElement(Flags),
  ),
);
`;

const MIDNIGHT = { accent: '#a78bfa', radius: 12, background: '#0b1020' };

let browser: Browser;
beforeAll(async () => {
  browser = await launchChromium();
});
afterAll(() => browser?.close());

describe('In a browser', () => {
  let workspace: Workspace;
  let folder: string;
  let controlPlane: Service;
  let relay: Service;
  let admin: Admin;
  const apps: WebApp[] = [];

  beforeEach(async () => {
    workspace = new Workspace();
    folder = await workspace.folder();
    controlPlane = await workspace.controlPlane(await workspace.folder());
    relay = await workspace.relay(folder, controlPlane.url);
    admin = new Admin(controlPlane.url);
  });
  afterEach(async () => {
    for (const app of apps.splice(0)) await app.close();
    await workspace.dispose();
  });

  const open = async (script: string, target: object) => {
    const app = await WebApp.open(browser, script, { key: KEY, relay: relay.url, target });
    apps.push(app);
    return app;
  };

  const restart = async (meanwhile: () => Promise<void>) => {
    await relay.process.kill('SIGKILL');
    await meanwhile();
    relay = await workspace.relay(folder, controlPlane.url, relay.port);
  };

  describe('the Harness JavaScript SDK', () => {
    const forAnna = {
      'banner-text': 'Autumn sale: 20 % off until Sunday',
      'dark-mode': true,
      'page-size': 25,
      theme: MIDNIGHT,
      'no-such-flag': 'default',
    };

    it('has the values of all four kinds, and a toggle upstream arrives by stream', async () => {
      const app = await open(JAVASCRIPT, { identifier: 'anna@example.com', name: 'Anna' });
      await app.shows({ connected: 1, ...forAnna });
      await admin.setState('banner-text', 'off');
      await app.shows({ connected: 1, ...forAnna, 'banner-text': 'Welcome to the shop!' });
      await admin.setState('banner-text', 'on');
      await app.shows({ connected: 1, ...forAnna });
    });

    it('has other values for a target that is named, with an identifier as people have them', async () => {
      const app = await open(JAVASCRIPT, { identifier: 'ada', name: 'Ada 😀', attributes: { a: '漢字' } });
      const maintenance = 'Orders pause tonight from 22:00 to 23:00';
      await app.shows({ connected: 1, ...forAnna, 'banner-text': maintenance, 'page-size': 50 });
      const odd = await open(JAVASCRIPT, { identifier: 'Zoë +1 / a@b', name: 'Zoë' });
      await admin.setState('page-size', 'off');
      await odd.shows({ connected: 1, ...forAnna, 'page-size': 10 });
    });

    it('goes on after a restart of the relay, and hears of a change made meanwhile', async () => {
      const app = await open(JAVASCRIPT, { identifier: 'anna@example.com', name: 'Anna' });
      await app.shows({ connected: 1, ...forAnna });
      await restart(() => admin.setState('banner-text', 'off'));
      const changed = { connected: 2, ...forAnna, 'banner-text': 'Welcome to the shop!' };
      await app.shows(changed);
      await admin.setState('page-size', 'off');
      await app.shows({ ...changed, 'page-size': 10 });
    });
  });

  describe('the Harness React SDK', () => {
    it('has the values, and a toggle upstream arrives', async () => {
      const app = await open(REACT, { identifier: 'anna@example.com', name: 'Anna' });
      await app.shows([true, MIDNIGHT.accent]);
      await admin.setState('theme', 'off');
      await app.shows([true, '#2563eb']);
    });

    it('goes on after a restart of the relay, and hears of a change made meanwhile', async () => {
      const app = await open(REACT, { identifier: 'anna@example.com', name: 'Anna' });
      await app.shows([true, MIDNIGHT.accent]);
      await restart(() => admin.setState('theme', 'off'));
      await app.shows([true, '#2563eb']);
      await admin.setState('dark-mode', 'off');
      await app.shows([false, '#2563eb']);
    });
  });
});
