import type { EnvironmentState, Flag, Segment } from '#libs/domain';
import { flagsOf } from '#libs/domain';

import type { Change, ChangedKind, FieldChange } from './changes.js';
import { type Paint, printable } from './terminal.js';

/** What kinds are called here. */
const WORDS: Record<ChangedKind, string> = {
  environment: 'environment',
  flag: 'flag',
  segment: 'group',
  apikey: 'key',
};
const STYLES = { added: 'green', removed: 'red', changed: 'yellow', published: 'cyan' } as const;
const SIGNS = { added: '+', removed: '-', changed: '~', published: '=' } as const;
const WIDEST_VERB = 'published'.length;
/** Of a hash of an SDK key. */
const KEY_CHARACTERS = 12;
/** What is longer stands on a line of its own, cut to where it differs. */
const SHORT = 40;
const LONG = 100;

/** `~ flag dark-mode  v1 → v2`. @param width of the column of names */
export function entryOf(change: Change, width: number, paint: Paint): string {
  const about = aboutOf(change);
  const name = `${SIGNS[change.change]} ${about ? nameOf(change).padEnd(width) : nameOf(change)}`;
  return [paint(STYLES[change.change], name), ...(about ? [paint('dim', about)] : [])].join('  ');
}

/** `changed    v1 → v2`. */
export function outcomeOf(change: Change, paint: Paint): string {
  const about = aboutOf(change);
  if (!about) return paint(STYLES[change.change], change.change);
  return `${paint(STYLES[change.change], change.change.padEnd(WIDEST_VERB))}  ${paint('dim', about)}`;
}

export function nameOf({ kind, identifier }: Pick<Change, 'kind' | 'identifier'>): string {
  if (kind === 'environment') return WORDS[kind];
  const name = kind === 'apikey' ? `${identifier.slice(0, KEY_CHARACTERS)}…` : identifier;
  return `${WORDS[kind]} ${printable(name)}`;
}

function aboutOf({ kind, before, after }: Change): string {
  if (kind === 'environment' || kind === 'apikey') return '';
  const [old, next] = [before, after] as (Flag | Segment | undefined)[];
  const versions = [old, next].flatMap((of) => (of ? [`v${of.version ?? 0}`] : []));
  const only = next && !old ? next : undefined;
  const what = only && 'feature' in only ? [only.kind, only.state] : [];
  return [...what, versions.join(' → ')].join(', ');
}

/** The fields that changed, a line or more each, their names in a column. The version stands with the entity. */
export function fieldLines(fields: readonly FieldChange[], paint: Paint): readonly string[] {
  const shown = fields.filter(({ path }) => path !== 'version');
  const paths = shown.map(({ path }) => printable(path));
  const width = Math.max(0, ...paths.map(({ length }) => length));
  return shown.flatMap((field, i) => {
    const path = paint('dim', (paths[i] ?? '').padEnd(width));
    const [first = '', ...more] = valueLines(field, paint);
    return [`${path}  ${first}`, ...more.map((line) => `${' '.repeat(width)}  ${line}`)];
  });
}

function valueLines(field: FieldChange, paint: Paint): readonly string[] {
  const isIn = { before: 'before' in field, after: 'after' in field };
  const [before, after] = excerpts(textOf(field.before), textOf(field.after));
  if (!isIn.before) return [paint('green', `+ ${excerpts('', textOf(field.after))[1]}`)];
  if (!isIn.after) return [paint('red', `- ${excerpts(textOf(field.before), '')[0]}`)];
  if (before.length <= SHORT && after.length <= SHORT)
    return [`${paint('red', before)} → ${paint('green', after)}`];
  return [paint('red', `- ${before}`), paint('green', `+ ${after}`)];
}

/** Plain words as they are, all else as JSON. */
function textOf(value: unknown): string {
  if (typeof value === 'string' && /^[\w.:/@+-]+$/.test(value)) return value;
  return printable(JSON.stringify(value) ?? 'nothing');
}

/** Both texts, cut to where they differ if they are long. */
function excerpts(before: string, after: string): readonly [string, string] {
  if (before.length <= LONG && after.length <= LONG) return [before, after];
  let same = 0;
  while (same < before.length && before[same] === after[same]) same++;
  const from = Math.max(0, same - 20);
  const cut = (text: string) => {
    const end = from + LONG;
    return `${from > 0 ? '…' : ''}${text.slice(from, end)}${end < text.length ? '…' : ''}`;
  };
  return [cut(before), cut(after)];
}

/** What people call environments: by the identifier that their flags have, with the project if others have the same. */
export class EnvironmentNames {
  private readonly told = new Map<string, { readonly project: string; readonly name: string }>();
  /** Every one that the log knows, with whether it is there now. */
  private readonly exists = new Map<string, boolean>();

  constructor(states: Iterable<EnvironmentState> = []) {
    for (const state of states) {
      this.exists.set(state.id, state.exists);
      for (const flag of flagsOf(state).slice(0, 1)) this.learn(state.id, flag);
    }
  }

  learn(id: string, { project, environment: name }: Flag): void {
    this.told.set(id, { project, name });
  }

  /** The shortest that is of no other; the UUID, if there is none. */
  of(id: string): string {
    const own = this.told.get(id);
    if (!own) return printable(id);
    const [name, full] = [own.name, `${own.project}/${own.name}`];
    const short = [name, full].find((candidate) => this.matching(candidate).length === 1);
    return printable(short ?? id);
  }

  /** The environments that may be meant; one that was removed is known by its UUID only. */
  matching(text: string): readonly string[] {
    if (this.exists.has(text)) return [text];
    return [...this.told].flatMap(([id, { project, name }]) =>
      id === text || name === text || `${project}/${name}` === text ? [id] : [],
    );
  }

  /** Of those that are there now. */
  present(): readonly string[] {
    return [...this.exists].flatMap(([id, exists]) => (exists ? [this.of(id)] : []));
  }
}
