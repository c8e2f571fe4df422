/**
 * The flags and groups of an environment, compiled. All that can be known before a target comes is worked out here, down
 * to the answers: evaluating a flag picks one of its answers and makes nothing.
 */
import {
  type EnvironmentState,
  type Flag,
  flagsOf,
  type Segment,
  segmentsOf,
  type Serve,
} from '#libs/domain';

import {
  allOf,
  anyOf,
  type AttributeSlot,
  type Call,
  type Condition,
  conditionOf,
  groupsIn,
  type GroupSlot,
  inOneOf,
  Slots,
  type Standing,
} from './clauses.js';
import { Expressions } from './expression.js';
import { type Target, wholeText } from './target.js';

/**
 * Why a flag serves what it serves. `DISABLED`: it is off, or what it depends on does not serve what it asks for;
 * `TARGETING_MATCH`: the target is listed, or a rule applies; `SPLIT`: by a percentage, of a rule or of the default.
 */
export type Reason = 'DISABLED' | 'TARGETING_MATCH' | 'SPLIT' | 'DEFAULT';

export interface Evaluation {
  readonly flag: string;
  readonly kind: Flag['kind'];
  /** The variation's identifier. */
  readonly variation: string;
  /** The variation's text, untouched. */
  readonly value: string;
  readonly reason: Reason;
}

/** A flag that serves no variation that it has. */
export interface Unanswerable {
  readonly flag: string;
  readonly fault: string;
}

export type Answer = Evaluation | Unanswerable;

export function isAnswered(answer: Answer): answer is Evaluation {
  return !('fault' in answer);
}

/** Slots that nobody uses any more are let go, by compiling all anew, once there may be so many of them. */
const SPARE_SLOTS = 1000;

let calls = 0;

/**
 * The flags and groups of one environment, ready to be evaluated. It never changes, and evaluating never throws. The same
 * answer is the same object as long as its flag is, so what is made of an answer can be kept beside it.
 */
export class Ruleset {
  private constructor(
    private readonly rules: Rules,
    private readonly slots: Slots,
    private readonly slotsAtFirst: number,
  ) {}

  /** @param previous what is the same object in both is taken over compiled, so that a change costs what it touches */
  static of(state: EnvironmentState, previous?: Ruleset): Ruleset {
    if (previous && previous.slots.size > 2 * previous.slotsAtFirst + SPARE_SLOTS) return Ruleset.of(state);
    const slots = previous?.slots ?? new Slots();
    const flags = new Map<string, CompiledFlag>();
    for (const flag of flagsOf(state)) {
      const former = previous?.rules.flags.get(flag.feature);
      flags.set(flag.feature, former?.source === flag ? former : new CompiledFlag(flag, slots));
    }
    const groups = new Map<string, CompiledGroup>();
    for (const group of segmentsOf(state)) {
      const former = previous?.rules.groups.get(group.identifier);
      groups.set(group.identifier, former?.source === group ? former : new CompiledGroup(group, slots));
    }
    return new Ruleset(
      { flags, groups, nested: [...groups.values()].filter(({ asks }) => asks.length > 0) },
      slots,
      previous?.slotsAtFirst ?? slots.size,
    );
  }

  /** @returns undefined if there is no such flag */
  evaluate(flag: string, target: Target): Answer | undefined {
    const found = this.rules.flags.get(flag);
    return found && new Evaluating(this.rules, target).answer(found);
  }

  /** Every flag for one target, by identifier. */
  evaluateAll(target: Target): Answer[] {
    const evaluating = new Evaluating(this.rules, target);
    const answers: Answer[] = [];
    for (const flag of this.rules.flags.values()) answers.push(evaluating.answer(flag));
    return answers;
  }
}

interface Rules {
  readonly flags: ReadonlyMap<string, CompiledFlag>;
  readonly groups: ReadonlyMap<string, CompiledGroup>;
  /** Those that ask for other groups. */
  readonly nested: readonly CompiledGroup[];
}

class Evaluating implements Call {
  readonly number = ++calls;
  private readonly identifier: string;

  constructor(
    private readonly rules: Rules,
    readonly target: Target,
  ) {
    this.identifier = wholeText(target.identifier);
  }

  answer(flag: CompiledFlag): Answer {
    return this.isMet(flag) ? this.served(flag) : flag.off;
  }

  /** What the flag serves if its prerequisites are met. */
  private served(flag: CompiledFlag): Answer {
    if (flag.servedFor !== this.number) {
      flag.served = flag.serve(this, this.identifier);
      flag.servedFor = this.number;
    }
    return flag.served;
  }

  private isMet(flag: CompiledFlag): boolean {
    if (flag.prerequisites.length === 0) return true;
    if (flag.metFor !== this.number) this.settlePrerequisites(flag);
    return flag.met;
  }

  /**
   * Every flag that prerequisites lead to must serve what is asked of it. That is settled for all of them at once, from
   * the failures back to whoever depends on them: in a circle or a long chain too, each flag is looked at once. A
   * prerequisite that is unknown or serves nothing ends the list that it is in.
   */
  private settlePrerequisites(flag: CompiledFlag): void {
    const reached = new Set([flag]);
    const dependents = new Map<CompiledFlag, CompiledFlag[]>();
    const failed = new Set<CompiledFlag>();
    for (const parent of reached) {
      for (const { feature, variations } of parent.prerequisites) {
        const child = this.rules.flags.get(feature);
        const served = child && this.served(child);
        if (!served || !isAnswered(served)) break;
        const known = child.metFor === this.number;
        if (!variations?.includes(served.variation) || (known && !child.met)) {
          failed.add(parent);
          break;
        }
        if (known || child.prerequisites.length === 0) continue;
        reached.add(child);
        const others = dependents.get(child);
        if (others) others.push(parent);
        else dependents.set(child, [parent]);
      }
    }
    for (const child of failed) for (const parent of dependents.get(child) ?? []) failed.add(parent);
    for (const each of reached) {
      each.met = !failed.has(each);
      each.metFor = this.number;
    }
  }

  standing(slot: GroupSlot): Standing {
    if (slot.standingFor !== this.number) {
      const group = this.rules.groups.get(slot.identifier);
      if (group && group.asks.length > 0) this.settleNestedGroups();
      else this.settle(slot, group ? group.standingOf(this, this.identifier) : 'unknown');
    }
    return slot.standing;
  }

  private settle(slot: GroupSlot, standing: Standing): void {
    slot.standing = standing;
    slot.standingFor = this.number;
  }

  /**
   * Groups may ask for groups in circles, or thousands deep. So none is in by its clauses at first, and whenever one gets
   * in, those that ask for it are looked at again: a circle gains nothing by itself.
   */
  private settleNestedGroups(): void {
    const { nested } = this.rules;
    const askers = new Map<GroupSlot, CompiledGroup[]>();
    for (const group of nested) {
      this.settle(group.slot, group.listed(this.identifier));
      for (const asked of group.asks) {
        const others = askers.get(asked);
        if (others) others.push(group);
        else askers.set(asked, [group]);
      }
    }
    const open = [...nested];
    for (const group of open) {
      if (group.slot.standing !== 'unknown' || !group.applies(this)) continue;
      this.settle(group.slot, 'in');
      for (const asker of askers.get(group.slot) ?? []) open.push(asker);
    }
  }
}

class CompiledGroup {
  readonly slot: GroupSlot;
  /** The groups that its clauses ask for. */
  readonly asks: readonly GroupSlot[];
  readonly applies: Condition;
  private readonly included: ReadonlySet<string>;
  private readonly excluded: ReadonlySet<string>;

  constructor(
    readonly source: Segment,
    slots: Slots,
  ) {
    const { identifier, included, excluded, rules, servingRules } = source;
    this.slot = slots.group(identifier);
    this.included = identifiersIn(included);
    this.excluded = identifiersIn(excluded);
    const ways = servingRules?.length
      ? servingRules.map(({ clauses }) => clauses ?? []).filter((clauses) => clauses.length > 0)
      : (rules ?? []).map((clause) => [clause]);
    const expressions = new Expressions();
    this.applies = anyOf(
      ways.map((clauses) => allOf(clauses.map((clause) => conditionOf(clause, slots, expressions)))),
    );
    this.asks = ways.flat().flatMap((clause) => groupsIn(clause, slots));
  }

  /** What its lists say; `unknown` if nothing. */
  listed(identifier: string): Standing {
    if (this.excluded.has(identifier)) return 'out';
    return this.included.has(identifier) ? 'in' : 'unknown';
  }

  standingOf(call: Call, identifier: string): Standing {
    const listed = this.listed(identifier);
    return listed === 'unknown' && this.applies(call) ? 'in' : listed;
  }
}

/** What something serves; undefined if it names no variation. */
type Outcome = (call: Call) => Answer | undefined;

class CompiledFlag {
  readonly prerequisites: NonNullable<Flag['prerequisites']>;
  readonly off: Answer;
  /** What it serves in the call of this number, and whether its prerequisites are met. */
  servedFor = 0;
  served: Answer;
  metFor = 0;
  met = true;

  private readonly isOn: boolean;
  private readonly lists: readonly {
    readonly targets: ReadonlySet<string>;
    readonly inGroups: Condition | undefined;
    readonly answer: Answer | undefined;
  }[];
  private readonly rules: readonly { readonly applies: Condition; readonly outcome: Outcome }[];
  private readonly defaultSplit: Outcome | undefined;
  private readonly defaultAnswer: Answer;

  constructor(
    readonly source: Flag,
    slots: Slots,
  ) {
    const { state, offVariation, defaultServe, rules, prerequisites, variationToTargetMap } = source;
    const answers = new Answers(source);
    const expressions = new Expressions();
    const nothing: Answer = { flag: source.feature, fault: 'it serves no variation' };
    this.isOn = state === 'on';
    this.prerequisites = prerequisites ?? [];
    this.off = answers.of(offVariation, 'DISABLED') ?? nothing;
    this.served = this.off;
    this.lists = (variationToTargetMap ?? []).map(({ variation, targets, targetSegments }) => ({
      targets: identifiersIn(targets?.filter(({ identifier }) => identifier !== '')),
      inGroups: targetSegments?.length
        ? inOneOf(targetSegments.map((group) => slots.group(group)))
        : undefined,
      answer: answers.of(variation, 'TARGETING_MATCH'),
    }));
    this.rules = (rules ?? [])
      .toSorted((a, b) => a.priority - b.priority)
      // One that names no variation at all is passed over; an empty name leads to the default.
      .filter(({ serve }) => serve.distribution || typeof serve.variation === 'string')
      .map(({ clauses, serve }) => {
        const answer = answers.of(serve.variation, 'TARGETING_MATCH');
        return {
          applies: allOf((clauses ?? []).map((clause) => conditionOf(clause, slots, expressions))),
          outcome: splitOf(serve, answers, slots) ?? (() => answer),
        };
      });
    this.defaultSplit = splitOf(defaultServe, answers, slots);
    this.defaultAnswer = answers.of(defaultServe.variation, 'DEFAULT') ?? nothing;
  }

  serve(call: Call, identifier: string): Answer {
    if (!this.isOn) return this.off;
    return (
      this.byList(call, identifier) ?? this.byRule(call) ?? this.defaultSplit?.(call) ?? this.defaultAnswer
    );
  }

  private byList(call: Call, identifier: string): Answer | undefined {
    for (const { targets, inGroups, answer } of this.lists) {
      if (targets.has(identifier) || inGroups?.(call)) return answer;
    }
    return undefined;
  }

  private byRule(call: Call): Answer | undefined {
    for (const { applies, outcome } of this.rules) if (applies(call)) return outcome(call);
    return undefined;
  }
}

/** The answers that a flag can give, each made once. */
class Answers {
  private readonly made = new Map<string, Answer>();

  constructor(private readonly flag: Flag) {}

  of(identifier: string | null | undefined, reason: Reason): Answer | undefined {
    if (!identifier) return undefined;
    const key = `${reason} ${identifier}`;
    let answer = this.made.get(key);
    if (!answer) this.made.set(key, (answer = this.make(identifier, reason)));
    return answer;
  }

  private make(identifier: string, reason: Reason): Answer {
    const { feature: flag, kind, variations } = this.flag;
    const variation = variations.find((variation) => variation.identifier === identifier);
    if (!variation) return { flag, fault: `it serves the variation ${identifier}, which it does not have` };
    return { flag, kind, variation: identifier, value: variation.value, reason };
  }
}

function splitOf({ distribution }: Serve, answers: Answers, slots: Slots): Outcome | undefined {
  if (!distribution) return undefined;
  let sum = 0;
  const shares = distribution.variations.map(({ variation, weight }) => ({
    upTo: (sum += weight),
    answer: answers.of(variation, 'SPLIT'),
  }));
  const last = shares.at(-1)?.answer;
  const attribute: AttributeSlot = slots.attribute(distribution.bucketBy);
  const identifier = slots.attribute('identifier');
  return (call) => {
    const bucket = attribute.bucketIn(call, identifier);
    if (bucket > 0) for (const { upTo, answer } of shares) if (bucket <= upTo) return answer;
    return last;
  };
}

function identifiersIn(targets: Segment['included']): ReadonlySet<string> {
  return new Set(targets?.map(({ identifier }) => wholeText(identifier)));
}
