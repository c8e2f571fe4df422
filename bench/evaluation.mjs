/**
 * Evaluations of 200 flags with 10 rules each, over 20 groups, for one target: ours beside the evaluator of the Harness
 * Node SDK, which reads the same flags from a Map. Every rule has one clause, and few apply, so both look at all of them.
 */
import { availableParallelism } from 'node:os';

import { Client } from '@harnessio/ff-nodejs-server-sdk';

import { fold, unknownEnvironment } from '#libs/domain';
import { Ruleset } from '#libs/evaluation';

import { medians } from './measure.mjs';

const FLAGS = 200;
const RULES = 10;
const GROUPS = 20;
const target = {
  identifier: 'user-4711',
  name: 'Ann Smith',
  attributes: {
    email: 'ann@example.com',
    plan: 'pro',
    country: 'NL',
    version: '2.13.0',
    seats: 25,
    beta: false,
  },
};

const worlds = { '50 members a group': worldOf(50), '10,000 members a group': worldOf(10_000) };
const contestants = {};
const evaluated = {};
for (const [name, world] of Object.entries(worlds)) {
  const ours = Ruleset.of(world.state);
  const theirs = sdkEvaluator(world);
  await agree(ours, theirs);
  contest(`ours, ${name}`, 2000, () => ours.evaluateAll(target));
  contest(`Node SDK, ${name}`, name.startsWith('50') ? 60 : 4, () => theirs());
}
const ruleset = Ruleset.of(worlds['50 members a group'].state);
contest('ours, compiled anew each time', 40, () =>
  Ruleset.of(worlds['50 members a group'].state).evaluateAll(target),
);
contest('ours, after a change of one flag', 400, () =>
  Ruleset.of(worlds['50 members a group'].changed, ruleset).evaluateAll(target),
);

const times = await medians(contestants, 7);
console.log(`\nMedians of 7 interleaved rounds, Node ${process.version}, ${availableParallelism()} cores\n`);
const perSecond = (name) => (evaluated[name] * FLAGS) / (times[name].cpuMs / 1000);
for (const name of Object.keys(contestants)) {
  const rate = Math.round(perSecond(name)).toLocaleString('en').padStart(12);
  console.log(`${name.padEnd(34)} ${rate} flags per CPU second`);
}
console.log();
for (const name of Object.keys(worlds)) {
  const ratio = perSecond(`ours, ${name}`) / perSecond(`Node SDK, ${name}`);
  console.log(`${`ours, ${name}`.padEnd(34)} ${ratio.toFixed(1).padStart(12)} × Node SDK`);
}

/** @param times how often in one round */
function contest(name, times, work) {
  evaluated[name] = times;
  contestants[name] = {
    work: async () => {
      for (let i = 0; i < times; i++) {
        const answers = work();
        if ((answers instanceof Promise ? await answers : answers).length !== FLAGS) throw new Error(name);
      }
    },
  };
}

async function agree(ours, theirs) {
  const [a, b] = [ours.evaluateAll(target), await theirs()];
  const differences = a.filter(({ variation }, i) => variation !== b[i].identifier);
  if (differences.length > 0) throw new Error(`they disagree on ${JSON.stringify(differences)}`);
}

/** The SDK without a key asks nobody for anything; its evaluator is real. @returns what it makes of all flags */
function sdkEvaluator({ flags, segments }) {
  const kept = new Map(
    structuredClone([
      ...flags.map((flag) => [`flags/${flag.feature}`, flag]),
      ...segments.map((segment) => [`segments/${segment.identifier}`, segment]),
    ]),
  );
  const silent = () => {};
  const logger = { trace: silent, debug: silent, info: silent, warn: silent, error: silent };
  const { evaluator } = new Client('', { cache: kept, store: undefined, logger });
  return async () => {
    const answers = [];
    for (const { feature, kind } of flags) answers.push(await evaluator.evaluate(feature, target, kind));
    return answers;
  };
}

function worldOf(members) {
  const segments = Array.from({ length: GROUPS }, (_, i) => ({
    identifier: `group-${i}`,
    name: `Group ${i}`,
    included: Array.from({ length: members }, (_, n) => ({
      identifier: `member-${i}-${n}`,
      name: `Member ${n}`,
    })),
    excluded: [],
    rules: [
      clause('email', 'ends_with', `@department-${i}.example.com`),
      clause('plan', 'in', 'free', 'trial', `plan-${i}`),
      clause('country', 'equal', 'be'),
    ],
    version: 1,
  }));
  const flags = Array.from({ length: FLAGS }, (_, i) => ({
    feature: `flag-${String(i).padStart(3, '0')}`,
    project: 'bench',
    environment: 'dev',
    kind: 'string',
    state: 'on',
    variations: ['a', 'b', 'c'].map((identifier) => ({ identifier, value: `value of ${identifier}` })),
    offVariation: 'a',
    defaultServe: i % 4 === 0 ? split('email', 20, 30, 50) : { variation: 'a' },
    rules: Array.from({ length: RULES }, (_, n) => ({
      priority: n,
      clauses: [ruleClause(i, n)],
      serve: n % 3 === 0 ? split('identifier', 10, 40, 50) : { variation: 'bc'[n % 2] },
    })),
    prerequisites: i > 0 && i % 10 === 0 ? [{ feature: 'flag-001', variations: ['a', 'b', 'c'] }] : [],
    variationToTargetMap: [
      { variation: 'b', targets: [{ identifier: `user-${i}`, name: 'someone' }], targetSegments: [] },
    ],
    version: 1,
  }));
  const facts = [
    { type: 'EnvironmentAdded', environment: 'dev', account: 'bench' },
    ...segments.map((segment) => ({ type: 'SegmentPublished', environment: 'dev', segment })),
    ...flags.map((flag) => ({ type: 'FlagPublished', environment: 'dev', flag })),
  ].map((fact, i) => ({ fact, sequence: i + 1 }));
  const state = fold(unknownEnvironment('dev'), facts);
  const change = { type: 'FlagPublished', environment: 'dev', flag: { ...flags[7], version: 2 } };
  const changed = fold(state, [{ fact: change, sequence: facts.length + 1 }]);
  return { flags, segments, state, changed };
}

function clause(attribute, op, ...values) {
  return { id: '', attribute, op, values, negate: false };
}

function ruleClause(flag, n) {
  switch ((flag + n) % 6) {
    case 0:
      return clause('email', 'equal', `User-${flag}@Example.com`);
    case 1:
      return clause('', 'segmentMatch', `group-${(flag + n) % GROUPS}`, `group-${(flag * 3 + n) % GROUPS}`);
    case 2:
      return clause('plan', 'in', 'free', 'trial', `plan-${flag}`);
    case 3:
      return clause('version', 'starts_with', `3.${n}`);
    case 4:
      // A few apply.
      return clause('country', 'equal_sensitive', flag % 40 === 0 ? 'NL' : 'BE');
    default:
      return clause('name', 'contains', `Jones ${n}`);
  }
}

function split(bucketBy, ...weights) {
  const variations = weights.map((weight, i) => ({ variation: 'abc'[i], weight }));
  return { distribution: { bucketBy, variations } };
}
