import { byIdentifier } from '#libs/domain';
import {
  type Backoff,
  backoffMs,
  type CheckedList,
  type FetchedConfig,
  pause,
  type SaasClient,
  type Session,
  UnusableAnswer,
  UpstreamRefusal,
} from '#libs/saas-client';

import type { BundleEnvironment } from './bundle.js';
import { writeBundle } from './bundle-directory.js';

const TRIES = 5;
const UNTOLD: CheckedList<string> = { items: [], faults: ['the upstream does not tell them'] };

export interface Generated {
  readonly environments: readonly BundleEnvironment[];
  /** What the upstream told and nobody can use, each with its reason. */
  readonly leftOut: readonly string[];
}

/**
 * Writes what the upstream says now as a bundle, which replaces one that is there unless that is not wanted.
 *
 * Throws BundleError, or what the upstream failed with at the last of some tries.
 *
 * @param partial whether it may be written without the SDK keys of an environment that the upstream does not tell: who
 * serves it then refuses all of them
 */
export async function generateBundle(
  saas: SaasClient,
  directory: string,
  signal: AbortSignal,
  {
    replaces = true,
    partial = false,
    now = Date.now,
    backoff = backoffMs,
  }: { replaces?: boolean; partial?: boolean; now?: () => number; backoff?: Backoff } = {},
): Promise<Generated> {
  const generated = await readUpstream(saas, signal, partial, backoff);
  const { environments, leftOut } = generated;
  const time = new Date(now()).toISOString();
  const complete = leftOut.length === 0;
  const origin = { source: 'upstream', position: null, time, writtenAt: time, complete, leftOut } as const;
  await writeBundle(directory, environments, origin, { replaces });
  return generated;
}

async function readUpstream(
  saas: SaasClient,
  signal: AbortSignal,
  partial: boolean,
  backoff: Backoff,
): Promise<Generated> {
  for (let failures = 1; ; failures++) {
    try {
      return await readAccount(saas, await saas.authenticate(signal), signal, partial);
    } catch (error) {
      const isFinal = error instanceof UpstreamRefusal && error.status < 500 && error.status !== 429;
      if (isFinal || failures === TRIES || signal.aborted) throw error;
      const asked = error instanceof UpstreamRefusal ? error.retryAfterMs : undefined;
      await pause(backoff(failures, Math.random(), asked), signal);
    }
  }
}

/** Reads all pages once. Throws UnusableAnswer for an answer that is not complete and consistent. */
async function readAccount(
  saas: SaasClient,
  session: Session,
  signal: AbortSignal,
  partial: boolean,
): Promise<Generated> {
  const environments = new Map<string, BundleEnvironment>();
  const leftOut: string[] = [];
  let itemCount: number | undefined;
  for await (const page of saas.configPages(session, signal)) {
    itemCount ??= page.itemCount;
    if (page.itemCount !== itemCount) throw new UnusableAnswer('the configuration changed while it was read');
    for (const config of page.environments) {
      if (environments.has(config.id)) throw new UnusableAnswer(`environment ${config.id} is on two pages`);
      if (!config.apiKeys && !partial)
        throw new UnusableAnswer(`the upstream does not tell the SDK keys of environment ${config.id}`);
      environments.set(config.id, await environmentIn(config, saas, session, signal, leftOut));
    }
  }
  if (environments.size === 0 || environments.size !== itemCount)
    throw new UnusableAnswer(
      `the configuration lists ${environments.size} of ${itemCount ?? 0} environments`,
    );
  return { environments: [...environments.values()].toSorted((a, b) => byIdentifier(a.id, b.id)), leftOut };
}

/** With the lists that the account left out. */
async function environmentIn(
  config: FetchedConfig,
  saas: SaasClient,
  session: Session,
  signal: AbortSignal,
  leftOut: string[],
): Promise<BundleEnvironment> {
  const { id } = config;
  const usable = <Item>(
    kind: string,
    { items, faults }: CheckedList<Item>,
    nameOf: (item: Item) => string,
  ): readonly Item[] => {
    leftOut.push(...faults.map((fault) => `${kind} of ${id}: ${fault}`));
    return items.toSorted((a, b) => byIdentifier(nameOf(a), nameOf(b)));
  };
  return {
    id,
    account: session.account,
    flags: usable('flags', config.flags ?? (await saas.flags(session, id, signal)), (flag) => flag.feature),
    segments: usable(
      'target groups',
      config.segments ?? (await saas.segments(session, id, signal)),
      ({ identifier }) => identifier,
    ),
    apiKeys: usable('SDK keys', config.apiKeys ?? UNTOLD, (key) => key),
  };
}
