import { beforeEach, describe, expect, it } from '@jest/globals';

import { type EnvironmentFact, type EnvironmentState, evolve, unknownEnvironment } from '#libs/domain';

import { aFlag } from '../../../libs/domain/src/builders.suite.js';
import { RecentPast } from './recent-past.js';

const added: EnvironmentFact = { type: 'EnvironmentAdded', environment: 'dev', account: 'acc' };
const removed: EnvironmentFact = { type: 'EnvironmentRemoved', environment: 'dev' };
const keyAdded: EnvironmentFact = { type: 'ApiKeyAdded', environment: 'dev', apiKey: 'a'.repeat(64) };
const keyRemoved: EnvironmentFact = { ...keyAdded, type: 'ApiKeyRemoved' };
const flagAt = (version: number): EnvironmentFact => ({
  type: 'FlagPublished',
  environment: 'dev',
  flag: aFlag('dark-mode', { version }),
});
const flagRemoved: EnvironmentFact = {
  type: 'FlagRemoved',
  environment: 'dev',
  identifier: 'dark-mode',
  version: 0,
};

let now: number;
let past: RecentPast;
let known: EnvironmentState;
let sequence: number;
beforeEach(() => {
  now = 0;
  past = new RecentPast(() => now);
  known = unknownEnvironment('dev');
  sequence = 0;
  tell(10, added);
});

function tell(at: number, fact: EnvironmentFact, asOf?: number): void {
  now = at;
  past.got(fact, past.before(fact, known), asOf);
  known = evolve(known, fact, ++sequence);
}

describe('A flag', () => {
  it('that is known is settled since it was told last', () => {
    tell(20, flagAt(1));
    tell(30, flagAt(2));
    expect(past.settledAt(known, flagAt(1))).toBe(30);
    expect(past.outlivedAt(known, flagAt(1))).toBe(-Infinity);
  });

  it('that a read showed is remembered as of that read, until it is told of otherwise', () => {
    tell(20, flagAt(1), 15);
    past.heardAgain(flagAt(1));
    expect(past.shownAsOf(flagAt(2))).toBe(15);
    tell(30, flagRemoved);
    expect(past.shownAsOf(flagAt(2))).toBe(-Infinity);
  });

  it('that was removed is not shown any more as of its removal, or of its last version if the one shown is below', () => {
    tell(20, flagAt(1));
    tell(30, flagAt(2));
    tell(40, flagRemoved);
    expect(past.outlivedAt(known, flagAt(2))).toBe(40);
    expect(past.outlivedAt(known, flagAt(3))).toBe(40);
    expect(past.outlivedAt(known, flagAt(1))).toBe(30);
    expect(past.settledAt(known, flagAt(1))).toBe(-Infinity);
  });

  it('that was removed is at worst back as it was last, if a version is announced', () => {
    tell(30, flagAt(2));
    tell(40, flagRemoved);
    expect(past.outlivedAt(known, flagAt(2), true)).toBe(30);
    expect(past.outlivedAt(known, flagAt(1), true)).toBe(30);
    expect(past.outlivedAt(known, flagAt(2))).toBe(40);
  });

  it('that is said to be removed though it is already may have lived meanwhile', () => {
    tell(30, flagAt(2));
    tell(40, flagRemoved);
    now = 50;
    past.heardAgain(flagRemoved);
    expect(past.outlivedAt(known, flagAt(1))).toBe(50);
    expect(past.outlivedAt(known, flagAt(2))).toBe(50);
  });

  it('that is there anew is not another because of an announcement, which may be of its life before', () => {
    tell(30, flagAt(2));
    tell(40, flagRemoved);
    tell(50, flagAt(1));
    expect(past.outlivedAt(known, flagAt(2), true)).toBe(40);
  });

  it('that a former process told of last may have had a life before', () => {
    past.toldByFormer(flagAt(3), 5);
    known = evolve(known, flagAt(3), ++sequence);
    expect(past.settledAt(known, flagAt(3))).toBe(5);
    expect(past.outlivedAt(known, flagAt(4), true)).toBe(5);
    expect(past.beganAnewAt(flagRemoved)).toBe(5);
  });

  it('that a former process removed may have had any', () => {
    past.toldByFormer(flagRemoved, 5);
    expect(past.outlivedAt(known, flagAt(1), true)).toBe(5);
    expect(past.beganAnewAt(flagRemoved)).toBeUndefined();
  });

  it('of which this process was told is not taken for told by a former one', () => {
    tell(20, flagAt(1));
    past.toldByFormer(flagAt(1), 15);
    expect(past.outlivedAt(known, flagAt(2))).toBe(-Infinity);
    expect(past.toldAt(flagRemoved)).toBe(20);
  });

  it('that is made anew, or stepped back, began anew then, and its life before still counts', () => {
    tell(30, flagAt(7));
    tell(40, flagRemoved);
    tell(50, flagAt(1));
    expect(past.beganAnewAt(flagRemoved)).toBe(50);
    expect(past.outlivedAt(known, flagAt(8))).toBe(40);
    expect(past.outlivedAt(known, flagAt(2))).toBe(30);
    tell(60, flagAt(6));
    tell(70, flagAt(3));
    expect(past.beganAnewAt(flagRemoved)).toBe(70);
    expect(past.outlivedAt(known, flagAt(7))).toBe(70);
    expect(past.outlivedAt(known, flagAt(4))).toBe(60);
    expect(past.settledAt(known, flagAt(2))).toBe(70);
  });
});

describe('An SDK key, and an environment,', () => {
  it('that was removed is not shown any more as of then', () => {
    tell(20, keyAdded);
    tell(30, keyRemoved);
    expect(past.outlivedAt(known, keyAdded)).toBe(30);
    tell(40, removed);
    expect(past.outlivedAt(known, added, true)).toBe(40);
    tell(50, added);
    expect(past.beganAnewAt(removed)).toBe(50);
    expect(past.toldAt(added)).toBe(50);
  });
});

describe('What happened', () => {
  it('is forgotten after ten minutes', () => {
    tell(20, flagAt(1));
    tell(30, flagRemoved);
    tell(600_031, keyAdded);
    tell(600_032, keyRemoved);
    expect(past.outlivedAt(known, flagAt(1))).toBe(-Infinity);
    expect(past.toldAt(flagRemoved)).toBeUndefined();
    expect(past.outlivedAt(known, keyAdded)).toBe(600_032);
  });
});
