import { describe, expect, it } from '@jest/globals';

import { UpstreamRefusal } from '#libs/saas-client';

import { Patience } from './patience.js';

const HOUR_MS = 3_600_000;

describe('The wait for the next try', () => {
  const stopping = new AbortController();
  const patience = new Patience(() => HOUR_MS, stopping.signal);

  it('ends when there is reason to believe that it goes better', async () => {
    const waits = [
      patience.wait(patience.after(1)),
      patience.wait(patience.after(2, new Error('made to fail'))),
    ];
    patience.end();
    await Promise.all(waits);
  });

  it('lasts as long as the upstream asked for, whatever happens', async () => {
    const delay = patience.after(1, new UpstreamRefusal(429, 'GET /proxy/config', HOUR_MS));
    expect(delay).toEqual({ ms: HOUR_MS, askedMs: HOUR_MS });
    let isOver = false;
    const wait = patience.wait(delay).then(() => (isOver = true));
    patience.end();
    await patience.wait({ ms: 1, askedMs: 0 });
    expect(isOver).toBe(false);
    stopping.abort();
    await wait;
  });
});
