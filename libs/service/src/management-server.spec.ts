import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { StatusBoard } from '#libs/observability';

import { StartupError } from './index.js';
import { ManagementServer } from './management-server.js';

describe('The management port', () => {
  let board: StatusBoard;
  let server: ManagementServer;
  let port: number;
  let projectorReady: boolean;

  beforeEach(async () => {
    Logger.overrideLogger(false);
    board = new StatusBoard();
    projectorReady = false;
    board.show('gateway', () => ({ ready: true, streams: 3 }));
    board.show('projector', () => ({ ready: projectorReady }));
    server = new ManagementServer(board);
    port = await server.listen('127.0.0.1', 0);
  });
  afterEach(() => server.close());

  const get = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, body: await response.json() };
  };

  it('says that the process lives, whatever its parts say', async () => {
    expect(await get('/livez')).toEqual({ status: 200, body: { live: true } });
  });

  it('says that it is ready only when every part is, and which is not', async () => {
    expect(await get('/readyz')).toEqual({ status: 503, body: { ready: false, notReady: ['projector'] } });
    projectorReady = true;
    expect(await get('/readyz')).toEqual({ status: 200, body: { ready: true } });
  });

  it('shows what every part says', async () => {
    expect((await get('/status')).body).toEqual({
      startedAt: expect.any(String),
      ready: false,
      gateway: { ready: true, streams: 3 },
      projector: { ready: false },
    });
  });

  it('says what to do when it is taken', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const taken = (other.address() as AddressInfo).port;
    const second = new ManagementServer(board);
    await expect(second.listen('127.0.0.1', taken)).rejects.toThrow(StartupError);
    await expect(second.listen('127.0.0.1', taken)).rejects.toThrow('set MANAGEMENT_PORT to another port');
    await second.close();
    other.close();
  });
});
