import { readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { describe, expect, it } from '@jest/globals';

import { namesInGoRelay, RELAY_SETTINGS, settingsTable } from '#libs/config';

import { controlPlaneSettings } from '../apps/control-plane/src/control-plane-config.js';
import { root } from './support/processes.js';

/** Whose links are followed. */
const PAGES = [
  'README.md',
  ...['docs', 'docs/guides', 'docs/decisions'].flatMap((folder) =>
    readdirSync(join(root, folder)).flatMap((name) => (name.endsWith('.md') ? `${folder}/${name}` : [])),
  ),
];
const read = (name: string) => readFile(join(root, name), 'utf8');

describe('The documents', () => {
  it('show the Node example as it is run', async () => {
    expect(await read('README.md')).toContain(`\`\`\`js\n${await read('docs/examples/node-sdk.mjs')}\`\`\``);
  });

  it('show the subscriber as it is run', async () => {
    expect(await read('docs/events.md')).toContain(
      `\`\`\`js\n${await read('docs/examples/subscriber.mjs')}\`\`\``,
    );
  });

  it('show the commands for bundles as they are run', async () => {
    expect(await read('docs/guides/offline.md')).toContain(
      `\`\`\`sh\n${await read('docs/examples/bundle.sh')}\`\`\``,
    );
  });

  it('show the OpenFeature examples as they are run', async () => {
    for (const example of ['openfeature', 'openfeature-web']) {
      expect(await read('docs/guides/openfeature.md')).toContain(
        `\`\`\`js\n${await read(`docs/examples/${example}.mjs`)}\`\`\``,
      );
    }
  });

  it.each([
    ['settings', settingsTable(RELAY_SETTINGS, namesInGoRelay)],
    ['settings of the control plane', settingsTable(controlPlaneSettings({}))],
  ])('list all %s (UPDATE_DOCS=1 writes the table anew)', async (name, table) => {
    const file = join(root, 'docs/settings.md');
    const [from, to] = [`<!-- ${name} -->\n`, `<!-- ${name} end -->\n`];
    const [before = '', rest = ''] = (await read('docs/settings.md')).split(from);
    const [, after = ''] = rest.split(to);
    const wanted = `${before}${from}\n${table}\n${to}${after}`;
    if (process.env['UPDATE_DOCS']) await writeFile(file, wanted);
    expect(await readFile(file, 'utf8')).toBe(wanted);
  });

  it('point to files that are there', async () => {
    for (const page of PAGES) {
      const links = [...(await read(page)).matchAll(/\]\(([^):]+)\)/g)].flatMap(
        ([, link = '']) => link.replace(/#.*/, '') || [],
      );
      const named = [...(await read(page)).matchAll(/`((?:apps|libs|test|docs)\/[\w./-]+\.\w+)`/g)].map(
        ([, name = '']) => name,
      );
      const folder = dirname(page);
      for (const path of [...links.map((link) => join(folder, link)), ...named]) {
        await expect(
          readFile(join(root, path)).catch((error: NodeJS.ErrnoException) => error.code),
        ).resolves.not.toBe('ENOENT');
      }
    }
  });
});
