import { SingleBar } from 'cli-progress';

const LINE_EVERY_MS = 3000;

type Shown = (done: number, of: number) => void;

interface Progress {
  readonly at: Shown;
  readonly end: () => void;
}

/** Shows on stderr how far some work has come. */
export async function showingProgress<T>(work: string, run: (at: Shown) => Promise<T>): Promise<T> {
  const progress = progressOn(process.stderr, work);
  try {
    return await run(progress.at);
  } finally {
    progress.end();
  }
}

/** Shows how far work has come: as a bar on a terminal, elsewhere as a line every few seconds. */
export function progressOn(
  stream: NodeJS.WritableStream & { readonly isTTY?: boolean },
  work: string,
  now: () => number = () => performance.now(),
): Progress {
  return stream.isTTY ? barOn(stream, work) : linesOn(stream, work, now);
}

function barOn(stream: NodeJS.WritableStream, work: string): Progress {
  const bar = new SingleBar({
    stream,
    format: `${work} {bar} {percentage} % ({value} of {total}), {eta_formatted} left`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    clearOnComplete: true,
    gracefulExit: false,
  });
  return {
    at: (done, of) => (bar.isActive ? bar.update(done) : bar.start(of, done)),
    end: () => bar.stop(),
  };
}

function linesOn(stream: NodeJS.WritableStream, work: string, now: () => number): Progress {
  let said = now();
  return {
    at: (done, of) => {
      if (now() - said < LINE_EVERY_MS) return;
      said = now();
      stream.write(`${work}: ${Math.floor((100 * done) / of)} % (${done} of ${of})\n`);
    },
    end: () => undefined,
  };
}
