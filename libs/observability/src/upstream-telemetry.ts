import { hostname } from 'node:os';

import type { CallObserver } from '#libs/saas-client';

import type { Telemetry } from './telemetry.js';
import type { UpstreamStatus } from './upstream-status.js';

/** From an answer of the same room to the longest that a call may take. */
const CALL_BUCKETS_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Counts and times the calls to the upstream, under the Go relay's names (protocol §4.5). */
export function upstreamCalls(telemetry: Telemetry): CallObserver {
  const requests = telemetry.counter(
    'ff_proxy_to_client_service_requests',
    'Calls to the upstream, by how they were answered',
    ['url', 'envID', 'code'],
  );
  const durations = telemetry.histogram(
    'ff_proxy_to_ff_client_service_requests_duration',
    'Seconds that calls to the upstream took',
    CALL_BUCKETS_S,
    ['url', 'envID'],
  );
  return ({ route: url, environment: envID = '', code, durationMs }) => {
    requests.inc({ url, envID, code });
    durations.observe({ url, envID }, durationMs / 1000);
  };
}

/** Shows how the link to the upstream stands, in each process that has it or is told of it. */
export function showUpstream(
  telemetry: Telemetry,
  upstream: UpstreamStatus,
  now: () => number = Date.now,
): void {
  const host = hostname();
  telemetry.gauge('ff_proxy_stream_health', '1 while the stream of the upstream is open', ['host'], (set) => {
    if (upstream.isKnown) set(Number(upstream.streamStatus.state === 'CONNECTED'), { host });
  });
  telemetry.gauge(
    'ff_proxy_polling_status',
    '1 while the stream of the upstream is down, and changes are found by comparing alone',
    ['host'],
    (set) => {
      if (upstream.isKnown) set(Number(upstream.streamStatus.state === 'DISCONNECTED'), { host });
    },
  );
  telemetry.gauge(
    'ff_relay_data_age_seconds',
    'Seconds since the log last agreed with the upstream; absent until it did',
    [],
    (set) => {
      const { isKnown, lastAgreedMs } = upstream;
      if (isKnown && lastAgreedMs !== undefined) set(Math.max(0, now() - lastAgreedMs) / 1000);
    },
  );
}
