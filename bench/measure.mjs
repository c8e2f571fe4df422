/** Measures what is done side by side: rounds are interleaved, so that a noisy machine is noisy to all. */

/** @returns {Promise<{ wallMs: number; cpuMs: number }>} */
async function timed(work) {
  globalThis.gc?.();
  const [wall, cpu] = [performance.now(), process.cpuUsage()];
  await work();
  const { user, system } = process.cpuUsage(cpu);
  return { wallMs: performance.now() - wall, cpuMs: (user + system) / 1000 };
}

/**
 * @param {Record<string, { before?: () => Promise<unknown>; work: () => Promise<unknown> }>} contestants
 * @returns the median of each, after one round that does not count
 */
export async function medians(contestants, rounds = 5) {
  const times = Object.fromEntries(Object.keys(contestants).map((name) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const [name, { before, work }] of Object.entries(contestants)) {
      await before?.();
      const time = await timed(work);
      if (round > 0) times[name].push(time);
    }
  }
  const middle = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
  return Object.fromEntries(
    Object.entries(times).map(([name, all]) => [
      name,
      { wallMs: middle(all.map(({ wallMs }) => wallMs)), cpuMs: middle(all.map(({ cpuMs }) => cpuMs)) },
    ]),
  );
}

/** The most memory that the process held while it worked, over what it held before, in MB. */
export async function peakMemory(work) {
  globalThis.gc?.();
  const base = process.memoryUsage().rss;
  let peak = base;
  const look = () => void (peak = Math.max(peak, process.memoryUsage().rss));
  const looking = setInterval(look, 10);
  const result = await work();
  look();
  clearInterval(looking);
  return { peakMb: (peak - base) / 1e6, result };
}
