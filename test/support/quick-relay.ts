import { AsyncLocalStorage } from 'node:async_hooks';
import type { AddressInfo } from 'node:net';

import { Inject, Logger, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';

import { RelayConfig } from '#libs/config';
import type { Position } from '#libs/domain';
import { EventLog, EventLogModule } from '#libs/event-log';
import { ObservabilityModule, UpstreamStatus } from '#libs/observability';
import { backoffMs, SaasClient } from '#libs/saas-client';
import { StateStore } from '#libs/state-store';

import { GatewayModule } from '../../apps/gateway/src/gateway.module.js';
import { serveGateway } from '../../apps/gateway/src/serve-gateway.js';
import { Ingestor } from '../../apps/ingestor/src/ingestor.js';
import { IngestorLead } from '../../apps/ingestor/src/ingestor-lead.js';
import { IngestorRecord } from '../../apps/ingestor/src/ingestor-record.js';
import { ProjectorModule } from '../../apps/projector/src/projector.module.js';

import { eventually } from './clients.js';

/** There is one logger for the process, and several relays in it: each says its lines to whoever started it. */
const saying = new AsyncLocalStorage<(line: string) => void>();
const note = (message: unknown, context: unknown) =>
  saying.getStore()?.(`${String(context)}: ${String(message)}`);

/** By how much every wait of the link is shorter than it is for users. */
const HASTE = 100;
export const QUICK = {
  heartbeatMs: 100,
  streamIdleTimeoutMs: 1000,
  reconcileIntervalMs: 400,
  recentMs: 100,
  readTimeoutMs: 2000,
  keepServingOnKeyDeletion: false,
};

export interface QuickRelay {
  readonly url: string;
  readonly log: EventLog;
  readonly store: StateStore;
  readonly status: UpstreamStatus;
  /** Another ingestor leads, as one does after a crash: all that it knows is in the log. */
  changeLeader(): Promise<void>;
  stop(): Promise<void>;
}

/**
 * The relay in this process, on the embedded log, with the waits of its upstream link a hundredth of what they are, or
 * as the options say. What it logs goes to `say`. Resolves once it serves.
 */
export function startQuickRelay(
  dataDir: string,
  upstream: string,
  say: (line: string) => void,
  options: Partial<typeof QUICK> = {},
): Promise<QuickRelay> {
  return saying.run(say, () => start(dataDir, upstream, options));
}

async function start(dataDir: string, upstream: string, options: Partial<typeof QUICK>): Promise<QuickRelay> {
  const config = new RelayConfig({
    PROXY_KEY: 'a-proxy-key',
    AUTH_SECRET: 'a secret that is long enough for a test',
    DATA_DIR: dataDir,
    HOST: '127.0.0.1',
    PORT: '0',
    MANAGEMENT_PORT: '0',
    LOG_LEVEL: 'ERROR',
  });
  @Module({ imports: [EventLogModule, ObservabilityModule, ProjectorModule, GatewayModule] })
  class QuickRelayModule implements OnApplicationBootstrap, OnModuleDestroy {
    private lead: IngestorLead;
    private readonly newLead: () => IngestorLead;
    constructor(
      @Inject(EventLog) log: EventLog,
      @Inject(UpstreamStatus) status: UpstreamStatus,
      @Inject(ModuleRef) readonly parts: ModuleRef,
    ) {
      const { reconcileIntervalMs, recentMs, keepServingOnKeyDeletion, ...timeouts } = {
        ...QUICK,
        ...options,
      };
      const saas = new SaasClient({ baseUrl: upstream, proxyKey: { current: config.proxyKey }, ...timeouts });
      const record = new IngestorRecord();
      const create = () =>
        new Ingestor(
          log,
          saas,
          status,
          { reconcileIntervalMs, recentMs, keepServingOnKeyDeletion },
          (...given) => backoffMs(...given) / HASTE,
          record,
        );
      this.newLead = () => new IngestorLead(log, status, record, create);
      this.lead = this.newLead();
    }

    async changeLeader(): Promise<void> {
      await this.lead.stop();
      this.lead = this.newLead();
      this.lead.start();
    }

    onApplicationBootstrap(): void {
      Logger.overrideLogger({ log: note, warn: note, error: note });
      this.lead.start();
    }

    onModuleDestroy(): Promise<void> {
      return this.lead.stop();
    }
  }
  const app = await serveGateway('relay', config, [QuickRelayModule]);
  const inThisContext = AsyncLocalStorage.snapshot();
  return {
    url: `http://127.0.0.1:${(app.getHttpServer().address() as AddressInfo).port}`,
    log: app.get(EventLog, { strict: false }),
    store: app.get(StateStore, { strict: false }),
    status: app.get(UpstreamStatus, { strict: false }),
    changeLeader: () => inThisContext(() => app.get(QuickRelayModule, { strict: false }).changeLeader()),
    stop: () => app.close(),
  };
}

/** Where facts and notices end, once there is a notice of each fact. */
export async function endsOf({ log }: QuickRelay): Promise<readonly Position[]> {
  const { sequence } = await log.head('FF_FACTS');
  await eventually(
    async () => ((await log.recall('projector')) as { sequence: number } | undefined)?.sequence,
    (told) => told === sequence,
  );
  return [await log.head('FF_FACTS'), await log.head('FF_CHANGES')];
}
