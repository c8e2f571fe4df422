import { EventEmitter } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { Subject } from 'rxjs';

import {
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  flagIn,
  noticeBody,
  noticeOf,
  noticeSubject,
  type Position,
  unknownEnvironment,
} from '#libs/domain';
import type { EventLog } from '#libs/event-log';
import { EmbeddedEventLog } from '#libs/event-log';
import { Telemetry } from '#libs/observability';

import type { EnvironmentViews, Jump } from './environment-views.js';
import { GatewayTelemetry } from './gateway-telemetry.js';
import { NoticeHub } from './notice-hub.js';

const DEV = 'dev';
const FACTS = 'facts';

/** What is true, change by change, and the notices of it. */
class World {
  /** The state after each fact; a fact's sequence is its place. */
  readonly states: EnvironmentState[] = [unknownEnvironment(DEV)];
  constructor(readonly log: EventLog) {}

  get now(): EnvironmentState {
    return this.states.at(-1) ?? unknownEnvironment(DEV);
  }

  async happens(fact: EnvironmentFact): Promise<void> {
    const before = this.now;
    const sequence = this.states.length;
    this.states.push(evolve(before, fact, sequence));
    const notice = noticeOf(before, fact);
    const body = noticeBody(notice, { epoch: FACTS, sequence }, { id: `${sequence}`, time: 1 });
    await this.log.append('FF_CHANGES', { subject: noticeSubject(notice), id: `${sequence}`, body });
  }
}

/** A gateway whose views lag as far as a test wants, and its hub. It may be cut off from the log, and follow the store. */
class Gateway {
  at: number;
  readonly hub: NoticeHub;
  private readonly waiting = new Set<() => void>();
  private readonly jumps = new Subject<Jump>();
  private isCutOff = false;
  private back = Promise.resolve();
  private comeBack: () => void = () => undefined;

  constructor(private readonly world: World) {
    // The views are loaded from the store, which holds what is true.
    this.at = world.states.length - 1;
    const at = () => this.at;
    const views = {
      get position() {
        return { epoch: FACTS, sequence: at() };
      },
      jumps: this.jumps,
      revoked: new Subject(),
      environment: () => this.state,
      caughtUp: async ({ sequence }: Position) => {
        while (this.at < sequence) await new Promise<void>((done) => this.waiting.add(done));
        return true;
      },
    };
    const telemetry = new GatewayTelemetry(new Telemetry(), { environment: () => this.state });
    this.hub = new NoticeHub(this.logOf(world), views as unknown as EnvironmentViews, telemetry, {
      replayMs: 300_000,
      most: 0,
      mostOfKey: 0,
      maxAgeMs: 0,
      drainMs: 0,
    });
  }

  get state(): EnvironmentState {
    return this.world.states[this.at] ?? unknownEnvironment(DEV);
  }

  /** Takes some more facts in: from the log or, if that is away, all at once from the store. */
  advance(steps: number): void {
    const [after, before] = [this.at, this.state];
    this.at = Math.min(this.at + steps, this.world.states.length - 1);
    if (this.isCutOff && this.at > after) {
      const over = { epoch: FACTS, after, until: this.at };
      this.jumps.next({ over, environments: [{ before, after: this.state }] });
    }
    for (const done of this.waiting) done();
    this.waiting.clear();
  }

  /** No notice comes until `reconnect`. */
  cutOff(): void {
    if (this.isCutOff) return;
    this.isCutOff = true;
    ({ promise: this.back, resolve: this.comeBack } = Promise.withResolvers<void>());
  }

  reconnect(): void {
    this.isCutOff = false;
    this.comeBack();
  }

  async stop(): Promise<void> {
    this.reconnect();
    this.advance(Number.MAX_SAFE_INTEGER);
    await this.hub.stop();
  }

  private logOf({ log }: World): EventLog {
    const comesBack = () => this.back;
    async function* tail(...[stream, after, signal]: Parameters<EventLog['tail']>) {
      for await (const messages of log.tail(stream, after, signal)) {
        await comesBack();
        yield messages;
      }
    }
    return {
      tail,
      head: (stream) => log.head(stream),
      latest: (stream, subjects) => log.latest(stream, subjects),
      beginning: (stream) => log.beginning(stream),
    } as Partial<EventLog> as EventLog;
  }
}

/** An SDK: it reads all flags once, and afterwards only those that it is told of. */
class Sdk {
  known: Map<string, number> | undefined;
  /** What it was told of and could not have read. */
  readonly unreadable: string[] = [];
  private lastEventId: string | undefined;
  private connection: Connection | undefined;

  constructor(
    private readonly world: World,
    private readonly sendsIds: boolean,
  ) {}

  /** @param takes so many events and breaks off, also in the middle of a write */
  connect(gateway: Gateway, takes = Number.POSITIVE_INFINITY): void {
    this.disconnect();
    this.known ??= versionsIn(gateway.state);
    const connection = new Connection(takes, (id, event) => {
      const { identifier, version } = event;
      const readable = flagIn(gateway.state, identifier)?.version ?? 0;
      if (event.event !== 'delete' && readable < version) this.unreadable.push(`${identifier} ${version}`);
      if (id) this.lastEventId = id;
      // A single read looks at the store.
      const now = flagIn(this.world.now, identifier)?.version;
      if (event.event === 'delete' || !now) this.known?.delete(identifier);
      else this.known?.set(identifier, now);
    });
    this.connection = connection;
    const opening = { environment: DEV, apiKey: 'key', reader: 'harness' } as const;
    gateway.hub.add(opening, connection.response, this.sendsIds ? this.lastEventId : undefined);
  }

  disconnect(): void {
    this.connection?.close();
    this.connection = undefined;
  }

  /** Whether it is connected, and does not mean to break off. */
  get isConnected(): boolean {
    return this.connection?.isOpen === true && this.connection.takes === Number.POSITIVE_INFINITY;
  }

  /** How often it was told the same over its connection, at most. */
  get repeats(): number {
    return Math.max(0, ...(this.connection?.heard.values() ?? []));
  }

  hasHeard(identifier: string): boolean {
    return this.known?.has(identifier) ?? false;
  }

  /** Whether what it hears has ids, so that nothing earlier is still to come. */
  get isLevel(): boolean {
    return this.connection?.lastHadId ?? false;
  }
}

class Connection {
  lastHadId = false;
  readonly heard = new Map<string, number>();
  readonly response: ServerResponse;
  private readonly socket;

  constructor(
    public takes: number,
    onEvent: (id: string | undefined, event: { event: string; identifier: string; version: number }) => void,
  ) {
    this.socket = {
      destroyed: false,
      writableLength: 0,
      write: (bytes: Buffer) => {
        for (const [, id, data = ''] of String(bytes).matchAll(/event: \*\n(?:id: (.*)\n)?data: (.*)\n\n/g)) {
          if (this.socket.destroyed) return;
          this.lastHadId = id !== undefined;
          this.heard.set(data, (this.heard.get(data) ?? 0) + 1);
          onEvent(id, JSON.parse(data) as { event: string; identifier: string; version: number });
          if (--this.takes === 0) this.close();
        }
      },
      destroy: () => this.close(),
    };
    this.response = Object.assign(new EventEmitter(), {
      socket: this.socket,
      chunkedEncoding: true,
      writableEnded: false,
      end: () => this.close(),
    }) as unknown as ServerResponse;
  }

  get isOpen(): boolean {
    return !this.socket.destroyed;
  }

  close(): void {
    if (this.socket.destroyed) return;
    this.socket.destroyed = true;
    this.response.emit('close');
  }
}

function versionsIn(state: EnvironmentState): Map<string, number> {
  return new Map(
    [...state.flags].flatMap(([name, { value }]) => (value ? [[name, value.version ?? 0]] : [])),
  );
}

function published(name: string, version: number): EnvironmentFact {
  const flag = { feature: name, version } as Extract<EnvironmentFact, { type: 'FlagPublished' }>['flag'];
  return { type: 'FlagPublished', environment: DEV, flag };
}

const name = fc.constantFrom('a', 'b', 'c');
const one = fc.nat(1);
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ does: fc.constant('publish' as const), name }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('remove' as const), name }) },
  {
    weight: 3,
    arbitrary: fc.record({
      does: fc.constant('connect' as const),
      sdk: fc.nat(3),
      gateway: one,
      takes: fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.integer({ min: 1, max: 3 })),
    }),
  },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('disconnect' as const), sdk: fc.nat(3) }) },
  {
    weight: 4,
    arbitrary: fc.record({ does: fc.constant('advance' as const), gateway: one, steps: fc.nat(3) }),
  },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('restart' as const), gateway: one }) },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('cut off' as const), gateway: one }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('reconnect' as const), gateway: one }) },
  { weight: 3, arbitrary: fc.record({ does: fc.constant('wait' as const), turns: fc.nat(20) }) },
);

type Step = typeof step extends fc.Arbitrary<infer Each> ? Each : never;

/** The view holds a change, and is cut off before it tells of it. */
const CUT_OFF_BEFORE_IT_TOLD: Step[] = [
  { does: 'connect', sdk: 0, gateway: 0, takes: Number.POSITIVE_INFINITY },
  { does: 'publish', name: 'a' },
  { does: 'advance', gateway: 0, steps: 1 },
  { does: 'cut off', gateway: 0 },
  { does: 'publish', name: 'b' },
  { does: 'advance', gateway: 0, steps: 1 },
];

describe('SDKs that come and go between two gateways, which lag, restart and lose the log', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'notice-hub-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it('know in the end what is true, and are told of nothing that cannot be read (P3, P5)', async () => {
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
        const log = await EmbeddedEventLog.open(join(folder, String(++runs)));
        const world = new World(log);
        await world.happens({ type: 'EnvironmentAdded', environment: DEV, account: 'acme' });
        await world.happens({ type: 'ApiKeyAdded', environment: DEV, apiKey: 'key' });
        const start = async () => {
          const gateway = new Gateway(world);
          await gateway.hub.start();
          return gateway;
        };
        const gateways = [await start(), await start()];
        const sdks = Array.from({ length: 4 }, (_, i) => new Sdk(world, i % 2 === 0));
        const versions = new Map<string, number>();
        for (const step of steps) {
          if (step.does === 'publish') {
            const version = (versions.get(step.name) ?? 0) + 1;
            versions.set(step.name, version);
            await world.happens(published(step.name, version));
          } else if (step.does === 'remove') {
            const version = flagIn(world.now, step.name)?.version;
            if (!version) continue;
            await world.happens({ type: 'FlagRemoved', environment: DEV, identifier: step.name, version });
          } else if (step.does === 'connect') {
            const gateway = gateways[step.gateway];
            if (gateway) sdks[step.sdk]?.connect(gateway, step.takes);
          } else if (step.does === 'disconnect') sdks[step.sdk]?.disconnect();
          else if (step.does === 'advance') gateways[step.gateway]?.advance(step.steps);
          else if (step.does === 'cut off') gateways[step.gateway]?.cutOff();
          else if (step.does === 'reconnect') gateways[step.gateway]?.reconnect();
          else if (step.does === 'restart') {
            await gateways[step.gateway]?.stop();
            gateways[step.gateway] = await start();
          } else for (let turn = 0; turn < step.turns; turn++) await immediate();
        }

        for (const gateway of gateways) gateway.reconnect();
        for (const [i, sdk] of sdks.entries()) {
          const gateway = gateways[i < 2 ? 0 : 1];
          if (gateway && !sdk.isConnected) sdk.connect(gateway);
        }
        for (let marker = 0; marker === 0 || !sdks.every((sdk) => sdk.isLevel); marker++) {
          await world.happens(published(`marker-${marker}`, 1));
          for (const gateway of gateways) gateway.advance(Number.MAX_SAFE_INTEGER);
          const deadline = Date.now() + 20_000;
          while (!sdks.every((sdk) => sdk.hasHeard(`marker-${marker}`))) {
            if (Date.now() > deadline) throw new Error('a marker is not heard of by all');
            await immediate();
          }
        }
        for (const sdk of sdks) {
          expect(sdk.known).toEqual(versionsIn(world.now));
          expect(sdk.unreadable).toEqual([]);
          expect(sdk.repeats).toBeLessThanOrEqual(2);
        }
        for (const sdk of sdks) sdk.disconnect();
        for (const gateway of gateways) await gateway.stop();
        await log.close();
      }),
      { numRuns: 100, examples: [[CUT_OFF_BEFORE_IT_TOLD]] },
    );
  });
});
