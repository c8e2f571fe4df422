import { describe, expect, it } from '@jest/globals';

import { GO_RELAY, namesInGoRelay, nowNamed } from './go-relay.js';
import { RELAY_SETTINGS } from './index.js';

describe('A setting of the Go relay', () => {
  it.each(Object.keys(GO_RELAY))('%s is a setting here, or says what takes its place', (name) => {
    const now = nowNamed(name);
    if (now === undefined) expect(GO_RELAY[name]?.instead).toMatch(/\w/);
    else expect(RELAY_SETTINGS).toHaveProperty(now);
  });

  it('is shown beside the setting that has its meaning', () => {
    expect(namesInGoRelay('CLIENT_SERVICE')).toBe('`CLIENT_SERVICE` (V1, V2), `SDK_BASE_URL` (V1)');
    expect(namesInGoRelay('PROXY_KEY')).toBe('`PROXY_KEY` (V2)');
    expect(namesInGoRelay('NATS_URL')).toBe('');
  });
});
