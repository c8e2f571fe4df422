import { describe, expect, it } from '@jest/globals';

import { envFileFindings } from './env-file.js';

const FILE = `
PROXY_KEY=30000000-0000-4000-8000-000000000001
AUTH_SECRET=hush
PORT=7000
SDK_BASE_URL=https://config.ff.harness.io/api/1.0
HEARTBEAT_INTERVAL=60
AND_RULES=true
PROMETHEUS_PORT=7001
`;

describe('An env-file that is checked', () => {
  it('has a line for each line, with what to do', () => {
    expect(envFileFindings(FILE).map(({ level, subject, what }) => `${level} ${subject} ${what}`)).toEqual([
      expect.stringMatching(/^ok line 2 PROXY_KEY kept: the account-level secret/),
      expect.stringMatching(/^fail line 3 AUTH_SECRET cannot be used: .*AUTH_SECRET_PREVIOUS/),
      expect.stringMatching(/^ok line 4 PORT kept: the port/),
      expect.stringMatching(/^ok line 5 SDK_BASE_URL renamed: it is CLIENT_SERVICE here$/),
      expect.stringMatching(/^warn line 6 HEARTBEAT_INTERVAL nothing here: .*livez/),
      expect.stringMatching(/^ok line 7 AND_RULES/),
      expect.stringMatching(/^ok line 8 PROMETHEUS_PORT/),
    ]);
  });

  it('ends with what the file lacks', () => {
    expect(envFileFindings('PORT=7000').slice(1)).toEqual([
      expect.objectContaining({
        level: 'fail',
        subject: 'PROXY_KEY',
        what: expect.stringMatching(/^missing: /),
      }),
      expect.objectContaining({ level: 'fail', subject: 'AUTH_SECRET' }),
      expect.objectContaining({ level: 'warn', subject: 'PROMETHEUS_PORT' }),
      expect.objectContaining({ level: 'warn', subject: 'AND_RULES' }),
    ]);
  });
});
