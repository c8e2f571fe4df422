import { describe, expect, it } from '@jest/globals';

import { problemsIn, statusIn, statusLines } from './status-report.js';

const NOW = Date.UTC(2026, 10, 21, 12);
const position = { epoch: 'e', sequence: 42 };
const link = (state = 'CONNECTED') => ({
  stream: { state, since: NOW - 65_000 },
  config: { state: 'SYNCED', since: NOW - 600_000 },
  lastAgreedMs: NOW - 12_000,
  at: NOW,
});
const WELL = {
  startedAt: new Date(NOW - 7_200_000).toISOString(),
  ready: true,
  ingestor: {
    ready: true,
    leading: true,
    upstream: link(),
    setAside: [],
    failing: {},
    messages: { read: 3, unreadable: 0 },
    comparisons: { agreed: 1, failed: 0 },
  },
  projector: { ready: true, leading: true, position, environments: 2, log: 'reachable', store: 'reachable' },
  gateway: { ready: true, position, environments: 2, streams: 5, log: 'reachable', store: 'reachable' },
  'metrics-forwarder': {
    ready: true,
    backlog: { messages: 2, bytes: 10, oldestMs: 5000, dropped: 0 },
    waiting: [],
    parked: { messages: 0, bytes: 0, dropped: 0, reasons: [] },
    isSending: true,
    unsentEvaluations: 0,
  },
};
const problems = (changes: object) =>
  problemsIn(statusIn({ ...WELL, ...changes }), NOW).map(({ part, what }) => `${part} ${what}`);

describe('The status of a relay', () => {
  it('that is well has no problem, and a line for each part', () => {
    expect(problems({})).toEqual([]);
    expect(statusLines('http://relay:7080', statusIn(WELL), NOW, (_, text) => text)).toEqual([
      'http://relay:7080  ready, runs for 2 h',
      '',
      '  ✓ ingestor           leads, upstream connected for 1 min, agreed 12 s ago, 3 messages read, 1 comparison',
      '  ✓ projector          leads, 2 environments at fact 42',
      '  ✓ gateway            2 environments at fact 42, 5 streams open',
      '  ✓ metrics-forwarder  2 messages of counts wait, the oldest for 5 s',
    ]);
  });

  it('says first who is not ready, then what fails, then what may be meant so', () => {
    const said = problems({
      ready: false,
      ingestor: {
        ...WELL.ingestor,
        upstream: link('DISCONNECTED'),
        failing: { stream: { failures: 3, since: NOW - 65_000, reason: 'no answer', nextTryAt: NOW + 4000 } },
      },
      gateway: {
        ...WELL.gateway,
        ready: false,
        notReadyBecause: 'it is stopping',
        bypassAuth: true,
        store: 'unreachable',
      },
      'metrics-forwarder': {
        ready: true,
        waiting: [{ environment: 'dev', failures: 1, until: new Date(NOW + 61_000).toISOString() }],
        parked: {
          messages: 1,
          oldestMs: 120_000,
          reasons: [{ environment: 'dev', reason: 'the answer was\u001b 404', messages: 1, evaluations: 7 }],
        },
      },
    });
    expect(said).toEqual([
      'gateway is not ready: it is stopping',
      'ingestor stream fails for 1 min: no answer; next try in 4 s',
      'gateway the store cannot be reached',
      'metrics-forwarder the upstream takes no counts of dev; next try in 1 min',
      'gateway BYPASS_AUTH is on: whoever reaches it reads all',
      'metrics-forwarder parked, since the upstream refused it: 1 message of counts, the oldest for 2 min. See ff-relay metrics parked; once the reason is gone, ff-relay metrics resend',
      'metrics-forwarder parked of dev: 1 message with 7 evaluations: the answer was\\u001b 404',
    ]);
  });

  it('says which counts were lost to the bounds, and that they are dropped where that is asked for', () => {
    expect(
      problems({
        gateway: { ...WELL.gateway, countsAreDropped: true, unsentEvaluations: 1 },
        'metrics-forwarder': {
          ready: true,
          backlog: { messages: 0, dropped: 3 },
          parked: { messages: 0, dropped: 1 },
          isSending: false,
          unsentEvaluations: 20,
        },
      }),
    ).toEqual([
      'gateway counts are taken and dropped (METRIC_POST_DURATION=0 or OFFLINE): 1 evaluation so far',
      'metrics-forwarder dropped so far, too old or too many: 3 messages of counts that waited (METRICS_MAX_AGE, METRICS_MAX_BYTES)',
      'metrics-forwarder dropped so far, too old or too many: 1 message of counts that were parked (for 30 days, up to 256 MiB)',
      'metrics-forwarder counts are taken and dropped (METRIC_POST_DURATION=0 or OFFLINE): 20 evaluations so far',
    ]);
  });

  it('says of a gateway of several processes which are not well', () => {
    const workers = [
      { worker: 1, state: 'serving', ready: true },
      { worker: 2, state: 'ended', ready: false, notReadyBecause: 'it ended, and another is about to start' },
    ];
    const gateway = { ready: true, workers };
    expect(problems({ gateway })).toEqual(['gateway worker 2: it ended, and another is about to start']);
    expect(statusLines('g', statusIn({ ...WELL, gateway }), NOW, (_, text) => text)).toContain(
      '  ✓ gateway            1 of 2 workers ready',
    );
  });

  it('of something else is refused', () => {
    expect(() => statusIn({ status: 'up' })).toThrow('that is not the status of ff-relay');
    expect(() => statusIn('<html>')).toThrow('that is not the status of ff-relay');
  });
});
