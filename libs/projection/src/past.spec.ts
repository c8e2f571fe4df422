import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import {
  type EnvironmentFact,
  type EnvironmentState,
  type Fact,
  factBody,
  factSubject,
  foldInto,
} from '#libs/domain';
import { EmbeddedEventLog, type EventLog } from '#libs/event-log';

import {
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from '../../domain/src/builders.suite.js';
import { foldUntil } from './index.js';

describe('The past of a log', () => {
  let folder: string;
  let log: EventLog;
  let appended: number;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'ff-relay-past-'));
    log = await EmbeddedEventLog.open(folder);
    appended = 0;
  });
  afterEach(async () => {
    await log.close();
    await rm(folder, { recursive: true });
  });

  const append = async (...facts: Fact[]) => {
    for (const fact of facts) {
      const envelope = { id: String(++appended), time: 0 };
      await log.append('FF_FACTS', {
        subject: factSubject(fact),
        id: envelope.id,
        body: factBody(fact, envelope),
      });
    }
  };
  const snapshot: Fact = { type: 'SnapshotCompleted', account: 'demo', environments: 1 };

  it('at any position is the fold of the facts up to there', async () => {
    const facts: EnvironmentFact[] = [
      environmentAdded(),
      flagPublished('a'),
      flagPublished('b'),
      apiKeyAdded('0a'),
      segmentPublished('s'),
      flagRemoved('a', 2),
      environmentAdded('prod'),
      flagPublished('a', 1, 'prod'),
      environmentRemoved(),
      environmentAdded(),
      flagPublished('a', 3),
    ];
    await append(...facts);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: facts.length }), async (sequence) => {
        const expected = new Map<string, EnvironmentState>();
        foldInto(
          expected,
          facts.slice(0, sequence).map((fact, i) => ({ fact, sequence: i + 1 })),
        );
        const { fold, forgotten } = await foldUntil(log, { sequence });
        expect(fold.states).toEqual(expected);
        expect(fold.position.sequence).toBe(sequence);
        expect(forgotten).toEqual([]);
      }),
    );
  });

  it('at a time has what was appended by then', async () => {
    await append(environmentAdded(), flagPublished('a'));
    const [, second] = (await Array.fromAsync(log.latest('FF_FACTS'))).flat();
    const time = second?.time ?? 0;
    while (Date.now() === time) await new Promise((done) => setImmediate(done));
    await append(flagPublished('b'), snapshot);
    const then = await foldUntil(log, { time });
    expect([...(then.fold.states.get('dev')?.flags.keys() ?? [])]).toEqual(['a']);
    expect(then).toMatchObject({ time, fold: { complete: false, position: { sequence: 2 } } });
    expect(await foldUntil(log, { time: Date.now() })).toMatchObject({
      fold: { complete: true, position: { sequence: 4 } },
    });
  });

  it('before the first fact is empty, and says when that was', async () => {
    expect(await foldUntil(log, { time: Date.now() })).toMatchObject({ time: undefined, first: undefined });
    await append(environmentAdded());
    const past = await foldUntil(log, { time: 0 });
    expect(past.fold.states.size).toBe(0);
    expect(past).toMatchObject({ time: undefined, first: { sequence: 1 } });
  });

  it('names the entities of which only later facts are kept', async () => {
    await append(environmentAdded(), flagPublished('busy.flag'), flagPublished('calm'));
    const { sequence } = await log.head('FF_FACTS');
    for (let version = 2; version <= 65; version++) await append(flagPublished('busy.flag', version));
    await append(flagPublished('calm', 2), flagPublished('new'));
    const { fold, forgotten } = await foldUntil(log, { sequence });
    expect(forgotten).toEqual([{ environment: 'dev', kind: 'flag', identifier: 'busy.flag' }]);
    expect(fold.states.get('dev')?.flags.get('calm')?.value?.version).toBe(1);
  });

  it('is read with a word on how far it is', async () => {
    await append(environmentAdded(), flagPublished('a'));
    const seen: [number, number][] = [];
    await foldUntil(log, { sequence: 1 }, (...at) => seen.push(at));
    expect(seen.at(-1)).toEqual([2, 2]);
  });
});
