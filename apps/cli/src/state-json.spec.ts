import { describe, expect, it } from '@jest/globals';

import { type EnvironmentFact, fold, unknownEnvironment } from '#libs/domain';
import { LogFold, type Past } from '#libs/projection';

import {
  aFlag,
  apiKeyAdded,
  aSegment,
  environmentAdded,
  environmentRemoved,
  flagPublished,
  segmentPublished,
} from '../../../libs/domain/src/builders.suite.js';
import { stateJson } from './state-json.js';

const EPOCH = 'a "log"';

function past(facts: readonly EnvironmentFact[], more: Partial<Past> = {}): Past {
  const folded = new LogFold({ epoch: EPOCH, sequence: facts.length });
  for (const [environment, of] of Map.groupBy(
    facts.map((fact, i) => ({ fact, sequence: i + 1 })),
    ({ fact }) => fact.environment,
  ))
    folded.states.set(environment, fold(unknownEnvironment(environment), of));
  folded.complete = true;
  return { fold: folded, time: Date.UTC(2026, 10, 20), first: undefined, forgotten: [], ...more };
}
const text = (of: Past) => [...stateJson(of)].join('');

describe('A past state as JSON', () => {
  it('has the environments that there were, by id, with all that they held', () => {
    const facts = [
      environmentAdded('prod'),
      environmentAdded('dev'),
      flagPublished('b', 3),
      flagPublished('a'),
      segmentPublished('s'),
      apiKeyAdded('0a'),
      apiKeyAdded('0b'),
      environmentAdded('gone'),
      environmentRemoved('gone'),
    ];
    expect(JSON.parse(text(past(facts)))).toEqual({
      position: { epoch: EPOCH, sequence: 9 },
      time: '2026-11-20T00:00:00.000Z',
      complete: true,
      unknown: [],
      environments: [
        {
          id: 'dev',
          account: 'demo',
          flags: [aFlag('a'), aFlag('b', { version: 3 })],
          segments: [aSegment('s')],
          apiKeys: ['0a', '0b'],
        },
        { id: 'prod', account: 'demo', flags: [], segments: [], apiKeys: [] },
      ],
    });
  });

  it('names what is not known any more', () => {
    const forgotten = [{ environment: 'dev', kind: 'flag', identifier: 'a' }];
    expect(JSON.parse(text(past([], { forgotten, time: undefined })))).toMatchObject({
      time: null,
      unknown: forgotten,
      environments: [],
    });
  });

  it('has a line for each entity, so that two states differ in the lines of what changed', () => {
    const lines = (version: number) =>
      text(past([environmentAdded(), flagPublished('a', version), flagPublished('b')])).split('\n');
    const [one, other] = [lines(1), lines(2)];
    expect(one.filter((line, i) => line !== other[i])).toEqual([expect.stringContaining('"feature":"a"')]);
  });
});
