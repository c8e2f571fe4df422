import { apiKeysOf, byIdentifier, type EnvironmentState, flagsOf, segmentsOf } from '#libs/domain';
import type { Past } from '#libs/projection';

/** The environments that there were, by id. */
export function environmentsIn({ fold }: Past): EnvironmentState[] {
  return [...fold.states.values()]
    .filter(({ exists }) => exists)
    .toSorted((a, b) => byIdentifier(a.id, b.id));
}

/** A past state as JSON, piece by piece, each entity on a line of its own so that two states can be compared by line. */
export function* stateJson(past: Past): Iterable<string> {
  const { fold, time, forgotten } = past;
  yield '{';
  yield `\n  "position": ${JSON.stringify(fold.position)},`;
  yield `\n  "time": ${JSON.stringify(time === undefined ? null : new Date(time).toISOString())},`;
  yield `\n  "complete": ${fold.complete},`;
  yield* list(
    '  ',
    'unknown',
    forgotten.map((name) => JSON.stringify(name)),
  );
  yield ',\n  "environments": [';
  for (const [i, state] of environmentsIn(past).entries()) {
    yield `${i === 0 ? '' : ','}\n    {\n      "id": ${JSON.stringify(state.id)},`;
    yield `\n      "account": ${JSON.stringify(state.account ?? null)},`;
    yield* list('      ', 'flags', jsonOf(flagsOf(state)));
    yield ',';
    yield* list('      ', 'segments', jsonOf(segmentsOf(state)));
    yield ',';
    yield* list('      ', 'apiKeys', jsonOf(apiKeysOf(state)));
    yield '\n    }';
  }
  yield '\n  ]\n}\n';
}

function* jsonOf(values: readonly unknown[]): Iterable<string> {
  for (const value of values) yield JSON.stringify(value);
}

function* list(indent: string, name: string, texts: Iterable<string>): Iterable<string> {
  yield `\n${indent}"${name}": [`;
  let comma = '';
  for (const text of texts) {
    yield `${comma}\n${indent}  ${text}`;
    comma = ',';
  }
  yield comma ? `\n${indent}]` : ']';
}
