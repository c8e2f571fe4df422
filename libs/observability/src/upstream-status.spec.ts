import { describe, expect, it } from '@jest/globals';

import { UpstreamStatus } from './index.js';

function given() {
  const clock = { now: 1000 };
  return { clock, status: new UpstreamStatus(() => clock.now) };
}

describe('The status of the upstream', () => {
  it('begins as not connected and never compared', () => {
    const { status } = given();
    expect(status.streamStatus).toEqual({ state: 'INITIALIZING', since: 1000 });
    expect(status.configStatus).toEqual({ state: 'FAILED_TO_SYNC', since: 1000 });
    expect(status.lastAgreedMs).toBeUndefined();
    expect(status.dataAgeS).toBeUndefined();
  });

  it('tells since when the stream stands as it does', () => {
    const { clock, status } = given();
    clock.now = 2000;
    status.stream('CONNECTED');
    clock.now = 3000;
    status.stream('CONNECTED');
    expect(status.streamStatus).toEqual({ state: 'CONNECTED', since: 2000 });
    status.stream('DISCONNECTED');
    expect(status.streamStatus).toEqual({ state: 'DISCONNECTED', since: 3000 });
  });

  it('tells since when it is in sync, and when it last agreed', () => {
    const { clock, status } = given();
    clock.now = 2000;
    status.agreed();
    clock.now = 5000;
    status.agreed();
    expect(status.configStatus).toEqual({ state: 'SYNCED', since: 2000 });
    expect(status.lastAgreedMs).toBe(5000);
    clock.now = 7999;
    expect(status.dataAgeS).toBe(2);
    clock.now = 4000;
    expect(status.dataAgeS).toBe(0);
  });

  it('takes over what another process reports, and knows when that one reports no more', () => {
    const [reporter, { clock, status }] = [given(), given()];
    reporter.status.reporting = true;
    reporter.clock.now = clock.now = 2000;
    reporter.status.stream('CONNECTED');
    reporter.status.agreed();
    status.adopt(JSON.parse(JSON.stringify(reporter.status.snapshot())));
    expect(status.streamStatus).toEqual({ state: 'CONNECTED', since: 2000 });
    expect(status.configStatus).toEqual({ state: 'SYNCED', since: 2000 });
    expect(status.lastAgreedMs).toBe(2000);

    clock.now = 2000 + 60_000;
    status.adopt(status.snapshot());
    expect(status.streamStatus).toEqual({ state: 'DISCONNECTED', since: 2000 });
  });

  it('believes itself, and no report that it cannot read', () => {
    const { status } = given();
    status.adopt({ stream: 'CONNECTED' });
    status.adopt(undefined);
    expect(status.streamStatus.state).toBe('INITIALIZING');
    const { status: own } = given();
    own.reporting = true;
    own.stream('CONNECTED');
    own.adopt(status.snapshot());
    expect(own.streamStatus.state).toBe('CONNECTED');
  });
});
