import type { Command } from 'commander';

import { RelayConfig } from '#libs/config';

import { addressIn, argument } from './argument.js';
import { CommandFailed, reasonOf } from './outcome.js';
import { type Status, statusIn, statusLines } from './status-report.js';
import { paintFor, print } from './terminal.js';

const ANSWER_MS = 5000;

const managementUrl = argument((text) =>
  addressIn(text, '--url', 'http://127.0.0.1:7080').replace(/\/+status$/, ''),
);

const EXAMPLES = `
Examples:
  ff-relay status
  ff-relay status --url http://gateway-1:7080 --url http://gateway-2:7080
  ff-relay status --json | jq '.[0].status.ingestor.upstream'

Ends with 0 if all are ready, and else with 1.`;

interface Options {
  readonly url?: readonly string[];
  readonly json?: true;
}

type Answer =
  | { readonly url: string; readonly document: unknown; readonly status: Status }
  | { readonly url: string; readonly failure: string };

export function addStatus(program: Command): void {
  program
    .command('status')
    .summary('say how a running relay does')
    .description('Asks a relay that runs, on its management port, how it does: what is wrong comes first.')
    .option(
      '--url <address...>',
      'where its management port is; without it, MANAGEMENT_PORT on this machine',
      (text: string, before: readonly string[] | undefined) => [...(before ?? []), managementUrl(text)],
    )
    .option('--json', 'what each process says, as one JSON list')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ url, json }: Options): Promise<void> {
  const addresses = url ?? [`http://127.0.0.1:${new RelayConfig(process.env, []).managementPort}`];
  const answers = await Promise.all(addresses.map(ask));
  if (json) print(jsonOf(answers));
  else print(textOf(answers));
  const silent = answers.filter((answer) => 'failure' in answer);
  if (silent.length > 0) {
    throw new CommandFailed(
      `${silent.map(({ url, failure }) => `${url}: ${failure}`).join('; ')}. Check that it runs, and its MANAGEMENT_HOST and MANAGEMENT_PORT.`,
    );
  }
  if (answers.some((answer) => 'status' in answer && !answer.status.ready)) process.exitCode = 1;
}

async function ask(url: string): Promise<Answer> {
  try {
    const response = await fetch(`${url}/status`, { signal: AbortSignal.timeout(ANSWER_MS) });
    if (!response.ok) return { url, failure: `/status is answered with ${response.status}` };
    const document: unknown = await response.json();
    return { url, document, status: statusIn(document) };
  } catch (error) {
    const { cause } = error as Error;
    return { url, failure: reasonOf(cause instanceof Error && cause.message ? cause : error) };
  }
}

function jsonOf(answers: readonly Answer[]): string {
  const documents = answers.map((answer) =>
    'failure' in answer ? answer : { url: answer.url, status: answer.document },
  );
  return JSON.stringify(documents, undefined, 2);
}

function textOf(answers: readonly Answer[]): string {
  const paint = paintFor(process.stdout);
  return answers
    .map((answer) =>
      'failure' in answer
        ? `${paint('bold', answer.url)}  ${paint('red', 'no answer')}`
        : statusLines(answer.url, answer.status, Date.now(), paint).join('\n'),
    )
    .join('\n\n');
}
