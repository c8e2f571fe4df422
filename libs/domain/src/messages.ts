/**
 * How facts, notices and evaluation counts are written in the log: a public contract for tools in any language. Subjects
 * are `ff.facts.v1.<environment>.<kind>.<id>`, `ff.changes.v1.<environment>.<kind>.<id>`, `ff.metrics.v1.<environment>` and,
 * for counts that were refused, `ff.parked.v1.<environment>.<id>`; bodies are CloudEvents 1.0 in structured JSON mode.
 */
import { entityOf, type Fact, type Position } from './facts.js';
import type { MetricsReport, ParkedReport } from './metrics.js';
import type { Notice } from './notices.js';

const ACCOUNT = '_account';
const SOURCE = '/ff-relay';
const REPORT_TYPE = 'io.ff-relay.metrics.reported.v1';
const PARKED_TYPE = 'io.ff-relay.metrics.refused.v1';

const FACT_TYPES: Record<Fact['type'], string> = {
  FlagPublished: 'io.ff-relay.flag.published.v1',
  FlagRemoved: 'io.ff-relay.flag.removed.v1',
  SegmentPublished: 'io.ff-relay.segment.published.v1',
  SegmentRemoved: 'io.ff-relay.segment.removed.v1',
  ApiKeyAdded: 'io.ff-relay.apikey.added.v1',
  ApiKeyRemoved: 'io.ff-relay.apikey.removed.v1',
  EnvironmentAdded: 'io.ff-relay.environment.added.v1',
  EnvironmentRemoved: 'io.ff-relay.environment.removed.v1',
  SnapshotCompleted: 'io.ff-relay.snapshot.completed.v1',
  ProxyKeyDeleted: 'io.ff-relay.proxykey.deleted.v1',
};
const FACT_OF_TYPE = new Map(Object.entries(FACT_TYPES).map(([fact, type]) => [type, fact]));

/** A message of the log that does not say what it should. The message tells what is wrong with it. */
export class UnreadableMessage extends Error {
  override readonly name = 'UnreadableMessage';
}

export interface Envelope {
  /** Unique within the source; a repeat has the same one. */
  readonly id: string;
  /** When it was written, in ms since the epoch. */
  readonly time: number;
}

/** The subject of a fact: one per entity, so that the last message of a subject is the entity's state. */
export function factSubject(fact: Fact): string {
  const { environment, kind, identifier } = entityOf(fact);
  return subjectOf('facts', environment ?? ACCOUNT, kind, identifier);
}

/** What the subjects of all facts about an environment begin with. */
export function factSubjectsOf(environment: string): string {
  return `ff.facts.v1.${subjectToken(environment)}.`;
}

export function factBody(fact: Fact, envelope: Envelope): string {
  const { environment, kind, identifier } = entityOf(fact);
  const { type, ...data } = fact;
  return cloudEvent(FACT_TYPES[type], `${environment ?? ACCOUNT}/${kind}/${identifier}`, envelope, data);
}

/** The fact in a message's body. Throws UnreadableMessage. */
export function factIn(body: string): Fact {
  const { type, data } = openCloudEvent(body);
  const factType = FACT_OF_TYPE.get(type);
  if (!factType) throw new UnreadableMessage(`no fact has the type ${JSON.stringify(type)}`);
  const fact = { type: factType, ...data } as Fact;
  const { environment, identifier } = namesIn(fact);
  if (typeof identifier !== 'string' || (environment !== undefined && typeof environment !== 'string')) {
    throw new UnreadableMessage(`${type} does not name its entity`);
  }
  return fact;
}

function namesIn(fact: Fact): { environment: unknown; identifier: unknown } {
  try {
    return entityOf(fact);
  } catch {
    return { environment: undefined, identifier: undefined };
  }
}

export function noticeSubject(notice: Notice): string {
  return subjectOf('changes', notice.environment, notice.kind, notice.identifier);
}

/** What the subjects of all notices about an environment begin with. */
export function noticeSubjectsOf(environment: string): string {
  return `ff.changes.v1.${subjectToken(environment)}.`;
}

/** @param of the fact that made it: whoever has applied the log up to there can serve what the notice tells */
export function noticeBody(notice: Notice, of: Position, envelope: Envelope): string {
  const { environment, kind, identifier } = notice;
  const type = `io.ff-relay.${kind}.changed.v1`;
  return cloudEvent(type, `${environment}/${kind}/${identifier}`, envelope, { ...notice, fact: of });
}

/** The notice in a message's body, the fact that made it, and when that was written, if it is told. Throws UnreadableMessage. */
export function noticeIn(body: string): {
  readonly notice: Notice;
  readonly of: Position;
  readonly time: number | undefined;
} {
  const { type, time, data } = openCloudEvent(body);
  const writtenAt = typeof time === 'string' ? Date.parse(time) : Number.NaN;
  const { fact, ...notice } = data as unknown as Notice & { fact?: Position };
  const complete =
    typeof notice.environment === 'string' &&
    typeof notice.identifier === 'string' &&
    typeof notice.version === 'number' &&
    typeof fact?.epoch === 'string' &&
    typeof fact.sequence === 'number';
  if (!complete || type !== `io.ff-relay.${notice.kind}.changed.v1`) {
    throw new UnreadableMessage(`${JSON.stringify(type)} is no complete notice`);
  }
  return { notice, of: fact, time: Number.isNaN(writtenAt) ? undefined : writtenAt };
}

export function reportSubject({ environment }: MetricsReport): string {
  return `ff.metrics.v1.${subjectToken(environment)}`;
}

export function reportBody(report: MetricsReport, envelope: Envelope): string {
  return cloudEvent(REPORT_TYPE, report.environment, envelope, report);
}

/** The counts in a message's body, and the id of the message. Throws UnreadableMessage. */
export function reportIn(body: string): { readonly id: string; readonly report: MetricsReport } {
  const { id, type, data } = openCloudEvent(body);
  const report = data as unknown as MetricsReport;
  const complete =
    typeof id === 'string' &&
    typeof report.environment === 'string' &&
    Array.isArray(report.counts) &&
    Array.isArray(report.targets);
  if (!complete || type !== REPORT_TYPE) {
    throw new UnreadableMessage(`${JSON.stringify(type)} is no complete report of counts`);
  }
  return { id, report };
}

/** The environment that the subject of a report names. */
export function environmentOfReport(subject: string): string {
  return textOfSubjectToken(subject.replace('ff.metrics.v1.', ''));
}

/** One subject for each, so that a message that is parked again takes its own place. */
export function parkedSubject({ environment, id }: ParkedReport): string {
  return `${parkedSubjectsOf(environment)}${subjectToken(id)}`;
}

/** What the subjects of all that is parked of an environment begin with. */
export function parkedSubjectsOf(environment: string): string {
  return `ff.parked.v1.${subjectToken(environment)}.`;
}

/** @param time when it was refused */
export function parkedBody(parked: ParkedReport, time: number): string {
  return cloudEvent(PARKED_TYPE, parked.environment, { id: parked.id, time }, parked);
}

/** What is no such message is told as one without a report, so that it hides none of the others. */
export function parkedIn(body: string): ParkedReport {
  try {
    return readParked(body);
  } catch (error) {
    return { id: '', environment: 'unknown', reason: String(error), text: body };
  }
}

function readParked(body: string): ParkedReport {
  const { type, data } = openCloudEvent(body);
  const parked = data as unknown as ParkedReport;
  const complete =
    typeof parked.id === 'string' &&
    typeof parked.environment === 'string' &&
    typeof parked.reason === 'string' &&
    (parked.report === undefined || Array.isArray(parked.report.counts));
  if (!complete || type !== PARKED_TYPE) {
    throw new UnreadableMessage(`${JSON.stringify(type)} is nothing that was parked`);
  }
  return parked;
}

function cloudEvent(type: string, subject: string, { id, time }: Envelope, data: object): string {
  return JSON.stringify({
    specversion: '1.0',
    id,
    source: SOURCE,
    type,
    subject,
    time: new Date(time).toISOString(),
    datacontenttype: 'application/json',
    data,
  });
}

function openCloudEvent(body: string): {
  id: unknown;
  type: string;
  time: unknown;
  data: Record<string, unknown>;
} {
  let event: unknown;
  try {
    event = JSON.parse(body);
  } catch (cause) {
    throw new UnreadableMessage('the body is not JSON', { cause });
  }
  const { specversion, id, type, time, data } = (event ?? {}) as Record<string, unknown>;
  if (specversion !== '1.0' || typeof type !== 'string' || typeof data !== 'object' || data === null) {
    throw new UnreadableMessage('the body is no CloudEvent 1.0 with data');
  }
  return { id, type, time, data: data as Record<string, unknown> };
}

function subjectOf(
  stream: 'facts' | 'changes',
  environment: string,
  kind: string,
  identifier: string,
): string {
  return `ff.${stream}.v1.${subjectToken(environment)}.${kind}.${subjectToken(identifier)}`;
}

/**
 * Any text as one token of a NATS subject: `A-Za-z0-9_-` stay as they are, other characters become `=` and two hex
 * digits for each byte of their UTF-8. Nothing at all becomes `=`.
 */
export function subjectToken(text: string): string {
  if (text === '') return '=';
  return text.replaceAll(/[^A-Za-z0-9_-]/gu, (character) =>
    Array.from(
      new TextEncoder().encode(character),
      (byte) => `=${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    ).join(''),
  );
}

/** The text that subjectToken made this token of. */
export function textOfSubjectToken(token: string): string {
  if (token === '=') return '';
  const bytes: number[] = [];
  for (let at = 0; at < token.length; at++) {
    if (token[at] === '=') bytes.push(Number.parseInt(token.slice(at + 1, (at += 2) + 1), 16));
    else bytes.push(token.charCodeAt(at));
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}
