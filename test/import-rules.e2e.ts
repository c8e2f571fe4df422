import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';

import { root, run, Workspace } from './support/processes.js';

describe('The check of import directions', () => {
  let workspace: Workspace;
  beforeEach(() => {
    workspace = new Workspace();
  });
  afterEach(() => workspace.dispose());

  /** Runs the project's own rules over a small tree. */
  const check = async (files: Record<string, string>) => {
    const folder = await workspace.folder();
    const tree: Record<string, string> = {
      'package.json': '{"type":"module","imports":{"#libs/*":{"types":"./libs/*/src/index.ts"}}}',
      'tsconfig.json': '{"compilerOptions":{"module":"nodenext","moduleResolution":"nodenext"}}',
      'apps/relay/src/main.ts': '',
      'libs/domain/src/index.ts': 'export const domain = 1;',
      'libs/event-log/src/index.ts': "import { domain } from '#libs/domain'; export const log = domain;",
      'libs/event-log/src/inside.ts': 'export const inside = 1;',
      'apps/gateway/src/gateway.module.ts':
        "import { log } from '#libs/event-log'; export const gateway = log;",
      'apps/gateway/src/view.ts': 'export const view = 1;',
      ...files,
    };
    for (const [name, content] of Object.entries(tree)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFile(join(folder, name), content);
    }
    const depcruise = join(root, 'node_modules/.bin/depcruise');
    const config = join(root, '.dependency-cruiser.mjs');
    const script = `cd ${folder} && ${depcruise} --config ${config} apps libs`;
    const cruise = run('bash', ['-c', script]);
    return { passed: (await cruise.exited) === 0, output: cruise.output };
  };

  it('passes a tree whose arrows point inwards', async () => {
    expect(await check({})).toMatchObject({ passed: true });
  });

  it.each([
    [
      'no-circles',
      { 'libs/domain/src/index.ts': "import './b.js';", 'libs/domain/src/b.ts': "import './index.js';" },
    ],
    [
      'libs-do-not-know-apps',
      { 'libs/event-log/src/index.ts': "import '../../../apps/gateway/src/view.js';" },
    ],
    ['only-the-relay-composes-apps', { 'apps/projector/src/a.ts': "import '../../gateway/src/view.js';" }],
    ['the-relay-takes-modules-only', { 'apps/relay/src/main.ts': "import '../../gateway/src/view.js';" }],
    [
      'libs-are-entered-by-their-front-door',
      { 'apps/gateway/src/a.ts': "import '../../../libs/event-log/src/inside.js';" },
    ],
    ['pure-libs-use-nothing', { 'libs/domain/src/index.ts': "import 'node:fs';" }],
    ['pure-libs-use-nothing', { 'libs/domain/src/index.ts': "import { log } from '#libs/event-log';" }],
    [
      'the-control-plane-shares-only-the-domain',
      { 'apps/control-plane/src/a.ts': "import '#libs/event-log';" },
    ],
  ])('fails on a wrong arrow: %s', async (rule, files) => {
    const { passed, output } = await check(files);
    expect(output).toContain(rule);
    expect(passed).toBe(false);
  });
});
