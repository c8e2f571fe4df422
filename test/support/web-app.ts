import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

import { build } from 'esbuild';
import type { Browser, Page } from 'playwright-core';

import { PATIENCE_MS, root } from './processes.js';

/** A page of somebody's application, from a server of its own, with a script that is bundled as applications are. */
export class WebApp {
  private constructor(
    readonly page: Page,
    private readonly stop: () => Promise<void>,
  ) {}

  /**
   * @param script shows what it knows with `show(value)`
   * @param settings what the script finds as `settings`
   */
  static async open(browser: Browser, script: string, settings: object): Promise<WebApp> {
    const { outputFiles } = await build({
      stdin: { contents: `${SHOW}\n${script}`, resolveDir: root },
      bundle: true,
      format: 'esm',
      write: false,
      define: { settings: JSON.stringify(settings), 'process.env.NODE_ENV': '"production"' },
      logLevel: 'error',
    });
    const bundle = outputFiles[0]?.text ?? '';
    const html =
      '<!doctype html><meta charset="utf-8"><main></main><script type="module" src="app.js"></script>';
    const server = createServer(({ url }, response) => {
      const isScript = url === '/app.js';
      response.setHeader('content-type', isScript ? 'text/javascript; charset=utf-8' : 'text/html');
      response.end(isScript ? bundle : html);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const page = await browser.newPage();
    // SDKs draw their waits; these are the shortest.
    await page.addInitScript('Math.random = () => 0');
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    return new WebApp(page, async () => {
      await page.close();
      server.closeAllConnections();
      await once(server.close(), 'close');
    });
  }

  /** Waits until the page shows a value. Throws with what it shows otherwise. */
  async shows(value: unknown): Promise<void> {
    const wanted = JSON.stringify(value);
    try {
      await this.page.waitForFunction(
        `document.querySelector('main').textContent === ${JSON.stringify(wanted)}`,
        undefined,
        { timeout: PATIENCE_MS },
      );
    } catch {
      throw new Error(`the page shows ${await this.page.locator('main').innerText()} and not ${wanted}`);
    }
  }

  close(): Promise<void> {
    return this.stop();
  }
}

const SHOW = `const show = (value) => { document.querySelector('main').textContent = JSON.stringify(value); };`;
