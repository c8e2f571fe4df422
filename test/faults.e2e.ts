import { setTimeout as delay } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { expectAgreement } from './support/agreement.js';
import { Chance } from './support/chance.js';
import { Admin, eventually, SdkSession } from './support/clients.js';
import { type Part, ServiceSet } from './support/deployments.js';

const SEED = Number(process.env['FAULT_SEED'] ?? 1);
/** How often each fault strikes. */
const ROUNDS = Number(process.env['FAULT_ROUNDS'] ?? 1);
/** Past every lease and time limit that is not for people. */
const PAUSE_MS = 9000;
const FLAGS = Array.from({ length: 8 }, (_, i) => `flag-${i}`);

/** What an SDK hears: the newest version of each flag, since it last read everything. */
class Listener {
  private readonly stopping = new AbortController();
  private heard = new Map<string, number>();
  private work: Promise<void> | undefined;

  constructor(
    private readonly gateway: string,
    private readonly failures: string[],
  ) {}

  start(): void {
    this.work = this.listen();
  }

  async stop(): Promise<void> {
    this.stopping.abort();
    await this.work;
  }

  /** What it knows by reading once, and by what it was told since. */
  versions(): ReadonlyMap<string, number> {
    return this.heard;
  }

  private async listen(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        const session = await SdkSession.signIn(this.gateway);
        const stream = await session.stream(signal);
        // As SDKs do when a stream is open again.
        const flags = JSON.parse(await session.flags()) as { feature: string; version: number }[];
        for (const { feature, version } of flags) this.note(feature, version, 'read');
        for await (const { identifier, version } of stream) this.note(identifier, version, 'told');
      } catch {
        // Its gateway is away.
      }
      if (!signal.aborted) await passes(50);
    }
  }

  private note(flag: string, version: number, how: string): void {
    const before = this.heard.get(flag) ?? 0;
    if (version < before && how === 'read') {
      this.failures.push(`${this.gateway}: ${flag} went back from ${before} to ${version} (${how})`);
    }
    this.heard.set(flag, Math.max(before, version));
  }
}

describe('After every fault the upstream, the log, Redis and each gateway agree, and SDKs know (P1, P2, P4, P5)', () => {
  let set: ServiceSet;
  let admin: Admin;
  const failures: string[] = [];
  let listeners: Listener[];

  beforeAll(async () => {
    Logger.overrideLogger(false);
    set = await ServiceSet.start([
      'nats',
      'redis',
      'control-plane',
      'ingestor-1',
      'ingestor-2',
      'projector-1',
      'projector-2',
      'gateway-1',
      'gateway-2',
    ]);
    admin = new Admin(set.controlPlane.url);
    for (const flag of FLAGS) await admin.createFlag(flag);
    await expectAgreement(set);
    listeners = set.gateways.map((gateway) => new Listener(gateway, failures));
    for (const listener of listeners) listener.start();
  });
  afterAll(async () => {
    await Promise.all(listeners.map((listener) => listener.stop()));
    await set.dispose();
  });

  /** Changes flags until the fault has struck and a while longer. */
  const whileFlagsChange = async (chance: () => number, strike: () => Promise<void>) => {
    const stop = new AbortController();
    const changes = (async () => {
      while (!stop.signal.aborted) {
        const flag = FLAGS[Math.floor(chance() * FLAGS.length)] ?? '';
        // The upstream may be what fails.
        await admin.setState(flag, chance() < 0.5 ? 'on' : 'off').catch(() => undefined);
        await passes(5);
      }
    })();
    try {
      await passes(chance() * 300);
      await strike();
      await passes(chance() * 300);
    } finally {
      stop.abort();
      await changes;
    }
  };

  const expectEverybodyToKnow = async () => {
    await expectAgreement(set);
    const session = await SdkSession.signIn(set.gateways[0] ?? '');
    for (const listener of listeners) {
      for (const flag of FLAGS) {
        const version = await session.flagVersion(flag);
        await eventually(
          () => listener.versions().get(flag),
          (heard) => heard === version,
        );
      }
    }
    expect(failures).toEqual([]);
  };

  const leads = async (part: Part) => {
    const role = part.replace(/-\d$/, '');
    return (await set.status(part).catch(() => undefined))?.[role]?.['leading'] === true;
  };
  const leader = async (role: 'ingestor' | 'projector') => {
    const parts = [`${role}-1`, `${role}-2`] as const;
    return eventually(
      async () => ((await leads(parts[0])) ? parts[0] : (await leads(parts[1])) ? parts[1] : undefined),
      (part) => part !== undefined,
    );
  };

  const expectToLead = (part: Part) =>
    eventually(
      () => leads(part),
      (leading) => leading,
    );

  for (let round = 1; round <= ROUNDS; round++) {
    const dice = new Chance(SEED * 1000 + round);
    const chance = () => dice.next();
    const name = `(seed ${SEED}, round ${round})`;

    it.each<Part>(['nats', 'redis', 'control-plane', 'gateway-1'])(
      `%s is killed and started again ${name}`,
      async (part) => {
        await whileFlagsChange(chance, async () => {
          await set.stop(part, 'SIGKILL');
          await passes(chance() * 2000);
          await set.start(part);
        });
        await expectEverybodyToKnow();
      },
    );

    it.each<Part>(['nats', 'redis', 'control-plane', 'gateway-1'])(
      `%s is paused past every time limit ${name}`,
      async (part) => {
        await whileFlagsChange(chance, async () => {
          set.pause(part);
          await passes(PAUSE_MS);
          set.resume(part);
        });
        await expectEverybodyToKnow();
      },
    );

    it.each(['ingestor', 'projector'] as const)(
      `the leading %s is killed: the other leads ${name}`,
      async (role) => {
        const killed = await leader(role);
        if (!killed) throw new Error('nobody leads');
        await whileFlagsChange(chance, async () => {
          await set.stop(killed, 'SIGKILL');
          await expectToLead(standbyOf(killed));
          await set.start(killed);
        });
        await expectEverybodyToKnow();
      },
    );

    it.each(['ingestor', 'projector'] as const)(
      `the leading %s is stalled past its lease: the other leads, and it changes nothing when it goes on ${name}`,
      async (role) => {
        const stalled = await leader(role);
        if (!stalled) throw new Error('nobody leads');
        await whileFlagsChange(chance, async () => {
          set.pause(stalled);
          await expectToLead(standbyOf(stalled));
          set.resume(stalled);
          await eventually(
            () => leads(stalled),
            (leading) => !leading,
          );
        });
        await expectEverybodyToKnow();
        expect(await leads(standbyOf(stalled))).toBe(true);
      },
    );
  }
});

function standbyOf(part: Part): Part {
  return (part.endsWith('-1') ? part.replace('-1', '-2') : part.replace('-2', '-1')) as Part;
}

/** How long a fault lasts. */
function passes(ms: number): Promise<void> {
  return delay(ms);
}
