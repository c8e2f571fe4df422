/** What a process answers to Prometheus: its series, and the type of each metric that it has. */
export interface Scrape {
  readonly types: ReadonlyMap<string, string>;
  readonly series: readonly Series[];
}

export interface Series {
  /** Of the metric: without the endings of a histogram's series. */
  readonly metric: string;
  readonly line: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** @param url of the server that answers /metrics */
export async function scrape(url: string): Promise<Scrape> {
  const response = await fetch(`${url}/metrics`);
  if (response.status !== 200) throw new Error(`/metrics answered ${response.status}`);
  return scrapeIn(await response.text());
}

function scrapeIn(page: string): Scrape {
  const types = new Map<string, string>();
  const series: Series[] = [];
  for (const line of page.split('\n')) {
    const [, named = '', type = ''] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? [];
    if (named) types.set(named, type);
    if (line === '' || line.startsWith('#')) continue;
    const [, name = '', pairs = '', value = ''] = /^([\w:]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (!name) throw new Error(`this is no series: ${line}`);
    const metric = types.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '');
    if (!types.has(metric)) throw new Error(`nothing was said about ${line}`);
    const labels = [...pairs.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label = '', text = '']) => [
      label,
      text,
    ]);
    series.push({ metric, line, labels: Object.fromEntries(labels), value: Number(value) });
  }
  return { types, series };
}

/** The value of the first series that has these labels among its own; undefined if there is none. */
export function valueOf(
  { series }: Scrape,
  metric: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const wanted = Object.entries(labels);
  return series.find(
    (each) => each.metric === metric && wanted.every(([name, value]) => each.labels[name] === value),
  )?.value;
}
