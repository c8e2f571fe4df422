import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

import { Logger } from '@nestjs/common';

import type { RelayConfig } from '#libs/config';
import { joinedPages, KeptPage, type PartStatus, ServiceLogger, Telemetry } from '#libs/observability';
import {
  Channel,
  couldNotStart,
  expectFreePort,
  ManagementServer,
  PrometheusServer,
  StartupError,
  tellRemarks,
} from '#libs/service';

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
/** A worker that ran for so long was well: the next pause is short again. */
const STEADY_MS = 60_000;
/** For a worker to say how it is. */
const ANSWER_MS = 1000;

/** A worker's place, and the process that has it now. */
interface Place {
  readonly number: number;
  state: 'starting' | 'loaded' | 'serving' | 'ended';
  process?: Worker;
  channel?: Channel;
  since: string;
  /** Why the last one that began here did not get to serve, if it said so. */
  failure?: string | undefined;
}

interface WorkerStatus extends PartStatus {
  readonly worker: number;
  readonly state: Place['state'];
}

/**
 * A gateway on several cores: as many workers, each a whole gateway with its own views and its own connections to the
 * log and the store. This process holds no state. It takes connections and hands them to the workers in turn, so that
 * streams, which stay for hours, are spread evenly; starts another when a worker ends; and answers on the management
 * port for all.
 */
export class GatewayWorkers {
  private readonly logger = new Logger('Workers');
  private readonly stopping = new AbortController();
  private readonly telemetry = Telemetry.ofProcess();
  private readonly kept = new KeptPage(() => this.read());
  private readonly management = new ManagementServer(this, this);
  private readonly prometheus = new PrometheusServer(this);
  private readonly places: readonly Place[];
  /** Once every worker has state, and so the port may be opened. */
  private readonly allLoaded = Promise.withResolvers<void>();
  private readonly allServe = Promise.withResolvers<string>();
  private hasOpened = false;
  private work: Promise<unknown> | undefined;

  private constructor(workers: number) {
    this.telemetry.nameSeries({ worker: 'primary' });
    this.places = Array.from({ length: workers }, (_, index) => ({
      number: index + 1,
      state: 'starting',
      since: new Date().toISOString(),
    }));
  }

  /**
   * Runs this program again in each worker. Resolves when all of them serve. Throws StartupError when one says that it
   * cannot: what keeps one from starting keeps the others from it too.
   */
  static async start(name: string, config: RelayConfig): Promise<GatewayWorkers> {
    Logger.overrideLogger(new ServiceLogger(name, config.logLevel, config.logFormat));
    tellRemarks(config);
    const { host, port, managementHost, managementPort, prometheusPort } = config;
    const workers = new GatewayWorkers(config.gatewayWorkers);
    await expectFreePort(host, port, 'PORT');
    await workers.management.listen(managementHost, managementPort);
    if (prometheusPort !== undefined) await workers.prometheus.listen(host, prometheusPort);
    cluster.schedulingPolicy = cluster.SCHED_RR;
    workers.work = Promise.all(workers.places.map((place) => workers.keep(place)));
    const url = await workers.allServe.promise;
    workers.logger.log(`Serving SDKs on ${url} with ${config.gatewayWorkers} workers`);
    return workers;
  }

  /** Ends the workers as this process is to end: each is unready, ends its streams and answers what it was asked. */
  async close(): Promise<void> {
    this.stopping.abort();
    for (const { process } of this.places) process?.process.kill('SIGTERM');
    await this.work;
    await Promise.all([this.management.close(), this.prometheus.close()]);
  }

  /** One that ended gets no connections, so once the port has opened the gateway is as ready as those who serve. */
  async look(): Promise<Record<string, PartStatus>> {
    const all = await Promise.all(this.places.map((place) => this.statusOf(place)));
    const counting = this.hasOpened ? all.filter(({ state }) => state === 'serving') : all;
    const unready = counting.find(({ ready }) => !ready);
    const notReadyBecause = this.stopping.signal.aborted
      ? 'it is stopping'
      : counting.length === 0
        ? 'no worker serves'
        : unready && `worker ${unready.worker}: ${unready.notReadyBecause}`;
    return {
      gateway: {
        ready: notReadyBecause === undefined,
        ...(notReadyBecause !== undefined && { notReadyBecause }),
        workers: all,
      },
    };
  }

  page(maxAgeMs?: number): Promise<string> {
    return this.kept.page(maxAgeMs);
  }

  private async read(): Promise<string> {
    const pages = this.places.map(async ({ channel }) => {
      const page = await channel?.ask('page', undefined, ANSWER_MS).catch(() => undefined);
      return typeof page === 'string' ? page : '';
    });
    return joinedPages(await Promise.all([this.telemetry.page(), ...pages]));
  }

  private async statusOf({ number, state, process, channel, since, failure }: Place): Promise<WorkerStatus> {
    const about = { worker: number, state, since, pid: process?.process.pid, ...(failure && { failure }) };
    const unready = (notReadyBecause: string) => ({ ...about, ready: false, notReadyBecause });
    if (state === 'ended') return unready('it ended, and another is about to start');
    try {
      const parts = (await channel?.ask('status', undefined, ANSWER_MS)) as Record<string, PartStatus>;
      const [, part] = Object.entries(parts).find(([, { ready }]) => !ready) ?? [];
      if (part) return { ...unready(part.notReadyBecause ?? 'it has not loaded everything yet'), ...parts };
      if (state !== 'serving') return { ...unready('its port is not open yet'), ...parts };
      return { ...about, ready: true, ...parts };
    } catch {
      return unready(state === 'starting' ? 'it is starting' : 'it does not answer');
    }
  }

  /** Keeps a place taken, until the end. */
  private async keep(place: Place): Promise<void> {
    const { signal } = this.stopping;
    for (let failures = 0; !signal.aborted;) {
      const began = performance.now();
      const ended = await this.runIn(place);
      if (signal.aborted) return;
      if (place.failure !== undefined && !this.hasOpened) {
        this.allServe.reject(new StartupError(place.failure));
        return;
      }
      failures = performance.now() - began > STEADY_MS ? 1 : failures + 1;
      const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS);
      const others = this.places.filter(({ state }) => state === 'serving').length;
      this.logger.warn(`${ended}; another starts in ${pauseMs / 1000} s, and ${others} serve meanwhile`);
      await delay(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** @returns how it ended */
  private async runIn(place: Place): Promise<string> {
    const worker = cluster.fork();
    const channel = new Channel(worker.process);
    const enter = (state: Place['state']) => Object.assign(place, { state, since: new Date().toISOString() });
    Object.assign(enter('starting'), { process: worker, channel, failure: undefined });
    channel.answer('number', () => place.number);
    channel.answer('page', () => this.page(ANSWER_MS));
    channel.answer('loaded', () => {
      enter('loaded');
      if (this.places.every(({ state }) => state === 'loaded')) this.allLoaded.resolve();
      return this.allLoaded.promise;
    });
    channel.answer('serving', (url) => {
      enter('serving');
      if (this.hasOpened) this.logger.log(`Worker ${place.number} serves (process ${worker.process.pid})`);
      else if (this.places.every(({ state }) => state === 'serving')) {
        this.hasOpened = true;
        this.allServe.resolve(String(url));
      }
    });
    worker.on('message', (received) => (place.failure = couldNotStart(received) ?? place.failure));
    const [code, signal] = (await once(worker, 'exit')) as [number | null, string | null];
    enter('ended');
    const why = place.failure ?? `ended (${signal ?? `exit code ${code}`})`;
    return `Worker ${place.number} (process ${worker.process.pid}) ${why}`;
  }
}
