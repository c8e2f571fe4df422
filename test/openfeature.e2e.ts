import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { type Client, OpenFeature } from '@openfeature/server-sdk';
import type { Browser } from 'playwright-core';

import { launchChromium } from './support/chromium.js';
import { Admin, eventually } from './support/clients.js';
import { DEMO, run, type Service, Workspace } from './support/processes.js';
import { WebApp } from './support/web-app.js';

const CLIENT_KEY = '20000000-0000-4000-8000-000000000002';
const SALE = 'Autumn sale: 20 % off until Sunday';
const MIDNIGHT = { accent: '#a78bfa', radius: 12, background: '#0b1020' };
const ANNA = { targetingKey: 'anna@example.com' };

describe('OpenFeature', () => {
  let workspace: Workspace;
  let folder: string;
  let controlPlane: Service;
  let relay: Service;
  let admin: Admin;
  beforeAll(async () => {
    workspace = new Workspace();
    folder = await workspace.folder();
    controlPlane = await workspace.controlPlane(await workspace.folder());
    relay = await workspace.relay(folder, controlPlane.url);
    admin = new Admin(controlPlane.url);
  });
  afterAll(() => workspace.dispose());
  const restart = async (meanwhile: () => Promise<void>) => {
    await relay.process.kill('SIGKILL');
    await meanwhile();
    relay = await workspace.relay(folder, controlPlane.url, relay.port);
  };

  describe('on a server', () => {
    afterEach(() => OpenFeature.close());
    const clientWith = async (headers: [string, string][]): Promise<Client> => {
      await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: relay.url, headers }));
      return OpenFeature.getClient();
    };
    const withKey = () => clientWith([['X-API-Key', DEMO.dev.serverKey]]);

    it('reads flags of all four kinds, with variant, reason and version', async () => {
      const client = await withKey();
      expect(await client.getBooleanDetails('dark-mode', false, ANNA)).toMatchObject({
        value: true,
        variant: 'true',
        reason: 'DEFAULT',
        flagMetadata: { version: 1, dataAgeSeconds: expect.any(Number), position: expect.any(String) },
      });
      expect(await client.getStringValue('banner-text', 'none', ANNA)).toBe(SALE);
      expect(await client.getNumberDetails('page-size', -1, ANNA)).toMatchObject({
        value: 25,
        reason: 'SPLIT',
      });
      expect(await client.getObjectValue('theme', {}, ANNA)).toEqual(MIDNIGHT);
      expect(await client.getStringDetails('banner-text', 'none', { targetingKey: 'ada' })).toMatchObject({
        variant: 'maintenance',
        reason: 'TARGETING_MATCH',
      });
    });

    it.each([
      ['an unknown flag', 'no-such-flag', ANNA, 'FLAG_NOT_FOUND'],
      ['a flag of another type', 'banner-text', ANNA, 'TYPE_MISMATCH'],
      ['no targetingKey', 'dark-mode', {}, 'TARGETING_KEY_MISSING'],
    ])('falls back to the default for %s, and says why', async (_, flag, context, errorCode) => {
      const client = await withKey();
      expect(await client.getBooleanDetails(flag, true, context)).toMatchObject({
        value: true,
        reason: 'ERROR',
        errorCode,
      });
    });

    it('falls back to the default with a wrong key', async () => {
      const client = await clientWith([['Authorization', 'Bearer wrong']]);
      expect(await client.getBooleanDetails('dark-mode', false, ANNA)).toMatchObject({
        value: false,
        errorCode: 'GENERAL',
      });
    });

    it('runs the example of the guide', async () => {
      const example = run(process.execPath, ['docs/examples/openfeature.mjs'], { RELAY_URL: relay.url });
      expect(await example.exited).toBe(0);
      expect(example.output).toContain('dark-mode is true');
      expect(example.output).toContain(
        'banner-text is "Orders pause tonight from 22:00 to 23:00": variant maintenance, by TARGETING_MATCH',
      );
    });

    it('reads the change of a flag at once', async () => {
      const client = await withKey();
      await admin.setState('dark-mode', 'off');
      const { reason } = await eventually(
        () => client.getBooleanDetails('dark-mode', true, ANNA),
        ({ value }) => !value,
      );
      expect(reason).toBe('DISABLED');
      expect(await client.getObjectDetails('theme', {}, ANNA)).toMatchObject({
        variant: 'classic',
        reason: 'DISABLED',
      });
      await admin.setState('dark-mode', 'on');
    });

    it('goes on after a restart of the relay, with the default meanwhile and then a change made meanwhile', async () => {
      const client = await withKey();
      const banner = () => client.getStringValue('banner-text', 'none', ANNA);
      expect(await banner()).toBe(SALE);
      await restart(async () => {
        expect(await banner()).toBe('none');
        await admin.setState('banner-text', 'off');
      });
      await eventually(banner, (value) => value === 'Welcome to the shop!');
      await admin.setState('banner-text', 'on');
      await eventually(banner, (value) => value === SALE);
    });
  });

  describe('in a browser', () => {
    let browser: Browser;
    let app: WebApp | undefined;
    beforeAll(async () => {
      browser = await launchChromium();
    });
    afterEach(() => app?.close());
    afterAll(() => browser?.close());

    const SCRIPT = `
      import { startFlags } from './docs/examples/openfeature-web.mjs';
      import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';
      const client = await startFlags(settings.relay, settings.key, settings.target);
      const update = () => show([
        client.getBooleanValue('dark-mode', false),
        client.getStringValue('banner-text', 'none'),
        client.getNumberValue('page-size', -1),
        client.getObjectValue('theme', {}),
        client.getBooleanDetails('no-such-flag', true).errorCode,
        client.getNumberDetails('dark-mode', -1).errorCode,
      ]);
      client.addHandler(ProviderEvents.ConfigurationChanged, update);
      update();
      window.become = (targetingKey) => OpenFeature.setContext({ targetingKey }).then(update);
    `;
    const ERRORS = ['FLAG_NOT_FOUND', 'TYPE_MISMATCH'];
    const CLASSIC = { accent: '#2563eb', radius: 4 };
    const open = async () => {
      app = await WebApp.open(browser, SCRIPT, { relay: relay.url, key: CLIENT_KEY, target: ANNA });
      await app.shows([true, SALE, 25, MIDNIGHT, ...ERRORS]);
      return app;
    };

    it('reads flags of all four kinds by the example of the guide, and a change when it is told of it, long before a poll', async () => {
      const opened = await open();
      await admin.setState('dark-mode', 'off');
      await opened.shows([false, SALE, 25, CLASSIC, ...ERRORS]);
      await opened.page.evaluate(`become('ada')`);
      const maintenance = 'Orders pause tonight from 22:00 to 23:00';
      await opened.shows([false, maintenance, 50, CLASSIC, ...ERRORS]);
      await admin.setState('dark-mode', 'on');
      await opened.shows([true, maintenance, 50, MIDNIGHT, ...ERRORS]);
    });

    it('goes on after a restart of the relay, and is told of a change made meanwhile', async () => {
      const opened = await open();
      await restart(() => admin.setState('banner-text', 'off'));
      await opened.shows([true, 'Welcome to the shop!', 25, MIDNIGHT, ...ERRORS]);
      await admin.setState('page-size', 'off');
      await opened.shows([true, 'Welcome to the shop!', 10, MIDNIGHT, ...ERRORS]);
    });
  });
});
