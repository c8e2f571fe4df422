import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Inject, Module, type OnModuleInit } from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';

import { RelayConfig } from '#libs/config';
import { type Fact, factBody, factSubject, type Flag, type Segment } from '#libs/domain';
import { EventLog } from '#libs/event-log';
import { Telemetry } from '#libs/observability';
import { StateStore } from '#libs/state-store';

import { EnvironmentViews } from './environment-views.js';
import { GatewayModule } from './gateway.module.js';
import { serveGateway } from './serve-gateway.js';

export interface Environment {
  readonly id: string;
  readonly flags?: readonly Flag[];
  readonly segments?: readonly Segment[];
}

/** The SDK key of an environment. */
export const keyOf = (environment: string) => `key-of-${environment}`;

export function factsOf({ id: environment, flags = [], segments = [] }: Environment): Fact[] {
  const apiKey = createHash('sha256').update(keyOf(environment)).digest('hex');
  return [
    { type: 'EnvironmentAdded', environment, account: 'acme' },
    { type: 'ApiKeyAdded', environment, apiKey },
    ...flags.map((flag) => ({ type: 'FlagPublished', environment, flag }) as const),
    ...segments.map((segment) => ({ type: 'SegmentPublished', environment, segment }) as const),
  ];
}

/** A gateway that serves environments on a port of its own, over a log that a test writes. */
export async function serve(environments: readonly Environment[], settings: NodeJS.ProcessEnv = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'gateway-'));
  const config = new RelayConfig({
    PROXY_KEY: 'not-used-here',
    AUTH_SECRET: 'a secret of at least 32 characters',
    DATA_DIR: folder,
    HOST: '127.0.0.1',
    PORT: '0',
    MANAGEMENT_PORT: '0',
    LOG_LEVEL: 'ERROR',
    ...settings,
  });
  const wired = Promise.withResolvers<ModuleRef>();
  @Module({ imports: [GatewayModule] })
  class Root implements OnModuleInit {
    constructor(@Inject(ModuleRef) private readonly parts: ModuleRef) {}
    async onModuleInit() {
      const log = this.parts.get(EventLog, { strict: false });
      const { epoch } = await log.head('FF_FACTS');
      const position = { epoch, sequence: 0 };
      await this.parts
        .get(StateStore, { strict: false })
        .begin({ position, complete: false, writer: 'nobody' });
      wired.resolve(this.parts);
    }
  }
  const serving = serveGateway('gateway', config, [Root]);
  serving.catch(wired.reject);
  const parts = await wired.promise;
  const part = <Part>(type: abstract new (...given: never[]) => Part): Part =>
    parts.get(type, { strict: false });
  const [log, views, telemetry] = [part(EventLog), part(EnvironmentViews), part(Telemetry)];

  let facts = 0;
  /** Returns when the gateway holds the facts. */
  const happens = async (...all: readonly Fact[]) => {
    const positions = await Promise.all(
      all.map((fact) => {
        const id = `fact-${++facts}`;
        return log.append('FF_FACTS', {
          subject: factSubject(fact),
          id,
          body: factBody(fact, { id, time: 1 }),
        });
      }),
    );
    for (const position of positions) await views.caughtUp(position);
  };
  await happens(...environments.flatMap(factsOf), {
    type: 'SnapshotCompleted',
    account: 'acme',
    environments: environments.length,
  });
  const app = await serving;
  const url = await app.getUrl();
  const call = async (
    method: string,
    path: string,
    headers: Record<string, string> = {},
    body?: string | Buffer,
  ) => {
    const response = await fetch(`${url}${path}`, { method, headers, ...(body !== undefined && { body }) });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: (): unknown => JSON.parse(text),
    };
  };
  const signIn = async (environment: string, target?: object) => {
    const body = JSON.stringify({ apiKey: keyOf(environment), ...(target && { target }) });
    const { json } = await call('POST', '/client/auth', {}, body);
    return (json() as { authToken: string }).authToken;
  };
  const stop = async () => {
    await app.close();
    await rm(folder, { recursive: true });
  };
  return { url, call, signIn, happens, views, telemetry, stop };
}
