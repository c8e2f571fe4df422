/**
 * Clauses, compiled. What a clause looks at (an attribute, a group) is a slot: one object for each name, shared by all
 * that use the name, in which the answer for the present call is kept. So a call works out each attribute and each group
 * at most once, however many rules ask. Slots hold names, not contents, and so outlive any change.
 */
import type { Clause } from '#libs/domain';

import { bucketOf } from './bucket.js';
import type { Expressions } from './expression.js';
import { attributeText, folded, isAfter, type Target, wholeText } from './target.js';

/** The evaluation of some flags for one target. */
export interface Call {
  /** Tells this call's answers in slots from those that other calls left there. */
  readonly number: number;
  readonly target: Target;
  /** What the group says of the target. */
  standing(group: GroupSlot): Standing;
}

/** `out`: excluded, which ends a list of groups; `unknown`: the group does not say, the next one may. */
export type Standing = 'in' | 'out' | 'unknown';

export type Condition = (call: Call) => boolean;

export class AttributeSlot {
  private textFor = 0;
  private text = '';
  private foldedFor = 0;
  private foldedText = '';
  private bucketFor = 0;
  private bucket = 0;

  constructor(readonly name: string) {}

  /** Empty if the target does not have it. */
  textIn(call: Call): string {
    if (this.textFor !== call.number) {
      this.text = attributeText(call.target, this.name);
      this.textFor = call.number;
    }
    return this.text;
  }

  foldedIn(call: Call): string {
    if (this.foldedFor !== call.number) {
      this.foldedText = folded(this.textIn(call));
      this.foldedFor = call.number;
    }
    return this.foldedText;
  }

  /** @param otherwise what the target is spread by if it does not have this attribute @returns 0: it has neither */
  bucketIn(call: Call, otherwise: AttributeSlot): number {
    if (this.bucketFor !== call.number) {
      const text = this.textIn(call);
      if (text !== '') this.bucket = bucketOf(this.name, text);
      else this.bucket = this === otherwise ? 0 : otherwise.bucketIn(call, otherwise);
      this.bucketFor = call.number;
    }
    return this.bucket;
  }
}

export class GroupSlot {
  standing: Standing = 'unknown';
  standingFor = 0;

  constructor(readonly identifier: string) {}
}

/** The slots of an environment, by name. They only become more. */
export class Slots {
  private readonly attributes = new Map<string, AttributeSlot>();
  private readonly groups = new Map<string, GroupSlot>();

  get size(): number {
    return this.attributes.size + this.groups.size;
  }

  attribute(name: string): AttributeSlot {
    let slot = this.attributes.get(name);
    if (!slot) this.attributes.set(name, (slot = new AttributeSlot(name)));
    return slot;
  }

  group(identifier: string): GroupSlot {
    let slot = this.groups.get(identifier);
    if (!slot) this.groups.set(identifier, (slot = new GroupSlot(identifier)));
    return slot;
  }
}

/** True if the target is in one of the groups. The first one that has it in or out decides. */
export function inOneOf(groups: readonly GroupSlot[]): Condition {
  return (call) => {
    for (const group of groups) {
      const standing = call.standing(group);
      if (standing !== 'unknown') return standing === 'in';
    }
    return false;
  };
}

/** True if all hold; also if there are none. */
export function allOf(conditions: readonly Condition[]): Condition {
  const [first, ...more] = conditions;
  if (!first) return () => true;
  if (more.length === 0) return first;
  return (call) => {
    for (const condition of conditions) if (!condition(call)) return false;
    return true;
  };
}

/** True if any holds; not if there are none. */
export function anyOf(conditions: readonly Condition[]): Condition {
  return (call) => {
    for (const condition of conditions) if (condition(call)) return true;
    return false;
  };
}

const never: Condition = () => false;

/** No operator holds for an attribute that is missing or empty, and `negate` means nothing, as in every SDK. */
export function conditionOf(clause: Clause, slots: Slots, expressions: Expressions): Condition {
  if (clause.op === 'segmentMatch') return inOneOf(groupsIn(clause, slots));

  const attribute = slots.attribute(clause.attribute);
  const values = valuesOf(clause).map(wholeText);
  const [value] = values;
  if (value === undefined) return never;
  const present: Condition = (call) => attribute.textIn(call) !== '';
  switch (clause.op) {
    case 'equal': {
      const wanted = folded(value);
      return wanted === '' ? never : (call) => attribute.foldedIn(call) === wanted;
    }
    case 'equal_sensitive':
      return value === '' ? never : (call) => attribute.textIn(call) === value;
    case 'in': {
      const wanted = new Set(values.filter((value) => value !== ''));
      return (call) => wanted.has(attribute.textIn(call));
    }
    case 'starts_with':
      return value === '' ? present : (call) => attribute.textIn(call).startsWith(value);
    case 'ends_with':
      return value === '' ? present : (call) => attribute.textIn(call).endsWith(value);
    case 'contains':
      return value === '' ? present : (call) => attribute.textIn(call).includes(value);
    case 'gt':
      return (call) => isAfter(attribute.textIn(call), value);
    case 'match': {
      const matches = expressions.of(value);
      return matches ? (call) => present(call) && matches(attribute.textIn(call)) : never;
    }
    default:
      return never;
  }
}

/** The groups that the clause asks for. */
export function groupsIn(clause: Clause, slots: Slots): GroupSlot[] {
  return clause.op === 'segmentMatch' ? valuesOf(clause).map((group) => slots.group(group)) : [];
}

/** Upstreams may write null for none. */
function valuesOf(clause: Clause): readonly string[] {
  return clause.values ?? [];
}
