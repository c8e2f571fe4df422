import { describe, expect, it } from '@jest/globals';

import { ControlPlaneConfig } from './control-plane-config.js';

const faultsIn = (environment: NodeJS.ProcessEnv): string => {
  try {
    return `accepted: ${new ControlPlaneConfig(environment).host}`;
  } catch (error) {
    return (error as Error).message;
  }
};

describe('The settings of the control plane', () => {
  it('need nothing to be set', () => {
    expect(new ControlPlaneConfig({})).toEqual({
      port: 7100,
      host: '127.0.0.1',
      dataDir: './data',
      demoData: true,
      adminToken: undefined,
      logLevel: 'INFO',
      logFormat: 'text',
      shutdownGraceMs: 10_000,
    });
  });

  it.each(['0.0.0.0', '192.168.0.7', '::', 'relay.example.com', '127.evil.example.com'])(
    'refuse to listen on %s without a token',
    (host) => {
      expect(faultsIn({ CONTROL_PLANE_HOST: host })).toContain('set ADMIN_TOKEN too');
      expect(faultsIn({ CONTROL_PLANE_HOST: host, ADMIN_TOKEN: '  ' })).toContain('set ADMIN_TOKEN too');
      expect(faultsIn({ CONTROL_PLANE_HOST: host, ADMIN_TOKEN: '0123456789abcdef' })).toBe(
        `accepted: ${host}`,
      );
    },
  );

  it.each(['localhost', '127.0.0.1', '127.8.8.8', '::1'])('take %s for this machine', (host) => {
    expect(faultsIn({ CONTROL_PLANE_HOST: host })).toBe(`accepted: ${host}`);
  });

  it('name every fault at once, and never show a token', () => {
    const faults = faultsIn({
      CONTROL_PLANE_PORT: '70000',
      ADMIN_TOKEN: 'too short',
      CONTROL_PLANE_HOST: '',
    });
    expect(faults).toContain('CONTROL_PLANE_PORT cannot be "70000"');
    expect(faults).toContain('ADMIN_TOKEN cannot be used');
    expect(faults).not.toContain('too short');
  });
});
