import { createHash, randomUUID } from 'node:crypto';

import type { Command } from 'commander';
import { z } from 'zod';

import { type Bundle, type BundleEnvironment, BundleError, readBundle } from '#libs/bundle';
import { readSettings, RelayConfig, type SettingNote } from '#libs/config';

import { withControlPlane } from './control-plane-process.js';
import { CommandFailed, counted, reasonOf, UsageError } from './outcome.js';
import { addressIn, argument } from './argument.js';

const EXAMPLES = `
Examples:
  ff-relay import --from ./config --into ./control-plane-data
  ADMIN_TOKEN=… ff-relay import --from ./config --into http://localhost:7100

Environments keep their ids, flags their versions, and SDKs their keys. With PROXY_KEY set, relays keep theirs too: point
CLIENT_SERVICE and METRIC_SERVICE at the control plane. Without it, a new proxy key is made and shown once.`;

/** What Harness calls the organization that everybody has. */
const ORGANIZATION = 'default';
const ACCOUNT = 'default';
const IMPORT_TYPE = 'application/vnd.ff-relay.bundle+json';
const TIMEOUT_MS = 300_000;

const ADMIN_TOKEN = z
  .string()
  .regex(/^[\x21-\x7e]+$/)
  .optional()
  .meta({
    description: 'what the control plane asks for',
    expected: 'its ADMIN_TOKEN',
    secret: true,
  } satisfies SettingNote);

interface Options {
  readonly from: string;
  readonly into: string;
  readonly account?: string;
  readonly organization: string;
  readonly replace?: boolean;
}

export function addImport(program: Command): void {
  program
    .command('import')
    .summary('load a bundle into a control plane')
    .description(
      'Makes a control plane the upstream of what a bundle holds: all of it or nothing. The bundle may be of ff-relay\n' +
        'export or of a Go relay.',
    )
    .requiredOption('--from <folder>', 'the bundle')
    .requiredOption(
      '--into <target>',
      'the address of a control plane, or the DATA_DIR of one that does not run; it is made if it is not there',
      argument(targetIn),
    )
    .option('--account <identifier>', 'the account to put it into; without it, the one that the bundle names')
    .option('--organization <identifier>', 'the organization, which no bundle names', ORGANIZATION)
    .option('--replace', 'make environments that are there already as the bundle has them')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

/** What `--into` names. Throws an Error that says what to write. */
export function targetIn(text: string): string {
  if (text === '') throw new Error('it is empty');
  return isAddress(text) ? addressIn(text, '--into', 'http://localhost:7100') : text;
}

function isAddress(target: string): boolean {
  return /^https?:/i.test(target);
}

async function run({ from, into, account, organization, replace = false }: Options): Promise<void> {
  const givenKey = new RelayConfig(process.env, []).givenProxyKey;
  const bundle = await readBundle(from).catch((error: unknown) => {
    if (error instanceof BundleError) throw new CommandFailed(`${error.message}.`, { cause: error });
    throw error;
  });
  const proxyKey = givenKey ?? randomUUID();
  const hash = createHash('sha256').update(proxyKey).digest('hex');
  const body = JSON.stringify({
    account: account ?? accountOf(bundle),
    organization,
    proxyKey: { identifier: `relay-${hash.slice(0, 16)}`, hash, isNew: givenKey === undefined },
    replace,
    environments: bundle.environments.map(describe),
  });
  const { proxyKeyAdded } = isAddress(into)
    ? await post(into, readSettings({ ADMIN_TOKEN }, process.env).ADMIN_TOKEN ?? 'ff-relay', body, replace)
    : await withControlPlane(into, (url, token) => post(url, token, body, replace));
  const sum = (list: 'flags' | 'segments' | 'apiKeys') =>
    bundle.environments.reduce((total, environment) => total + environment[list].length, 0);
  const contents = [
    counted(bundle.environments.length, 'environment'),
    counted(sum('flags'), 'flag'),
    counted(sum('segments'), 'target group'),
    counted(sum('apiKeys'), 'SDK key'),
  ].join(', ');
  console.log(`Imported ${contents} into ${into}`);
  if (givenKey === undefined && proxyKeyAdded)
    console.log(`The proxy key for relays, which is not kept and not shown again: ${proxyKey}`);
}

function accountOf({ environments }: Bundle): string {
  const accounts = new Set(environments.flatMap(({ account }) => account || []));
  if (accounts.size > 1)
    throw new UsageError(
      `The bundle names several accounts (${[...accounts].join(', ')}): choose one with --account.`,
    );
  return [...accounts][0] ?? ACCOUNT;
}

/** The names of an environment and its project are only told by its flags; without any, its project stays what it is. */
function describe({ id, flags, segments, apiKeys }: BundleEnvironment) {
  const [flag] = flags;
  return {
    id,
    ...(flag?.project && { project: flag.project }),
    identifier: flag?.environment || id,
    flags,
    segments,
    apiKeys,
  };
}

const ANSWER = z.object({ proxyKeyAdded: z.boolean() });
const REFUSAL = z.object({ message: z.string() });

async function post(
  url: string,
  token: string,
  body: string,
  replaces: boolean,
): Promise<z.infer<typeof ANSWER>> {
  let response: Response;
  let answer: unknown;
  try {
    response = await fetch(`${url}/gateway/cf/admin/import`, {
      method: 'POST',
      headers: { 'content-type': IMPORT_TYPE, 'x-api-key': token },
      body,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = await response.json().catch(() => undefined);
  } catch (error) {
    const { cause } = error as Error;
    throw new CommandFailed(
      `${url} was not reached (${reasonOf(cause ?? error)}). Check that the control plane runs there.`,
      { cause: error },
    );
  }
  const read = ANSWER.safeParse(answer);
  if (response.ok && read.success) return read.data;
  const { message = `it answered ${response.status}` } = REFUSAL.safeParse(answer).data ?? {};
  const advice =
    adviceFor(response.status, replaces) ?? 'Check that it is the address of a control plane of this version';
  throw new CommandFailed(`Nothing was imported: ${message}. ${advice}.`);
}

function adviceFor(status: number, replaces: boolean): string | undefined {
  if (status === 401) return 'Set ADMIN_TOKEN to the one that the control plane has';
  if (status === 403) return 'Call this where the control plane runs, or set its ADMIN_TOKEN, here and there';
  if (status !== 409) return undefined;
  return replaces
    ? 'Check --account and --organization, or import into another DATA_DIR'
    : 'To make what is there as the bundle has it, add --replace; else import into another DATA_DIR';
}
