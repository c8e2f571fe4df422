import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { expect, it } from '@jest/globals';

import { EmbeddedEventLog, type LoggedMessage } from '#libs/event-log';

import { root, run, Workspace } from './support/processes.js';

const KILLS = 40;

it(`What the embedded log acknowledged is there after kill -9, ${KILLS} times at any moment (P1)`, async () => {
  const workspace = new Workspace();
  const folder = await workspace.folder();
  /** The newest acknowledged append of each subject, over all lives of the writer. */
  const acknowledged = new Map<string, { sequence: number; id: string }>();
  let epoch: string | undefined;
  let last = 0;

  for (let kill = 0; kill < KILLS; kill++) {
    const writer = run(process.execPath, [
      join(root, 'test/support/append-until-killed.mjs'),
      folder,
      String(kill),
    ]);
    await writer.printed(/\n/);
    // The moment is what this test varies, so it is a matter of time.
    await delay(Math.random() * 20);
    await writer.kill('SIGKILL');
    for (const line of writer.output.split('\n').slice(0, -1)) {
      const [sequence, subject = '', id = ''] = line.split(' ');
      acknowledged.set(subject, { sequence: Number(sequence), id });
      last = Math.max(last, Number(sequence));
    }

    const log = await EmbeddedEventLog.open(folder);
    const head = await log.head('FF_FACTS');
    expect(head.epoch).toBe((epoch ??= head.epoch));
    expect(head.sequence).toBeGreaterThanOrEqual(last);
    const latest = new Map<string, LoggedMessage>();
    for await (const messages of log.latest('FF_FACTS')) for (const m of messages) latest.set(m.subject, m);
    for (const [subject, { sequence, id }] of acknowledged) {
      const found = latest.get(subject);
      expect(found?.position.sequence).toBeGreaterThanOrEqual(sequence);
      if (found?.position.sequence === sequence) expect(found.body).toBe(id);
    }
    await log.close();
  }
  // Every life of the writer says at least once that it appended.
  expect(acknowledged.size).toBeGreaterThan(0);
  expect(last).toBeGreaterThanOrEqual(KILLS);
  await workspace.dispose();
});
