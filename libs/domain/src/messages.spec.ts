import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';

import {
  aFlag,
  apiKeyAdded,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  flagRemoved,
  segmentPublished,
} from './builders.suite.js';
import {
  type EnvironmentFact,
  evolve,
  type Fact,
  factBody,
  factIn,
  factSubject,
  noticeBody,
  parkedBody,
  parkedIn,
  noticeIn,
  noticeOf,
  noticeSubject,
  reportBody,
  reportIn,
  reportSubject,
  subjectToken,
  textOfSubjectToken,
  unknownEnvironment,
  UnreadableMessage,
} from './index.js';

const envelope = { id: 'x-1', time: Date.UTC(2026, 0, 2, 3, 4, 5) };

const everyFact: Fact[] = [
  environmentAdded(),
  flagPublished('dark-mode', 3),
  flagRemoved('dark-mode', 4),
  segmentPublished('beta'),
  { type: 'SegmentRemoved', environment: 'dev', identifier: 'beta', version: 2 },
  apiKeyAdded('abc'),
  { type: 'ApiKeyRemoved', environment: 'dev', apiKey: 'abc' },
  environmentRemoved(),
  { type: 'SnapshotCompleted', account: 'demo', environments: 2 },
  { type: 'ProxyKeyDeleted', identifier: 'relay' },
];

describe('A fact in the log', () => {
  it.each(everyFact.map((fact) => [fact.type, fact] as const))('is read as it was written: %s', (_, fact) => {
    expect(factIn(factBody(fact, envelope))).toEqual(fact);
  });

  it('is a CloudEvent that a tool in any language can read', () => {
    expect(JSON.parse(factBody(flagRemoved('dark-mode', 4), envelope))).toEqual({
      specversion: '1.0',
      id: 'x-1',
      source: '/ff-relay',
      type: 'io.ff-relay.flag.removed.v1',
      subject: 'dev/flag/dark-mode',
      time: '2026-01-02T03:04:05.000Z',
      datacontenttype: 'application/json',
      data: { environment: 'dev', identifier: 'dark-mode', version: 4 },
    });
  });

  it('keeps fields that this relay does not know', () => {
    const flag = { ...aFlag('a'), fromTheFuture: { deep: [1, null] } };
    expect(factIn(factBody({ type: 'FlagPublished', environment: 'dev', flag }, envelope))).toEqual({
      type: 'FlagPublished',
      environment: 'dev',
      flag,
    });
  });

  it('has one subject for an entity, whatever happened to it', () => {
    expect(factSubject(flagPublished('my.flag'))).toBe('ff.facts.v1.dev.flag.my=2Eflag');
    expect(factSubject(flagRemoved('my.flag'))).toBe('ff.facts.v1.dev.flag.my=2Eflag');
    expect(factSubject({ type: 'ProxyKeyDeleted', identifier: 'k' })).toBe('ff.facts.v1._account.proxykey.k');
  });

  it.each([
    '',
    'nonsense',
    '[]',
    'null',
    '{"specversion":"1.0"}',
    '{"specversion":"1.0","type":"x","data":{}}',
  ])('that is none is told apart: %j', (body) => {
    expect(() => factIn(body)).toThrow(UnreadableMessage);
  });

  it('without the entity it is about is told apart', () => {
    const body = factBody(flagPublished('a'), envelope).replace('"flag":{', '"flog":{');
    expect(() => factIn(body)).toThrow(UnreadableMessage);
  });
});

describe('A notice in the log', () => {
  it.each(
    everyFact
      .filter((fact): fact is EnvironmentFact => 'environment' in fact)
      .map((fact) => [fact.type, fact] as const),
  )('is read as it was written: of %s', (_, fact) => {
    const notice = noticeOf(unknownEnvironment('dev'), fact);
    const of = { epoch: 'e', sequence: 7 };
    expect(noticeIn(noticeBody(notice, of, envelope))).toEqual({ notice, of, time: envelope.time });
  });

  it('has a subject that a tool can subscribe to by environment and kind', () => {
    const notice = noticeOf(unknownEnvironment('dev'), flagPublished('dark-mode', 3));
    expect(noticeSubject(notice)).toBe('ff.changes.v1.dev.flag.dark-mode');
  });

  it('says whether the entity is new', () => {
    const before = unknownEnvironment('dev');
    const after = evolve(evolve(before, environmentAdded(), 1), flagPublished('a', 1), 2);
    expect(noticeOf(before, flagPublished('a', 1)).event).toBe('create');
    expect(noticeOf(after, flagPublished('a', 2)).event).toBe('patch');
    expect(noticeOf(after, flagRemoved('a', 2)).event).toBe('delete');
  });

  it('that lacks something is told apart', () => {
    const whole = noticeBody(
      noticeOf(unknownEnvironment('dev'), flagPublished('a')),
      { epoch: 'e', sequence: 1 },
      envelope,
    );
    for (const part of ['"identifier":"a"', '"epoch":"e"', '"version":1']) {
      expect(() => noticeIn(whole.replace(part, '"x":1'))).toThrow(UnreadableMessage);
    }
  });
});

describe('A report of counts in the log', () => {
  const report = {
    environment: 'dev',
    counts: [{ timestamp: 1, count: 2, attributes: { featureIdentifier: 'a', variationIdentifier: 'on' } }],
    targets: [{ identifier: 'anna', name: 'Anna', attributes: { plan: 'pro' } }],
  };

  it('is read as it was written, with its id', () => {
    expect(reportIn(reportBody(report, envelope))).toEqual({ id: envelope.id, report });
  });

  it('has a subject for each environment', () => {
    expect(reportSubject(report)).toBe('ff.metrics.v1.dev');
  });

  it('that lacks something is told apart', () => {
    const whole = reportBody(report, envelope);
    for (const name of ['"id"', '"environment"', '"counts"', '"targets"', 'metrics.reported']) {
      expect(() => reportIn(whole.replace(name, name.replace(/\w+/, 'x')))).toThrow(UnreadableMessage);
    }
  });
});

describe('A parked message in the log', () => {
  const parked = {
    id: 'a',
    environment: 'dev',
    reason: '400',
    report: { environment: 'dev', counts: [], targets: [] },
  };

  it('comes back as it was', () => {
    expect(parkedIn(parkedBody(parked, 1))).toEqual(parked);
  });

  it.each(['', 'null', '{}', '{"type":"x","data":{}}', parkedBody({ ...parked, reason: 400 as never }, 1)])(
    'that is none is told as one that nobody can read: %s',
    (text) => {
      const { report, reason, ...rest } = parkedIn(text);
      expect({ report, rest }).toEqual({ report: undefined, rest: { id: '', environment: 'unknown', text } });
      expect(reason).toMatch(/UnreadableMessage/);
    },
  );
});

describe('Any text as a token of a subject', () => {
  it('comes back unchanged, and holds nothing that NATS gives a meaning', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(subjectToken(text)).toMatch(/^[A-Za-z0-9_=-]+$/);
        expect(textOfSubjectToken(subjectToken(text))).toBe(text);
      }),
    );
  });

  it('leaves ordinary identifiers readable', () => {
    expect(subjectToken('dark-mode_2')).toBe('dark-mode_2');
    expect(subjectToken('a.b c>é=')).toBe('a=2Eb=20c=3E=C3=A9=3D');
    expect(subjectToken('')).toBe('=');
  });
});
