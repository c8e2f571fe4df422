import { PROPAGATION_BUCKETS_S, type Telemetry } from '#libs/observability';

import type { IngestorLead } from './ingestor-lead.js';
import type { IngestorRecord } from './ingestor-record.js';

/** Measures how long changes that the upstream tells of take into the log. */
export function intakeTimes(telemetry: Telemetry): (tookMs: number) => void {
  const intake = telemetry.histogram(
    'ff_relay_intake_seconds',
    'From a message of the upstream about a flag or target group to its fact in the log',
    PROPAGATION_BUCKETS_S,
  );
  return (tookMs) => intake.observe(tookMs / 1000);
}

/** What the record of the ingestor says, for those who watch and do not ask. Only a process that leads says it. */
export function showIngestor(telemetry: Telemetry, lead: IngestorLead, record: IngestorRecord): void {
  telemetry.gauge('ff_relay_ingestor_leading', '1 while this process writes facts', [], (set) =>
    set(Number(lead.isLeading)),
  );
  telemetry.total(
    'ff_proxy_saas_to_primary_sse_consumer_messages_received',
    'messages of the upstream stream since the start',
    ['topic', 'error'],
    (set) => {
      set(record.messages.read, { topic: '*', error: 'false' });
      set(record.messages.unreadable, { topic: '*', error: 'true' });
    },
  );
  telemetry.gauge(
    'ff_relay_upstream_unknown',
    'kinds of messages, and fields, that the upstream sent and this relay does not know',
    [],
    (set) => set(record.unknown.size),
  );
  telemetry.total(
    'ff_relay_upstream_retries_total',
    'tries at the upstream that failed and were repeated',
    [],
    (set) => set(record.retries),
  );
  telemetry.gauge('ff_relay_upstream_failing', 'what is tried again at present', [], (set) =>
    set(record.failing.size),
  );
  telemetry.total(
    'ff_relay_comparisons_total',
    'comparisons of the whole account with the log',
    ['result'],
    (set) => {
      set(record.comparisons.agreed, { result: 'agreed' });
      set(record.comparisons.failed, { result: 'failed' });
    },
  );
  telemetry.gauge(
    'ff_relay_comparison_seconds',
    'how long the last comparison of the whole account took',
    [],
    (set) => {
      if (record.lastComparison) set(record.lastComparison.tookMs / 1000);
    },
  );
  telemetry.total(
    'ff_relay_facts_appended_total',
    'facts that this process brought into the log',
    ['type'],
    (set) => {
      for (const [type, count] of record.facts) set(count, { type });
    },
  );
  telemetry.gauge('ff_relay_facts_set_aside', 'facts that the log does not take', [], (set) =>
    set(lead.setAside.length),
  );
  telemetry.gauge(
    'ff_relay_environment_age_seconds',
    'seconds since the log last agreed with a read of the whole environment',
    ['envID'],
    (set) => {
      if (!lead.isLeading) return;
      for (const [envID, at] of record.comparedAt) set(Math.max(0, Date.now() - at) / 1000, { envID });
    },
  );
}
