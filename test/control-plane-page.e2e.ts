import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { Browser, Page } from 'playwright-core';

import { AccountStream } from '../apps/control-plane/src/account-stream.js';
import { ControlPlaneConfig } from '../apps/control-plane/src/control-plane-config.js';
import { startControlPlane } from '../apps/control-plane/src/control-plane.js';
import { aFlag } from '../libs/domain/src/builders.suite.js';

import { launchChromium } from './support/chromium.js';
import { DEMO, PATIENCE_MS } from './support/processes.js';

const SCOPE = 'accountIdentifier=demo&orgIdentifier=demo&projectIdentifier=demo';
const TOKEN = '0123456789abcdef';
const SOON = { timeout: PATIENCE_MS };

let browser: Browser;
beforeAll(async () => {
  browser = await launchChromium();
});
afterAll(() => browser?.close());

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function start(environment: NodeJS.ProcessEnv = {}) {
  const dataDir = environment['DATA_DIR'] ?? mkdtempSync(join(tmpdir(), 'page-'));
  const running = await startControlPlane(
    new ControlPlaneConfig({
      CONTROL_PLANE_PORT: '0',
      DATA_DIR: dataDir,
      LOG_LEVEL: 'ERROR',
      ...environment,
    }),
  );
  cleanUps.push(async () => {
    await running.app.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  const admin = async (method: string, path: string, body?: unknown) => {
    const response = await fetch(`${running.url}/cf/admin${path}`, {
      method,
      headers: { 'x-api-key': TOKEN, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(await response.text());
    const text = await response.text();
    return text ? JSON.parse(text) : undefined;
  };
  const turn = (flag: string, environmentIdentifier: string, state: 'on' | 'off') =>
    admin('PATCH', `/features/${flag}?${SCOPE}&environmentIdentifier=${environmentIdentifier}`, {
      instructions: [{ kind: 'setFeatureFlagState', parameters: { state } }],
    });
  const stateOf = async (flag: string, environmentIdentifier: string) =>
    (await admin('GET', `/features/${flag}?${SCOPE}&environmentIdentifier=${environmentIdentifier}`))
      .envProperties.state;
  return { ...running, dataDir, admin, turn, stateOf };
}

/** Reports evaluations of flags in dev, as a relay does: `flag/variation` → how often, so many hours ago. */
async function report(url: string, counts: Record<string, number>, hoursAgo = 0): Promise<void> {
  const post = async (path: string, body: unknown, headers: Record<string, string> = {}) => {
    const response = await fetch(`${url}/api/1.0${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(await response.text());
    return response;
  };
  const { authToken } = (await (await post('/proxy/auth', { proxyKey: DEMO.proxyKey })).json()) as {
    authToken: string;
  };
  const metricsData = Object.entries(counts).map(([name, count]) => ({
    timestamp: Date.now() - hoursAgo * 3_600_000,
    count,
    metricsType: 'FFMETRICS',
    attributes: ['featureIdentifier', 'variationIdentifier'].map((key, index) => ({
      key,
      value: name.split('/')[index],
    })),
  }));
  await post(`/metrics/${DEMO.dev.id}`, { metricsData }, { authorization: `Bearer ${authToken}` });
}

/** Opens the page in a tab of its own. What the page logs as an error of its own makes the test fail. */
async function openPage(
  url: string,
  prepare: (page: Page) => Promise<unknown> = async () => undefined,
): Promise<Page> {
  const page = await browser.newPage();
  await prepare(page);
  const faults: Error[] = [];
  page.on('pageerror', (fault) => faults.push(fault));
  cleanUps.push(async () => {
    await page.close();
    expect(faults).toEqual([]);
  });
  await page.goto(url);
  return page;
}

const live = (page: Page) => page.getByText('Live', { exact: true }).waitFor(SOON);
const toggle = (page: Page, flag: string, environment: string) =>
  page.getByRole('switch', { name: `${flag} in ${environment}`, exact: true });
const shows = (page: Page, flag: string, environment: string, state: 'on' | 'off') =>
  page
    .getByRole('switch', { name: `${flag} in ${environment}`, exact: true, checked: state === 'on' })
    .and(page.locator('[aria-busy=false]'))
    .waitFor(SOON);
const chart = (page: Page, flag: string, environment: string) =>
  page.getByRole('img', { name: `Evaluations of ${flag} in ${environment}, hour by hour`, exact: true });
const cell = (page: Page, flag: string, environment: string) =>
  page.getByRole('cell').filter({ has: toggle(page, flag, environment) });

describe('The page of the control plane', () => {
  it('shows one project of several, and any of them on demand; and none where there is none', async () => {
    const { url, admin } = await start({ DEMO_DATA: 'false' });
    const page = await openPage(url);
    await live(page);
    await page.getByText('No flags yet').waitFor(SOON);
    const environment = (id: string, project: string, feature: string) => ({
      id,
      project,
      identifier: 'live',
      apiKeys: [],
      flags: [aFlag(feature, { project, environment: 'live' })],
      segments: [],
    });
    const imported = await fetch(`${url}/cf/admin/import`, {
      method: 'POST',
      headers: { 'x-api-key': TOKEN, 'content-type': 'application/vnd.ff-relay.bundle+json' },
      body: JSON.stringify({
        account: 'acme',
        organization: 'default',
        proxyKey: { identifier: 'relay', hash: '0'.repeat(64), isNew: false },
        environments: [environment('e1', 'bank', 'loans'), environment('e2', 'shop', 'baskets')],
      }),
    });
    expect(imported.status).toBe(200);
    await shows(page, 'loans', 'live', 'off');
    expect(await page.getByRole('switch').count()).toBe(1);
    await page.getByRole('combobox', { name: 'Project' }).selectOption('shop (acme)');
    await shows(page, 'baskets', 'live', 'off');
    expect(await page.getByRole('switch').count()).toBe(1);
    await toggle(page, 'baskets', 'live').click();
    await shows(page, 'baskets', 'live', 'on');
    const scope = 'accountIdentifier=acme&orgIdentifier=default&environmentIdentifier=live';
    const { envProperties } = await admin('GET', `/features/baskets?${scope}&projectIdentifier=shop`);
    expect(envProperties).toMatchObject({ state: 'on', version: 2 });
    await page.reload();
    await shows(page, 'baskets', 'live', 'on');
  });

  it('shows each flag in each environment, with what it serves', async () => {
    const { url } = await start();
    const page = await openPage(url);
    await live(page);
    expect(await page.getByRole('columnheader').allInnerTexts()).toEqual([
      'Flag',
      'Development dev',
      'Production prod',
    ]);
    expect(await page.getByRole('switch').count()).toBe(8);
    const row = page.getByRole('row').filter({ hasText: 'page-size' });
    for (const text of [
      'Page size',
      'int',
      '25 % → 10',
      'group beta-testers → large',
      'Version 1, changed just now',
    ]) {
      await row.getByText(text).first().waitFor(SOON);
    }
    await page
      .getByRole('row')
      .filter({ hasText: 'theme' })
      .getByText('needs dark-mode: true')
      .first()
      .waitFor(SOON);
  });

  it('toggles a flag by click and by keyboard', async () => {
    const { url, stateOf } = await start();
    const page = await openPage(url);
    await live(page);
    await toggle(page, 'dark-mode', 'dev').click();
    await shows(page, 'dark-mode', 'dev', 'off');
    expect(await stateOf('dark-mode', 'dev')).toBe('off');
    expect(await stateOf('dark-mode', 'prod')).toBe('on');

    await toggle(page, 'dark-mode', 'dev').press('Space');
    await shows(page, 'dark-mode', 'dev', 'on');
    expect(await stateOf('dark-mode', 'dev')).toBe('on');
    await page.keyboard.press('Enter');
    await shows(page, 'dark-mode', 'dev', 'off');
    expect(await stateOf('dark-mode', 'dev')).toBe('off');
  });

  it('updates by itself when another tab or the admin API changes a flag, and points at it', async () => {
    const { url, turn, admin } = await start();
    const [one, other] = await Promise.all([openPage(url), openPage(url)]);
    await Promise.all([live(one), live(other)]);
    await toggle(one, 'theme', 'prod').click();
    await shows(other, 'theme', 'prod', 'on');
    await other
      .locator('td.fresh')
      .filter({ has: toggle(other, 'theme', 'prod') })
      .waitFor(SOON);

    await turn('banner-text', 'dev', 'off');
    await Promise.all([one, other].map((page) => shows(page, 'banner-text', 'dev', 'off')));

    await admin('POST', `/features?${SCOPE}`, {
      identifier: 'a-new-flag',
      name: '<img src=x onerror=alert(1)>',
      project: 'demo',
      kind: 'string',
      variations: [
        { identifier: 'a', value: '<b>a</b>' },
        { identifier: 'b', value: 'b' },
      ],
      defaultOnVariation: 'a',
      defaultOffVariation: 'b',
    });
    await shows(one, 'a-new-flag', 'dev', 'off');
    await one.getByText('<img src=x onerror=alert(1)>').waitFor(SOON);
    await one.getByText('“<b>a</b>”').first().waitFor(SOON);
    expect(await one.locator('table img, table td b').count()).toBe(0);
    expect(await one.getByRole('rowheader').first().innerText()).toContain('a-new-flag');

    await admin('DELETE', `/features/a-new-flag?${SCOPE}`);
    await toggle(one, 'a-new-flag', 'dev').waitFor({ state: 'detached', ...SOON });
  });

  it('keeps the focus where it is while other flags change', async () => {
    const { url, turn, admin } = await start();
    const page = await openPage(url);
    await live(page);
    await toggle(page, 'page-size', 'dev').focus();
    await turn('page-size', 'dev', 'off');
    await admin('DELETE', `/features/dark-mode?${SCOPE}`);
    await shows(page, 'page-size', 'dev', 'off');
    await toggle(page, 'dark-mode', 'dev').waitFor({ state: 'detached', ...SOON });
    await page.locator('[aria-label="page-size in dev"]:focus').waitFor(SOON);
  });

  it('says when the connection is lost, comes back by itself, and catches up', async () => {
    const first = await start();
    const page = await openPage(first.url);
    await live(page);
    await first.app.close();
    await page.getByText('Connection lost').waitFor(SOON);

    const again = await start({ DATA_DIR: first.dataDir, CONTROL_PLANE_PORT: new URL(first.url).port });
    await again.turn('theme', 'dev', 'off');
    await live(page);
    await shows(page, 'theme', 'dev', 'off');
  });

  it('holds no connection while nobody sees it, and catches up when it is seen again', async () => {
    const { url, app, turn } = await start();
    const page = await openPage(url);
    await live(page);
    // Chromium without a window takes every tab for visible, so the page is told.
    const setHidden = (hidden: boolean) =>
      page.evaluate(`Object.defineProperty(document, 'hidden', { value: ${hidden}, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'))`);
    await setHidden(true);
    while (app.get(AccountStream).openStreams > 0) await page.evaluate('new Promise(requestAnimationFrame)');
    await turn('theme', 'dev', 'off');
    await setHidden(false);
    await shows(page, 'theme', 'dev', 'off');
    await live(page);
  });

  it('puts the switch back when a toggle fails, and says why', async () => {
    const { url, app, stateOf } = await start();
    const page = await openPage(url);
    await live(page);
    await page.route('**/features/**', (route) =>
      route.fulfill({ status: 500, json: { code: '500', message: 'the disk is full' } }),
    );
    await toggle(page, 'theme', 'prod').click();
    await page
      .getByRole('alert')
      .getByText('theme could not be turned on in prod: the disk is full.')
      .waitFor(SOON);
    await shows(page, 'theme', 'prod', 'off');
    expect(await stateOf('theme', 'prod')).toBe('off');
    await page.getByRole('button', { name: 'Dismiss' }).click();
    await page.unroute('**/features/**');

    await app.close();
    await toggle(page, 'theme', 'prod').click();
    await page.getByRole('alert').getByText('the control plane does not answer').waitFor(SOON);
    await shows(page, 'theme', 'prod', 'off');
  });

  it('shows what was evaluated in the last day, as it is reported, and when last if nothing was', async () => {
    const { url } = await start();
    await report(url, { 'theme/classic': 4 }, 49);
    const page = await openPage(url);
    await live(page);
    await cell(page, 'dark-mode', 'dev').getByText('No evaluations in 24 h', { exact: true }).waitFor(SOON);
    await cell(page, 'theme', 'dev').getByText('No evaluations in 24 h, last 2 days ago').waitFor(SOON);
    expect(await page.getByRole('img', { name: 'Evaluations' }).count()).toBe(0);

    await report(url, { 'dark-mode/true': 1500, 'dark-mode/false': 499 }, 3);
    await report(url, { 'dark-mode/a variation that is gone': 1 });
    const darkMode = cell(page, 'dark-mode', 'dev');
    await darkMode
      .getByText(/^True: 1,500, False: 499, others: 1\. Most in the hour from .+: 1,999\.$/)
      .waitFor(SOON);
    await darkMode.getByText('2K evaluations in 24 h').waitFor(SOON);
    expect(await darkMode.getByRole('listitem').allTextContents()).toEqual([
      'True 75 %',
      'False 25 %',
      'others < 1 %',
    ]);
    const bars = chart(page, 'dark-mode', 'dev').locator('path:not(.ground)');
    expect(await bars.evaluateAll((paths) => paths.map((path) => path.getAttribute('class')))).toEqual([
      'v0',
      'v1',
      'others',
    ]);
    // Both stand on each other in one hour, as high as the chart; the one of now is small, and there.
    const boxes = await Promise.all((await bars.all()).map((bar) => bar.boundingBox()));
    expect(boxes[0]!.x).toBe(boxes[1]!.x);
    expect(boxes[1]!.y + boxes[1]!.height).toBeCloseTo(boxes[0]!.y, 0);
    expect(boxes[2]!.x).toBeGreaterThan(boxes[0]!.x + boxes[0]!.width);
    expect(boxes[2]!.height).toBeGreaterThanOrEqual(1.5);
    await cell(page, 'dark-mode', 'prod').getByText('No evaluations in 24 h', { exact: true }).waitFor(SOON);
    expect(await chart(page, 'dark-mode', 'prod').count()).toBe(0);
  });

  it('goes on without charts while the counts cannot be read, and shows them when they can', async () => {
    const { url, turn } = await start();
    await report(url, { 'dark-mode/true': 5 });
    const page = await openPage(url, (tab) =>
      tab.route('**/admin/metrics**', (route) => route.fulfill({ status: 500, json: { message: 'broken' } })),
    );
    await live(page);
    await turn('theme', 'dev', 'off');
    await shows(page, 'theme', 'dev', 'off');
    expect(await page.getByText('evaluations in').count()).toBe(0);
    await page.unroute('**/admin/metrics**');
    await report(url, { 'dark-mode/true': 2 });
    await cell(page, 'dark-mode', 'dev').getByText('7 evaluations in 24 h').waitFor(SOON);
    await cell(page, 'dark-mode', 'prod').getByText('No evaluations in 24 h').waitFor(SOON);
  });

  it('finds flags by name, kind and description', async () => {
    const { url, admin } = await start();
    const page = await openPage(url);
    await live(page);
    await page.keyboard.press('/');
    await page.keyboard.type('json shop');
    await page.getByText('1 of 4 flags').waitFor(SOON);
    expect(await page.getByRole('rowheader').allInnerTexts()).toEqual([expect.stringContaining('theme')]);
    await page.getByRole('searchbox').fill('no such flag');
    await page.getByRole('heading', { name: 'No flag matches “no such flag”' }).waitFor(SOON);
    await page.getByRole('button', { name: 'Show all flags' }).click();
    await page.getByText('4 flags', { exact: true }).waitFor(SOON);

    for (const flag of ['banner-text', 'dark-mode', 'page-size', 'theme']) {
      await admin('DELETE', `/features/${flag}?${SCOPE}`);
    }
    await page.getByRole('heading', { name: 'No flags yet' }).waitFor(SOON);
  });

  it('asks for ADMIN_TOKEN once', async () => {
    const { url } = await start({ ADMIN_TOKEN: TOKEN });
    const page = await openPage(url);
    const field = page.getByLabel('Token', { exact: true });
    await field.fill('not the token');
    await field.press('Enter');
    await field.fill('not-the-token');
    await field.press('Enter');
    await page.getByText('That token was not accepted.').waitFor(SOON);
    await field.fill(TOKEN);
    await page.getByRole('button', { name: 'Continue' }).click();
    await live(page);
    await toggle(page, 'theme', 'dev').click();
    await shows(page, 'theme', 'dev', 'off');
    await page.reload();
    await live(page);
    await shows(page, 'theme', 'dev', 'off');
  });

  it('fits a phone', async () => {
    const { url } = await start();
    await report(url, { 'page-size/small': 1, 'page-size/medium': 2, 'page-size/large': 3 });
    const page = await openPage(url);
    await page.setViewportSize({ width: 360, height: 740 });
    await live(page);
    await chart(page, 'page-size', 'dev').waitFor(SOON);
    const box = await page.locator('html').boundingBox();
    expect(box?.width).toBe(360);
    const boxes = await Promise.all((await page.getByRole('switch').all()).map((each) => each.boundingBox()));
    for (const each of boxes) expect(each!.x + each!.width).toBeLessThanOrEqual(360);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(360);
  });
});
