import { beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';

import { joinedPages, StatusBoard, Telemetry, upstreamCalls, UpstreamStatus } from './index.js';
import { showUpstream } from './upstream-telemetry.js';

/** The series on a page, without comments. */
const seriesOf = async (telemetry: Telemetry) =>
  (await telemetry.page()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));

describe('The telemetry of a process', () => {
  let telemetry: Telemetry;
  beforeEach(() => {
    Logger.overrideLogger(false);
    telemetry = new Telemetry();
  });

  it('gives those who ask for the same name the same counter', async () => {
    for (const kind of ['a', 'b', 'a']) telemetry.counter('calls_total', 'calls', ['kind']).inc({ kind });
    expect(await seriesOf(telemetry)).toEqual(['calls_total{kind="a"} 2', 'calls_total{kind="b"} 1']);
  });

  it('is apart from that of another relay in this process', async () => {
    const other = Telemetry.ofProcess();
    other.counter('calls_total', 'calls').inc();
    telemetry.counter('calls_total', 'calls');
    expect(await seriesOf(telemetry)).toEqual(['calls_total 0']);
    expect(await seriesOf(other)).toContain('calls_total 1');
  });

  it('tells what Node says about itself', async () => {
    expect(await Telemetry.ofProcess().page()).toMatch(/^nodejs_version_info\{version="v26\./m);
  });

  it('reads a gauge when somebody looks, and forgets what it says no more', async () => {
    let streams: Record<string, number> = { a: 1, b: 2 };
    telemetry.gauge('streams', 'streams', ['of'], (set) => {
      for (const [of, count] of Object.entries(streams)) set(count, { of });
    });
    expect(await seriesOf(telemetry)).toEqual(['streams{of="a"} 1', 'streams{of="b"} 2']);
    streams = { b: 3 };
    expect(await seriesOf(telemetry)).toEqual(['streams{of="b"} 3']);
  });

  it('shows everything else when a gauge cannot be read', async () => {
    telemetry.gauge('broken', 'broken', [], () => {
      throw new Error('no');
    });
    telemetry.counter('calls_total', 'calls').inc();
    expect(await seriesOf(telemetry)).toEqual(['calls_total 1']);
  });

  it('answers many who ask at once', async () => {
    telemetry.counter('calls_total', 'calls').inc();
    const pages = await Promise.all(Array.from({ length: 20 }, () => seriesOf(telemetry)));
    for (const page of pages) expect(page).toEqual(['calls_total 1']);
  });

  it('says again what it said a moment ago, to whom that will do', async () => {
    const calls = telemetry.counter('calls_total', 'calls');
    const before = await telemetry.page();
    calls.inc();
    expect(await telemetry.page(60_000)).toBe(before);
    expect(await telemetry.page()).toContain('calls_total 1');
  });

  it('counts calls to the upstream by how they ended', async () => {
    const observe = upstreamCalls(telemetry);
    upstreamCalls(telemetry)({ route: '/proxy/auth', code: 200, durationMs: 20 });
    observe({ route: '/proxy/auth', code: 'unreachable', durationMs: 20 });
    observe({ route: '/metrics/:environment', environment: 'dev', code: 202, durationMs: 20 });
    const series = await seriesOf(telemetry);
    expect(series).toEqual(
      expect.arrayContaining([
        'ff_proxy_to_client_service_requests{url="/proxy/auth",envID="",code="200"} 1',
        'ff_proxy_to_client_service_requests{url="/proxy/auth",envID="",code="unreachable"} 1',
        'ff_proxy_to_client_service_requests{url="/metrics/:environment",envID="dev",code="202"} 1',
        'ff_proxy_to_ff_client_service_requests_duration_sum{url="/metrics/:environment",envID="dev"} 0.02',
      ]),
    );
  });

  it('says which parts are ready', async () => {
    const board = new StatusBoard();
    board.showReady(telemetry);
    board.show('gateway', () => ({ ready: true }));
    board.show('projector', () => ({ ready: false }));
    expect(await seriesOf(telemetry)).toEqual([
      'ff_relay_ready{part="gateway"} 1',
      'ff_relay_ready{part="projector"} 0',
    ]);
  });

  describe('on the upstream', () => {
    let clock: number;
    let status: UpstreamStatus;
    beforeEach(() => {
      clock = 1000;
      status = new UpstreamStatus(() => clock);
      showUpstream(telemetry, status, () => clock);
    });
    /** Names and values, in the order of the page. */
    const shown = async () => (await seriesOf(telemetry)).map((line) => line.replace(/\{host=".+"\}/, ''));

    it('says nothing where the link is not known', async () => {
      expect(await shown()).toEqual([]);
    });

    it('says how the link stands, and how old the data is once it agreed', async () => {
      status.reporting = true;
      expect(await shown()).toEqual(['ff_proxy_stream_health 0', 'ff_proxy_polling_status 0']);
      status.stream('CONNECTED');
      status.agreed();
      clock += 4500;
      expect(await shown()).toEqual([
        'ff_proxy_stream_health 1',
        'ff_proxy_polling_status 0',
        'ff_relay_data_age_seconds 4.5',
      ]);
      status.stream('DISCONNECTED');
      expect(await shown()).toEqual([
        'ff_proxy_stream_health 0',
        'ff_proxy_polling_status 1',
        'ff_relay_data_age_seconds 4.5',
      ]);
    });

    it('says what another process told', async () => {
      const leader = new UpstreamStatus(() => clock);
      leader.reporting = true;
      leader.stream('CONNECTED');
      leader.agreed();
      status.adopt(leader.snapshot());
      clock += 1000;
      expect(await shown()).toEqual([
        'ff_proxy_stream_health 1',
        'ff_proxy_polling_status 0',
        'ff_relay_data_age_seconds 1',
      ]);
    });
  });
});

describe('The telemetry of several processes', () => {
  it('is one page, on which each metric is introduced once and each series says whose it is', async () => {
    const pages = await Promise.all(
      ['1', '2'].map((worker) => {
        const telemetry = new Telemetry();
        telemetry.nameSeries({ worker });
        telemetry.counter('told', 'Told', ['kind']).inc({ kind: 'flag' }, Number(worker));
        telemetry.histogram('took', 'Took', [1]).observe(Number(worker));
        return telemetry.page();
      }),
    );
    // One that does not answer leaves out its own.
    expect(joinedPages([...pages, '']).split('\n')).toEqual([
      '# HELP told Told',
      '# TYPE told counter',
      'told{kind="flag",worker="1"} 1',
      'told{kind="flag",worker="2"} 2',
      '',
      '# HELP took Took',
      '# TYPE took histogram',
      'took_bucket{le="1",worker="1"} 1',
      'took_bucket{le="+Inf",worker="1"} 1',
      'took_sum{worker="1"} 1',
      'took_count{worker="1"} 1',
      'took_bucket{le="1",worker="2"} 0',
      'took_bucket{le="+Inf",worker="2"} 1',
      'took_sum{worker="2"} 2',
      'took_count{worker="2"} 1',
      '',
    ]);
  });
});
