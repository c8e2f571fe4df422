import { describe, expect, it } from '@jest/globals';

import { envFileFindings, envFileReport } from './env-file-report.js';

const FILE = `
PROXY_KEY=30000000-0000-4000-8000-000000000001
AUTH_SECRET=hush
PORT=7000
SDK_BASE_URL=https://config.ff.harness.io/api/1.0
HEARTBEAT_INTERVAL=60
AND_RULES=true
PROMETHEUS_PORT=7001
`;

describe('The report on an env-file', () => {
  it('has a line for each line, with what to do, and counts them', () => {
    const [first, ...rest] = envFileReport(envFileFindings(FILE)).split('\n');
    expect(first).toMatch(/^ok {4}line 2 PROXY_KEY {11}kept: the account-level secret/);
    expect(rest).toEqual([
      expect.stringMatching(/^fail {2}line 3 AUTH_SECRET {9}cannot be used: .*AUTH_SECRET_PREVIOUS/),
      expect.stringMatching(/^ok {4}line 4 PORT {16}kept: the port/),
      expect.stringMatching(/^ok {4}line 5 SDK_BASE_URL {8}renamed: it is CLIENT_SERVICE here$/),
      expect.stringMatching(/^warn {2}line 6 HEARTBEAT_INTERVAL {2}nothing here: .*livez/),
      expect.stringMatching(/^ok {4}line 7 AND_RULES/),
      expect.stringMatching(/^ok {4}line 8 PROMETHEUS_PORT/),
      '',
      '5 ok, 1 to look at, 1 to change',
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
