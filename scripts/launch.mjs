/** What `npm start` and `npm run services` have in common. */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { root } from './prepare.mjs';

/** The demo data of the control plane, as far as a launcher names it. */
export const DEMO = {
  proxyKey: '30000000-0000-4000-8000-000000000001',
  environment: '10000000-0000-4000-8000-000000000001',
  serverKey: '20000000-0000-4000-8000-000000000001',
  clientKey: '20000000-0000-4000-8000-000000000002',
};

export const mainOf = (app) => join(root, 'dist', 'apps', app, 'src', 'main.js');

/** Calls back on Ctrl-C, on a signal, and when npm dies without a word; perhaps more than once. */
export function whenAskedToEnd(end) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, end);
  const parent = process.ppid;
  setInterval(() => process.ppid !== parent && end(), 1000).unref();
}

/** The AUTH_SECRET of the demo: made once and kept, so that SDKs stay signed in over restarts. */
export function demoSecret(folder) {
  const file = join(folder, 'demo-auth-secret');
  return inDataDir(folder, () => {
    if (!existsSync(file)) writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600 });
    return readFileSync(file, 'utf8').trim();
  });
}

/** Does what needs the folder, which is made if it is not there. If that fails, one message ends this process. */
export function inDataDir(folder, work) {
  try {
    mkdirSync(folder, { recursive: true });
    return work();
  } catch (error) {
    console.error(
      `DATA_DIR ${folder} cannot be used: ${error.message}. Set DATA_DIR to a folder that you may write to.`,
    );
    process.exit(1);
  }
}

/** Commands for a shell: sign in, and show a flag. */
export const showFlag = (relay) => `
    TOKEN=$(curl -s ${relay}/client/auth -H 'Content-Type: application/json' \\
      -d '{"apiKey":"${DEMO.serverKey}"}' | sed 's/.*"authToken":"\\([^"]*\\)".*/\\1/')
    curl -s ${relay}/client/env/${DEMO.environment}/feature-configs/dark-mode \\
      -H "Authorization: Bearer $TOKEN"
`;

/** The command that follows the stream, once signed in. */
export const followStream = (relay) => `
    curl -sN ${relay}/stream -H "Authorization: Bearer $TOKEN" -H 'API-Key: ${DEMO.serverKey}'
`;
