import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';

import { describe, expect, it } from '@jest/globals';

import { expectFreePort, listenFailure, StartupError } from './index.js';

describe('A port', () => {
  it('that is free is left free', async () => {
    const probe = createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as AddressInfo;
    await once(probe.close(), 'close');
    await expectFreePort('127.0.0.1', port, 'PORT');
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    server.close();
  });

  it('that is in use is said to be, with what to do', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const check = expectFreePort('127.0.0.1', port, 'CONTROL_PLANE_PORT');
    await expect(check).rejects.toThrow(StartupError);
    await expect(check).rejects.toThrow(
      `Port ${port} is in use. Stop the process that listens there, or set CONTROL_PLANE_PORT to another port.`,
    );
    server.close();
  });

  it('of an address that this machine does not have is said to be none', async () => {
    await expect(expectFreePort('192.0.2.1', 0, 'PORT')).rejects.toThrow(
      '192.0.2.1 is no address of this machine',
    );
  });
});

describe('What keeps a server from listening', () => {
  it('is told with what to do when rights are missing', () => {
    const failure = listenFailure(Object.assign(new Error(), { code: 'EACCES' }), '0.0.0.0', 80, 'PORT');
    expect(failure).toBeInstanceOf(StartupError);
    expect(failure.message).toContain('Set PORT to 1024 or above');
  });

  it('is passed on as it is when it is none of what is known', () => {
    const failure = new Error('out of files');
    expect(listenFailure(failure, '0.0.0.0', 7000, 'PORT')).toBe(failure);
  });
});
