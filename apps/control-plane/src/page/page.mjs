// Shows what the admin API says, and says nothing that it did not: a switch moves at once, but stays only where the
// next read puts it. Every hint of a change leads to the same thing, a new read of the environments concerned; so does
// a connection that comes back. All text is set as text, never as HTML.

const API = '/gateway/cf/admin';
const TOKEN = 'control-plane-admin-token';
const PAGE_SIZE = 500;
const ANSWER_TIMEOUT_MS = 10_000;
/** The server sends something every 10 s. */
const SILENCE_MS = 25_000;
const LONGEST_WAIT_MS = 10_000;
/** Reports may come at any pace; the charts are read no more often. */
const COUNTS_PAUSE_MS = 2_000;
/** Variations with a colour of their own; the others share one. */
const COLOURS = 4;

const byId = (id) => document.getElementById(id);

/** The project that is shown, as the admin API's query parameters. */
let scope = {};
/** [{ id, identifier, name, type }] */
let environments = [];
/** Environment identifier → flag identifier → the admin API's feature with its `envProperties`. */
const known = new Map();
/** Environment identifier → `{ from, to, flags }`, with flags by identifier → the admin API's series of each variation. */
const counted = new Map();
/** Switches on their way, by `pendingKey` → the state they go to. */
const pending = new Map();
/** Flag identifier → its row on the page. */
const rows = new Map();

// ---- The admin API

async function request(path, { method = 'GET', query = {}, body, signal } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const response = await fetch(`${API}${path}?${new URLSearchParams({ ...scope, ...query })}`, {
      method,
      // Any text will do where no token is asked for. The header keeps other sites out: they cannot send it.
      headers: { 'x-api-key': token ?? 'page', ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
      signal: signal ?? AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    });
    if (response.ok) return response;
    if (response.status !== 401) throw new Error(await reasonIn(response));
    if (sessionStorage.getItem(TOKEN) === token) await askForToken(token !== null);
  }
}

async function reasonIn(response) {
  try {
    return String((await response.json()).message);
  } catch {
    return `the control plane answered ${response.status}`;
  }
}

const reasonOf = (error) =>
  error instanceof TypeError || error.name === 'TimeoutError'
    ? 'the control plane does not answer'
    : error.message;

async function everyPage(path, query, itemsIn) {
  const items = [];
  for (let pageNumber = 0; ; pageNumber++) {
    const page = await (await request(path, { query: { ...query, pageNumber, pageSize: PAGE_SIZE } })).json();
    const paging = page.data ?? page;
    items.push(...itemsIn(paging));
    if (pageNumber + 1 >= paging.pageCount) return items;
  }
}

/** Open while the user is asked for a token; several callers share one question. */
let question;

/** Resolves once the user gave a token. */
function askForToken(wasRefused) {
  sessionStorage.removeItem(TOKEN);
  if (!question) {
    question = Promise.withResolvers();
    byId('token').value = '';
    byId('token-fault').textContent = wasRefused ? 'That token was not accepted.' : '';
    byId('token-dialog').showModal();
  }
  return question.promise;
}

byId('token-form').addEventListener('submit', () => {
  sessionStorage.setItem(TOKEN, byId('token').value);
  question.resolve();
  question = undefined;
});
byId('token-dialog').addEventListener('cancel', (event) => event.preventDefault());

// ---- Reading, and staying up to date

const unread = new Set();
let reading;

/** Reads these environments anew and shows them. Calls meanwhile share the work, and see what came after them. */
function read(identifiers) {
  for (const identifier of identifiers) unread.add(identifier);
  reading ??= readAll().finally(() => {
    reading = undefined;
  });
  return reading;
}

async function readAll() {
  while (unread.size > 0) {
    const batch = [...unread];
    unread.clear();
    await Promise.all(batch.map(readEnvironment));
    show();
  }
}

async function readEnvironment(environmentIdentifier) {
  const features = await everyPage('/features', { environmentIdentifier }, (page) => page.features);
  known.set(environmentIdentifier, new Map(features.map((feature) => [feature.identifier, feature])));
}

const uncounted = new Set();
let counting;

/**
 * Reads what was counted in these environments and shows it. Without the charts the page is still of use: what fails is
 * tried again at the next message, or half a minute later.
 */
function readCounts(identifiers) {
  for (const identifier of identifiers) uncounted.add(identifier);
  counting ??= readAllCounts().finally(() => {
    counting = undefined;
  });
}

async function readAllCounts() {
  while (uncounted.size > 0 && !document.hidden) {
    const batch = [...uncounted];
    uncounted.clear();
    const results = await Promise.allSettled(batch.map(readCountsOf));
    results.forEach(({ status }, index) => status === 'rejected' && uncounted.add(batch[index]));
    show();
    if (results.some(({ status }) => status === 'rejected')) return;
    await pause(COUNTS_PAUSE_MS);
  }
}

async function readCountsOf(environmentIdentifier) {
  let range;
  const series = await everyPage('/metrics', { environmentIdentifier }, (page) => {
    range = page;
    return page.series;
  });
  counted.set(environmentIdentifier, {
    from: range.from,
    to: range.to,
    flags: Map.groupBy(series, ({ flag }) => flag),
  });
}

async function readEverything() {
  scope = {};
  const projects = await everyPage('/projects', {}, (page) => page.projects);
  const scopes = projects.map(({ accountIdentifier, orgIdentifier, identifier }) => ({
    accountIdentifier,
    orgIdentifier,
    projectIdentifier: identifier,
  }));
  const chosen = Math.max(
    0,
    scopes.findIndex((each) => `?${new URLSearchParams(each)}` === location.search),
  );
  offer(projects, scopes, chosen);
  if (projects.length === 0) {
    layOut([]);
    show();
    return;
  }
  scope = scopes[chosen];
  const found = await everyPage('/environments', {}, (page) => page.environments);
  if (JSON.stringify(found) !== JSON.stringify(environments)) layOut(found);
  const identifiers = environments.map(({ identifier }) => identifier);
  await read(identifiers);
  readCounts(identifiers);
}

/** Follows the server's messages until the connection ends, in whatever way. Opens before it reads: nothing is missed. */
async function follow(connection) {
  let watchdog;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => connection.abort(), SILENCE_MS);
  };
  try {
    heard();
    const response = await request('/events', { signal: connection.signal });
    await readEverything();
    showLink('live', 'Live');
    let rest = '';
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      heard();
      const frames = (rest + text).split('\n\n');
      rest = frames.pop();
      const messages = frames.flatMap((frame) => /^data: ?(.*)$/m.exec(frame)?.[1] ?? []);
      if (messages.length > 0)
        hear(messages.map((message) => JSON.parse(message))).catch(() => connection.abort());
    }
  } finally {
    clearTimeout(watchdog);
    connection.abort();
  }
}

/** Reads what the messages are about; everything, where they name an environment that is not shown. */
async function hear(messages) {
  const concerned = ({ environment }) => environments.find(({ id }) => id === environment)?.identifier;
  const [counts, changes] = [true, false].map((areCounts) =>
    messages.filter(({ domain }) => (domain === 'metrics') === areCounts).map(concerned),
  );
  if ([...counts, ...changes].includes(undefined)) return readEverything();
  if (changes.length > 0) await read(changes);
  if (counts.length > 0) readCounts(counts);
}

async function stayConnected() {
  for (let wait = 250; ;) {
    await visible();
    const connection = new AbortController();
    // Browsers allow six connections to a server: a tab that nobody sees must not hold one.
    const rest = () => document.hidden && connection.abort();
    document.addEventListener('visibilitychange', rest);
    try {
      const started = performance.now();
      await follow(connection).catch(() => undefined);
      if (performance.now() - started > LONGEST_WAIT_MS) wait = 250;
    } finally {
      document.removeEventListener('visibilitychange', rest);
    }
    if (document.hidden) continue;
    showLink('lost', `Connection lost${lastRead()}. Trying again…`);
    await pause(wait * (0.5 + Math.random() / 2));
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

async function visible() {
  while (document.hidden) {
    await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }));
  }
}

/** Waits, but not once the network is said to be back. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener('online', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    addEventListener('online', done);
  });
}

let readAt;
const lastRead = () => (readAt ? `, shown as of ${readAt.toLocaleTimeString()}` : '');

function showLink(state, text) {
  const link = byId('link');
  link.dataset.state = state;
  if (link.textContent !== text) link.textContent = text;
  byId('board').toggleAttribute('data-stale', state === 'lost');
}

// ---- Switching

const pendingKey = (flag, environment) => `${environment}/${flag}`;

async function toggle(flag, environment) {
  const key = pendingKey(flag, environment);
  const before = known.get(environment)?.get(flag)?.envProperties.state;
  if (pending.has(key) || !before) return;
  const state = before === 'on' ? 'off' : 'on';
  pending.set(key, state);
  byId('toast').hidden = true;
  show();
  try {
    await request(`/features/${encodeURIComponent(flag)}`, {
      method: 'PATCH',
      query: { environmentIdentifier: environment },
      body: { instructions: [{ kind: 'setFeatureFlagState', parameters: { state } }] },
    });
    byId('news').textContent = `${flag} is now ${state} in ${environment}`;
  } catch (error) {
    complain(`${flag} could not be turned ${state} in ${environment}: ${reasonOf(error)}.`);
  }
  // After a failure too: the change may have been made and only its answer lost.
  await read([environment]).catch(() => undefined);
  pending.delete(key);
  show();
}

function complain(text) {
  byId('toast-text').textContent = text;
  byId('toast').hidden = false;
}

// ---- Showing

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes the text of an element only when it differs, so that screen readers and selections are left alone. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Starts the table over, with a column per environment. */
/** Each project has its own address, so that nothing of one is on its way when another is shown. */
function offer(projects, scopes, chosen) {
  const isChoice = projects.length > 1;
  byId('project').hidden = isChoice;
  byId('project').textContent = projects.length === 1 ? `Project ${projects[0].name}` : '';
  const select = byId('projects');
  select.hidden = !isChoice;
  const offered = JSON.stringify(scopes);
  if (select.dataset.offered === offered) return;
  select.dataset.offered = offered;
  select.replaceChildren(
    ...projects.map(({ name, accountIdentifier }, index) =>
      element(
        'option',
        { value: String(new URLSearchParams(scopes[index])) },
        `${name} (${accountIdentifier})`,
      ),
    ),
  );
  select.selectedIndex = chosen;
}
byId('projects').addEventListener('change', ({ target }) => {
  location.search = target.value;
});

function layOut(found) {
  environments = found;
  rows.clear();
  known.clear();
  counted.clear();
  byId('rows').replaceChildren();
  byId('head').replaceChildren(
    element('th', { scope: 'col', role: 'columnheader' }, 'Flag'),
    ...environments.map(({ identifier, name }) => {
      const heading = element('th', { scope: 'col', role: 'columnheader' }, element('b', {}, name), ' ');
      heading.append(element('code', { class: 'quiet' }, identifier));
      return heading;
    }),
  );
}

const inOrder = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function show() {
  const isFirst = rows.size === 0;
  const flags = [...new Set([...known.values()].flatMap((features) => [...features.keys()]))].toSorted(
    inOrder,
  );
  for (const [identifier, row] of rows) {
    if (flags.includes(identifier)) continue;
    row.element.remove();
    rows.delete(identifier);
  }
  let before = null;
  for (const identifier of flags.toReversed()) {
    const isNew = !rows.has(identifier);
    if (isNew) rows.set(identifier, makeRow(identifier));
    const row = rows.get(identifier);
    showRow(identifier, row, !isFirst);
    // A row that stands where it should is not moved: moving takes the focus away.
    if (row.element.parentNode === null || row.element.nextSibling !== before) {
      byId('rows').insertBefore(row.element, before);
    }
    before = row.element;
  }
  readAt = new Date();
  search();
}

function makeRow(identifier) {
  const row = {
    name: element('span'),
    kind: element('span', { class: 'kind' }),
    identifier: element('code', { class: 'identifier' }, identifier),
    description: element('p', { class: 'description' }),
    cells: new Map(
      environments.map((environment) => [environment.identifier, makeCell(identifier, environment)]),
    ),
  };
  row.element = element(
    'tr',
    { role: 'row' },
    element(
      'th',
      { scope: 'row', role: 'rowheader' },
      element('div', { class: 'name' }, row.name, ' ', row.kind),
      row.identifier,
      row.description,
    ),
    ...[...row.cells.values()].map((cell) => cell.element),
  );
  return row;
}

function makeCell(flag, environment) {
  const cell = {
    switch: element('button', {
      type: 'button',
      role: 'switch',
      class: 'switch',
      'aria-label': `${flag} in ${environment.identifier}`,
    }),
    onLabel: element('span', { class: 'when' }, 'On'),
    onValue: element('span', { class: 'what' }),
    offLabel: element('span', { class: 'when' }, 'Off'),
    offValue: element('span', { class: 'what' }),
    hints: element('ul', { class: 'hints', 'aria-label': 'Targeting' }),
    version: element('span'),
    time: element('time'),
    chart: makeChart(`${flag} in ${environment.identifier}`),
  };
  cell.switch.addEventListener('click', () => void toggle(flag, environment.identifier));
  cell.body = element(
    'div',
    { class: 'cell' },
    element('span', { class: 'place' }, environment.name),
    cell.switch,
    element('div', { class: 'served' }, cell.onLabel, cell.onValue, cell.offLabel, cell.offValue),
    cell.hints,
    element('p', { class: 'changed' }, cell.version, cell.time),
    cell.chart.element,
  );
  cell.element = element('td', { role: 'cell' }, cell.body);
  return cell;
}

function showRow(identifier, row, highlight) {
  for (const [environment, cell] of row.cells) {
    const feature = known.get(environment)?.get(identifier);
    cell.body.hidden = !feature?.envProperties;
    row.feature = feature ?? row.feature;
    if (feature?.envProperties) {
      showCell(cell, feature, pending.get(pendingKey(identifier, environment)), highlight);
      showChart(cell.chart, feature, counted.get(environment));
    }
  }
  setText(row.name, row.feature.name);
  setText(row.kind, row.feature.kind);
  setText(row.description, row.feature.description ?? '');
}

function showCell(cell, feature, stateOnItsWay, highlight) {
  const { state, version, modifiedAt, defaultServe, offVariation } = feature.envProperties;
  const isOn = (stateOnItsWay ?? state) === 'on';
  cell.switch.setAttribute('aria-checked', String(isOn));
  cell.switch.setAttribute('aria-busy', String(stateOnItsWay !== undefined));
  cell.body.classList.toggle('off', !isOn);
  for (const node of [cell.onLabel, cell.onValue]) node.classList.toggle('now', isOn);
  for (const node of [cell.offLabel, cell.offValue]) node.classList.toggle('now', !isOn);

  // Other fields may change without a new version, when a flag is deleted and made again between two reads.
  const content = JSON.stringify(feature);
  if (content === cell.content) return;
  cell.onValue.replaceChildren(...served(feature, defaultServe));
  cell.offValue.replaceChildren(value(feature, offVariation));
  cell.hints.replaceChildren(...hints(feature).map((hint) => element('li', {}, hint)));
  setText(cell.version, `Version ${version}, changed `);
  cell.time.dateTime = new Date(modifiedAt).toISOString();
  cell.time.title = new Date(modifiedAt).toLocaleString();
  setText(cell.time, ago(modifiedAt));
  if (highlight) {
    cell.element.classList.remove('fresh');
    void cell.element.offsetWidth; // Lets the animation start over.
    cell.element.classList.add('fresh');
  }
  cell.content = content;
}

// ---- Charts: how often each variation was served, hour by hour

const CHART = { width: 240, height: 32 };
const HOUR_MS = 3_600_000;

function makeChart(where) {
  const id = `chart-${crypto.randomUUID()}`;
  const svg = svgElement('svg', {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`,
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-labelledby': `${id}-title`,
    'aria-describedby': `${id}-text`,
  });
  const title = svgElement('title', { id: `${id}-title` });
  title.textContent = `Evaluations of ${where}, hour by hour`;
  const chart = {
    title,
    svg,
    sum: element('span'),
    legend: element('ul', { class: 'legend', 'aria-label': `Variations of ${where}` }),
    text: element('p', { id: `${id}-text`, class: 'hearable' }),
  };
  chart.element = element(
    'div',
    { class: 'chart', hidden: '' },
    svg,
    element('div', { class: 'counted' }, chart.sum, chart.legend),
    chart.text,
  );
  return chart;
}

function svgElement(tag, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function showChart(chart, feature, counts) {
  chart.element.hidden = !counts;
  if (!counts) return;
  const series = counts.flags.get(feature.identifier) ?? [];
  const content = JSON.stringify([counts.from, counts.to, series, feature.variations]);
  if (content === chart.content) return;
  chart.content = content;

  const hours = Math.round((counts.to - counts.from) / HOUR_MS);
  const parts = partsOf(feature, series, counts, hours);
  const sums = Array.from({ length: hours }, (_, hour) =>
    parts.reduce((sum, { perHour }) => sum + perHour[hour], 0),
  );
  const total = parts.reduce((sum, part) => sum + part.total, 0);
  const lastAccess = Math.max(...series.map((each) => each.lastAccess));
  chart.svg.toggleAttribute('hidden', total === 0);
  chart.svg.replaceChildren(chart.title, ...bars(parts, sums));
  if (total === 0) {
    const last = series.length === 0 ? '' : `, last ${ago(lastAccess)}`;
    setText(chart.sum, `No evaluations in ${hours} h${last}`);
    chart.legend.replaceChildren();
    setText(chart.text, '');
    return;
  }
  setText(chart.sum, `${brief.format(total)} ${total === 1 ? 'evaluation' : 'evaluations'} in ${hours} h`);
  chart.legend.replaceChildren(
    ...parts.map((part) =>
      element(
        'li',
        { title: `${part.name}: ${exact.format(part.total)}` },
        element('i', { class: part.colour, 'aria-hidden': 'true' }),
        element('span', {}, part.name),
        ` ${share(part.total, total)}`,
      ),
    ),
  );
  const most = sums.indexOf(Math.max(...sums));
  const busiest = new Date(counts.from + most * HOUR_MS).toLocaleString();
  setText(
    chart.text,
    `${parts.map((part) => `${part.name}: ${exact.format(part.total)}`).join(', ')}. ` +
      `Most in the hour from ${busiest}: ${exact.format(sums[most])}.`,
  );
}

/** What was served, variation by variation in the flag's order; those without a colour of their own together. */
function partsOf(feature, series, { from }, hours) {
  const parts = new Map();
  for (const { variation, counts, total } of series) {
    const index = feature.variations.findIndex(({ identifier }) => identifier === variation);
    const isOwn = index >= 0 && index < COLOURS;
    const key = isOwn ? index : COLOURS;
    const part = parts.get(key) ?? {
      name: isOwn ? feature.variations[index].name || variation : 'others',
      colour: isOwn ? `v${index}` : 'others',
      total: 0,
      perHour: Array.from({ length: hours }, () => 0),
    };
    part.total += total;
    for (const { time, count } of counts) part.perHour[Math.round((time - from) / HOUR_MS)] += count;
    parts.set(key, part);
  }
  return [...parts]
    .toSorted(([a], [b]) => a - b)
    .map(([, part]) => part)
    .filter(({ total }) => total > 0);
}

/** A line to stand on, and stacked bars: one path for each variation, whatever the number of hours. */
function bars(parts, sums) {
  const step = CHART.width / sums.length;
  const ground = CHART.height - 1;
  const highest = Math.max(...sums);
  // One evaluation beside thousands is still to be seen.
  const heights = sums.map((sum) => (sum === 0 ? 0 : Math.max(2, (sum / highest) * ground)));
  const tops = sums.map(() => ground);
  const line = svgElement('path', { class: 'ground', d: `M0 ${ground + 0.5}H${CHART.width}` });
  const paths = parts.map(({ colour, perHour }) => {
    const bar = (count, hour) => {
      if (count === 0) return '';
      const height = (count / sums[hour]) * heights[hour];
      tops[hour] -= height;
      const left = hour * step + step * 0.1;
      return `M${rounded(left)} ${rounded(tops[hour])}h${rounded(step * 0.8)}v${rounded(height)}h-${rounded(step * 0.8)}z`;
    };
    return svgElement('path', { class: colour, d: perHour.map(bar).join('') });
  });
  return [line, ...paths];
}

const rounded = (number) => Math.round(number * 100) / 100;
const brief = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat('en');

function share(part, total) {
  const percent = (part / total) * 100;
  if (percent < 1) return '< 1 %';
  if (percent > 99 && percent < 100) return '> 99 %';
  return `${Math.round(percent)} %`;
}

function served(feature, { variation, distribution }) {
  if (!distribution) return [value(feature, variation)];
  return distribution.variations.map((part) =>
    element('span', { class: 'share' }, `${part.weight} % → `, value(feature, part.variation)),
  );
}

/** A variation by its value; of JSON, which is long, by its name. */
function value(feature, identifier) {
  const variation = feature.variations.find((each) => each.identifier === identifier);
  const text = variation?.value ?? identifier;
  const shown = feature.kind === 'json' ? variation?.name || identifier : text;
  const tag = feature.kind === 'string' || feature.kind === 'json' ? 'span' : 'code';
  return element(tag, { class: 'value', title: text }, feature.kind === 'string' ? `“${shown}”` : shown);
}

/** Who gets something else than the default, in a few words each. */
function hints({ prerequisites, envProperties: { rules, variationMap } }) {
  const needed = prerequisites.map(
    ({ feature, variations }) => `needs ${feature}: ${variations.join(' or ')}`,
  );
  const mapped = variationMap.map(({ variation, targets, targetSegments }) => {
    const who = [
      ...(targets?.length ? [numberOf(targets.length, 'target')] : []),
      ...(targetSegments ?? []).map((group) => `group ${group}`),
    ];
    return `${who.join(', ')} → ${variation}`;
  });
  const ruled = rules.slice(0, 3).map(({ clauses, serve }) => {
    const conditions = clauses.map(({ attribute, op, values }) =>
      op === 'segmentMatch'
        ? `group ${values.join(', ')}`
        : `${attribute} ${op.replaceAll('_', ' ')} ${values.join(', ')}`,
    );
    return `${conditions.join(' and ')} → ${serve.variation ?? 'split'}`;
  });
  const more = rules.length > 3 ? [numberOf(rules.length - 3, 'more rule')] : [];
  return [...needed, ...mapped, ...ruled, ...more];
}

const numberOf = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

function ago(milliseconds) {
  const minutes = Math.round((milliseconds - Date.now()) / 60_000);
  if (minutes > -1) return 'just now';
  if (minutes > -60) return relative.format(minutes, 'minute');
  if (minutes > -60 * 24) return relative.format(Math.round(minutes / 60), 'hour');
  return relative.format(Math.round(minutes / 60 / 24), 'day');
}

/** Shows the rows that have every word of the search text. */
function search() {
  const text = byId('search').value.trim();
  const words = text.toLowerCase().split(/\s+/);
  let found = 0;
  for (const [identifier, { element: row, feature }] of rows) {
    const about = [identifier, feature.name, feature.kind, feature.description ?? ''].join(' ').toLowerCase();
    row.hidden = !words.every((word) => about.includes(word));
    if (!row.hidden) found++;
  }
  byId('board').hidden = found === 0;
  byId('none').hidden = rows.size > 0;
  byId('nomatch').hidden = rows.size === 0 || found > 0;
  setText(byId('nomatch-text'), `No flag matches “${text}”`);
  setText(
    byId('count'),
    found === rows.size ? numberOf(found, 'flag') : `${found} of ${numberOf(rows.size, 'flag')}`,
  );
}

byId('search').addEventListener('input', search);
byId('clear').addEventListener('click', () => {
  byId('search').value = '';
  search();
  byId('search').focus();
});
byId('toast-close').addEventListener('click', () => {
  byId('toast').hidden = true;
});
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  byId('search').focus();
});
setInterval(() => {
  // What could not be read, and whatever has become older by an hour.
  const hour = Math.floor(Date.now() / HOUR_MS) * HOUR_MS;
  readCounts([...counted].filter(([, { to }]) => to <= hour).map(([identifier]) => identifier));
  for (const { cells } of rows.values()) {
    for (const { time } of cells.values()) if (time.dateTime) setText(time, ago(Date.parse(time.dateTime)));
  }
}, 30_000);

await stayConnected();
