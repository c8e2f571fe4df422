import { createHash } from 'node:crypto';

import type { Position } from '#libs/domain';

/**
 * What one write may hold of several events: less than a TCP segment takes (1,460 bytes, somewhat less in tunnels). An
 * event that arrives in two pieces ends the process of whoever runs the Node SDK.
 */
const MOST_BYTES_TOGETHER = 1200;

export interface StreamEvent {
  /** JSON on one line. */
  readonly data: string;
  /** Where its notice stands; undefined for what no notice told. */
  readonly position: Position | undefined;
  /** When its fact was written, if it is told as soon as it is known. */
  readonly factTime?: number | undefined;
}

/** Bytes for a stream, as they are written. */
interface Writes {
  /** With the frame of HTTP/1.1's chunked encoding. */
  readonly framed: readonly Buffer[];
  /** For HTTP/1.0, which has none. */
  readonly plain: readonly Buffer[];
}

/** Who reads a stream: a Harness SDK, or an OpenFeature provider, which is told only that it should ask again. */
export type Reader = 'harness' | 'openfeature';

/** An empty comment: the only heartbeat that every SDK takes for one. */
export const HEARTBEAT: Writes = writesOf([':\n\n']);

/**
 * Events that come together, made ready once for all streams. Each is a chunk of its own, since some SDKs read each
 * chunk by itself; several chunks share a write, since a write costs the same whatever it holds.
 */
export class EventBatch {
  private readonly madeWithIds: Partial<Record<Reader, Writes>> = {};
  private readonly madeWithoutIds: Partial<Record<Reader, Writes>> = {};

  constructor(readonly events: readonly StreamEvent[]) {}

  withIds(reader: Reader): Writes {
    return (this.madeWithIds[reader] ??= writesOf(textsFor(reader, this.events)));
  }

  /** For a stream that is still to be told of something earlier: an id would say that it was. */
  withoutIds(reader: Reader): Writes {
    return (this.madeWithoutIds[reader] ??= writesOf(
      textsFor(
        reader,
        this.events.map(({ data }) => ({ data, position: undefined })),
      ),
    ));
  }
}

function textsFor(reader: Reader, events: readonly StreamEvent[]): string[] {
  if (reader === 'harness') return events.map(({ data, position }) => eventText('*', data, position));
  // Whatever changed, they ask for all of it, once.
  const last = events.findLast(({ position }) => position) ?? events.at(-1);
  return last ? [eventText('message', REFETCH, last.position)] : [];
}

const REFETCH = JSON.stringify({ type: 'refetchEvaluation' });

function eventText(event: string, data: string, position: Position | undefined): string {
  // Exactly one blank after `data:`, and nothing else on that line: Java reads from the seventh character.
  return `event: ${event}\n${position ? `id: ${eventId(position)}\n` : ''}data: ${data}\n\n`;
}

function writesOf(texts: readonly string[]): Writes {
  const plain = texts.map((text) => Buffer.from(text));
  const framed = plain.map((bytes) =>
    Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]),
  );
  return { plain: together(plain), framed: together(framed) };
}

function together(chunks: readonly Buffer[]): readonly Buffer[] {
  const writes: Buffer[] = [];
  let gathered: Buffer[] = [];
  let bytes = 0;
  for (const chunk of chunks) {
    if (bytes > 0 && bytes + chunk.length > MOST_BYTES_TOGETHER) {
      writes.push(Buffer.concat(gathered));
      [gathered, bytes] = [[], 0];
    }
    gathered.push(chunk);
    bytes += chunk.length;
  }
  if (bytes > 0) writes.push(Buffer.concat(gathered));
  return writes;
}

/** The id of an event: of which log, and where in it. */
export interface EventId {
  readonly log: string;
  readonly sequence: number;
}

function eventId({ epoch, sequence }: Position): string {
  return `${logName(epoch)}.${sequence}`;
}

/** The id in a `Last-Event-ID`; undefined if it is none of ours. */
export function eventIdIn(text: string | undefined): EventId | undefined {
  const [, log, digits] = /^([\w-]{8})\.(\d{1,15})$/.exec(text ?? '') ?? [];
  return log === undefined ? undefined : { log, sequence: Number(digits) };
}

/** A short name of a log: epochs may be long, and each event says it. */
export function logName(epoch: string): string {
  let name = names.get(epoch);
  if (!name) names.set(epoch, (name = createHash('sha256').update(epoch).digest('base64url').slice(0, 8)));
  return name;
}
/** One for each log that this process has seen, which are few. */
const names = new Map<string, string>();
