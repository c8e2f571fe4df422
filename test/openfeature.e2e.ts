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
  let relay: Service;
  let admin: Admin;
  beforeAll(async () => {
    workspace = new Workspace();
    const controlPlane = await workspace.controlPlane(await workspace.folder());
    relay = await workspace.relay(await workspace.folder(), controlPlane.url);
    admin = new Admin(controlPlane.url);
  });
  afterAll(() => workspace.dispose());

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
  });

  describe('in a browser', () => {
    let browser: Browser;
    let app: WebApp | undefined;
    beforeAll(async () => {
      browser = await launchChromium();
    });
    afterEach(() => app?.close());
    afterAll(() => browser?.close());

    it('reads flags of all four kinds by the example of the guide, and a change by its next poll', async () => {
      const script = `
        import { startFlags } from './docs/examples/openfeature-web.mjs';
        import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';
        const client = await startFlags(settings.relay, settings.key, settings.target, 100);
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
      const opened = await WebApp.open(browser, script, { relay: relay.url, key: CLIENT_KEY, target: ANNA });
      app = opened;
      const errors = ['FLAG_NOT_FOUND', 'TYPE_MISMATCH'];
      await opened.shows([true, SALE, 25, MIDNIGHT, ...errors]);

      const statuses: number[] = [];
      opened.page.on('response', (response) => {
        if (response.request().method() === 'POST') statuses.push(response.status());
      });
      await eventually(
        () => statuses,
        (seen) => seen.includes(304),
      );
      expect(new Set(statuses)).toEqual(new Set([304]));
      await admin.setState('dark-mode', 'off');
      await opened.shows([false, SALE, 25, { accent: '#2563eb', radius: 4 }, ...errors]);
      await opened.page.evaluate(`become('ada')`);
      const maintenance = 'Orders pause tonight from 22:00 to 23:00';
      await opened.shows([false, maintenance, 50, { accent: '#2563eb', radius: 4 }, ...errors]);
    });
  });
});
