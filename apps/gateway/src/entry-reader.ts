/**
 * Reads a large JSON object of lists as it arrives, and holds no more of it than one portion. Bytes are looked at only
 * for where an entry of a list ends; the entries that a portion completes are parsed together, by JSON.parse. What stands
 * outside of the lists is kept and parsed at the end, so that the whole is accepted if and only if it is JSON.
 */
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN = { list: 0x5b, object: 0x7b };
const CLOSE = { list: 0x5d, object: 0x7d };

const PORTION_BYTES = 64 * 1024;
/** An entry that is longer is left out; one is that comes up to a portion above it, by how it is cut. */
const MOST_ENTRY_BYTES = 128 * 1024;
const MOST_OUTSIDE_BYTES = 64 * 1024;
const MOST_LISTS = 100;

/** It is not JSON, or not an object whose bulk are lists. */
export class UnreadableBody extends Error {
  override readonly name = 'UnreadableBody';
}

export class EntryReader {
  /** Entries that were left out for their length. */
  tooLong = 0;
  private depth = 0;
  private inString = false;
  private isEscaped = false;
  /** Whether what is read is an object; undefined before its first bracket. */
  private isObject: boolean | undefined;
  /** The name of the list that is being read; empty for one that nobody asked for. */
  private list: string | undefined;
  private lists = 0;
  /** Whether an entry of the list has to follow. */
  private isOpenEnded = false;
  /** The entry of the list that is not complete yet, unless it is too long. */
  private begun: Buffer[] = [];
  private begunBytes = 0;
  private readonly outside: Buffer[] = [];
  private outsideBytes = 0;

  /** @param take is given the entries of the lists of those names, some at a time, in their order */
  constructor(
    private readonly names: readonly string[],
    private readonly take: (list: string, entries: readonly unknown[]) => void,
  ) {}

  /** Throws UnreadableBody. */
  write(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += PORTION_BYTES)
      this.readPortion(bytes.subarray(at, at + PORTION_BYTES));
  }

  /** What was read, with its lists empty. Throws UnreadableBody. */
  end(): unknown {
    return parsed(Buffer.concat(this.outside).toString());
  }

  private readPortion(bytes: Buffer): void {
    /** Where begins what is not dealt with yet, and the last comma between entries. */
    let from = 0;
    let comma: number | undefined;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at];
      if (this.inString) {
        if (this.isEscaped) this.isEscaped = false;
        else if (byte === BACKSLASH) this.isEscaped = true;
        else if (byte === QUOTE) this.inString = false;
        continue;
      }
      if (byte === QUOTE) this.inString = true;
      else if (byte === COMMA && this.list !== undefined && this.depth === 2) {
        if (this.begunBytes > MOST_ENTRY_BYTES) {
          this.leaveOut();
          from = at + 1;
        } else comma = at;
        this.isOpenEnded = true;
      } else if (byte === OPEN.object || byte === OPEN.list) {
        this.isObject ??= byte === OPEN.object;
        if (++this.depth === 2 && byte === OPEN.list && this.isObject) {
          this.keep(bytes.subarray(from, at + 1));
          this.enter();
          from = at + 1;
        }
      } else if (byte === CLOSE.object || byte === CLOSE.list) {
        if (--this.depth < 0)
          throw new UnreadableBody('the body is not JSON (a bracket closes what is not open)');
        if (this.depth === 1 && this.list !== undefined) {
          this.leave(bytes.subarray(from, at));
          from = at;
          comma = undefined;
        }
      }
    }
    if (this.list === undefined) this.keep(bytes.subarray(from));
    else if (comma === undefined) this.begin(bytes.subarray(from));
    else {
      this.read(bytes.subarray(from, comma));
      this.begin(bytes.subarray(comma + 1));
    }
  }

  private enter(): void {
    if (++this.lists > MOST_LISTS) throw new UnreadableBody(`the body has more than ${MOST_LISTS} lists`);
    const before = Buffer.concat(this.outside).toString().slice(0, -1).trimEnd();
    const named = before.endsWith(':') ? before.slice(0, -1).trimEnd() : '';
    this.list =
      this.names.find((name) => named.endsWith(`"${name}"`) && !named.endsWith(`\\"${name}"`)) ?? '';
    this.isOpenEnded = false;
  }

  private leave(rest: Buffer): void {
    if (this.begunBytes > MOST_ENTRY_BYTES) this.leaveOut();
    else if (this.isOpenEnded || this.begunBytes > 0 || rest.length > 0) this.read(rest, !this.isOpenEnded);
    this.list = undefined;
  }

  /** @param mayBeBlank that a list is empty is no fault */
  private read(rest: Buffer, mayBeBlank = false): void {
    const text = Buffer.concat([...this.begun, rest]).toString();
    this.begun = [];
    this.begunBytes = 0;
    if (text.trim() !== '') {
      const entries = parsed(`[${text}]`) as readonly unknown[];
      if (this.list) this.take(this.list, entries);
    } else if (!mayBeBlank) throw new UnreadableBody('the body is not JSON (an entry of a list is missing)');
  }

  private begin(bytes: Buffer): void {
    this.begunBytes += bytes.length;
    if (this.begunBytes > MOST_ENTRY_BYTES) this.begun = [];
    // A copy, so that the portion that it came in can go.
    else if (bytes.length > 0) this.begun.push(Buffer.from(bytes));
  }

  private leaveOut(): void {
    if (this.list) this.tooLong++;
    this.begunBytes = 0;
  }

  private keep(bytes: Buffer): void {
    this.outsideBytes += bytes.length;
    if (this.outsideBytes > MOST_OUTSIDE_BYTES)
      throw new UnreadableBody(`the body has more than ${MOST_OUTSIDE_BYTES} bytes beside its lists`);
    this.outside.push(Buffer.from(bytes));
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UnreadableBody(`the body is not JSON (${String(error)})`, { cause: error });
  }
}
