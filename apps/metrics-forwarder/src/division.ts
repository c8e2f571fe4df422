/**
 * Dividing what the upstream refuses for what it says, to find what of it is refused. One bad entry among n costs about
 * 2 log2 n posts. A half that is refused is halved again at once, down to its end; then it is the turn of the largest piece
 * that waits, so that many bad entries in one place do not hide what is good in others. A batch of which nothing is taken is
 * given up after a while.
 */
import { halvesOf, type MetricsReport } from '#libs/domain';

/** A message, or half of what it says, or half of that. */
export interface Part<Message> {
  readonly message: Message;
  /** That of the message, and which half. */
  readonly id: string;
  readonly report: MetricsReport;
}

/** What is posted at once. */
export type Piece<Message> = readonly Part<Message>[];

/**
 * After so many refusals with nothing taken in between, nothing is divided any more. One bad entry in 1,000 messages of
 * 5,000 gives 23.
 */
export const MOST_REFUSALS = 64;

export class Division<Message> {
  /** The last is the next. */
  private readonly waiting: Piece<Message>[];
  /** Since something was taken. */
  private refusals = 0;
  private isAnyTaken = false;

  constructor(batch: Piece<Message>) {
    this.waiting = [batch];
  }

  /** What to post next. Say what became of it; what has to wait is left to you, with the `rest`. */
  next(): Piece<Message> | undefined {
    return this.waiting.pop();
  }

  wasTaken(): void {
    this.refusals = 0;
    this.isAnyTaken = true;
    this.largestNext();
  }

  /** @returns what is refused for good: nothing if it is divided, and all the rest with it when it is given up */
  wasRefused(piece: Piece<Message>, isAboutContent: boolean): Piece<Message> {
    if (isAboutContent) this.refusals++;
    const isOver = this.refusals >= MOST_REFUSALS;
    const halves = isAboutContent && !isOver ? halvesOfPiece(piece) : [];
    this.waiting.push(...halves);
    if (halves.length > 0) return [];
    this.largestNext();
    return isOver && !this.isAnyTaken ? [...piece, ...this.rest()] : piece;
  }

  /** Takes out all that was not posted. */
  rest(): Piece<Message> {
    return this.waiting.splice(0).flat();
  }

  private largestNext(): void {
    this.waiting.sort((a, b) => sizeOf(a) - sizeOf(b));
  }
}

/** The first half comes last. */
function halvesOfPiece<Message>(piece: Piece<Message>): Piece<Message>[] {
  const [part, ...others] = piece;
  if (!part) return [];
  if (others.length > 0) {
    const half = Math.ceil(piece.length / 2);
    return [piece.slice(half), piece.slice(0, half)];
  }
  const halves = halvesOf(part.report) ?? [];
  return halves.map((report, i) => [{ ...part, id: `${part.id}.${i + 1}`, report }]).toReversed();
}

function sizeOf<Message>(piece: Piece<Message>): number {
  return piece.reduce((sum, { report }) => sum + report.counts.length + report.targets.length, 0);
}
