import type { Command } from 'commander';

import { RelayConfig } from '#libs/config';
import { type Again, compare, foldLog, leadOn, rebuild } from '#libs/projection';

import { CommandFailed, counted, reasonOf, UsageError } from './outcome.js';
import { showingProgress } from './progress.js';
import { openStore, withLog } from './services.js';

/** How far a projector may be behind the log while it works. */
const PROJECTOR_LAG_MS = 3000;
/** A burst of changes is over by then, or leaves a moment to compare. */
const GIVE_UP_AFTER_MS = 60_000;

const EXAMPLES = `
Examples:
  ff-relay rebuild --dry-run   say what differs, and change nothing
  ff-relay rebuild             make it right`;

export function addRebuild(program: Command): void {
  program
    .command('rebuild')
    .summary('make the state in Redis what the log says')
    .description(
      'Compares every environment in Redis with the log, replaces those that differ, each in one step, and removes ' +
        'keys that the log does not know. Projector and gateways go on meanwhile. What agrees is not touched.',
    )
    .option('--dry-run', 'only compare; keys that are left over show only when they are removed')
    .addHelpText('after', EXAMPLES)
    .action(run);
}

async function run({ dryRun }: { readonly dryRun?: true }): Promise<void> {
  const config = new RelayConfig(process.env, []);
  if (config.natsUrl === undefined || config.redis === undefined) {
    throw new UsageError(
      'There is nothing to rebuild without NATS_URL and REDIS_ADDRESS: a relay in one process rebuilds its memory at ' +
        'every start. For a service set, set both as its projector has them.',
    );
  }
  await withLog(config, async (log) => {
    const fold = await foldLog(log);
    if (!fold.decided) {
      throw new CommandFailed(
        'The log does not hold the whole account yet, and a rebuild would remove what it lacks: start the ingestor ' +
          'and wait until its /readyz is 200, then call this again.',
      );
    }
    const store = await openStore(config);
    try {
      const again: Again = (id, at) => leadOn(log, fold, id, at);
      const { compared, outcome, details } = await showingProgress('Comparing', async (progress) => {
        const looking = { patienceMs: PROJECTOR_LAG_MS, giveUpAfterMs: GIVE_UP_AFTER_MS, progress };
        return dryRun
          ? differencesIn(await compare(store, fold, again, looking))
          : changesIn(await rebuild(store, fold, again, looking));
      });
      const upTo = `with the log up to fact ${fold.position.sequence}`;
      console.log(
        [`Compared ${counted(compared, 'environment')} ${upTo}: ${outcome}`, ...details].join('\n  '),
      );
    } catch (error) {
      const reason = `Redis was not compared to the end: ${reasonOf(error)}`;
      throw new CommandFailed(`${reason}. Call this again: what was replaced is right.`, { cause: error });
    } finally {
      await store.close();
    }
  });
}

interface Report {
  readonly compared: number;
  readonly outcome: string;
  readonly details: readonly string[];
}

function changesIn({ compared, replaced, removed }: Awaited<ReturnType<typeof rebuild>>): Report {
  const agreed = compared - replaced.length;
  return {
    compared,
    outcome:
      replaced.length + removed === 0
        ? 'all agree. Nothing was changed.'
        : `${agreed} agreed, ${replaced.length} replaced, ${counted(removed, 'key')} removed.`,
    details: replaced.map((id) => `replaced ${id}`),
  };
}

function differencesIn({ compared, differing, unknown }: Awaited<ReturnType<typeof compare>>): Report {
  const agreed = compared - differing.length;
  return {
    compared,
    outcome:
      differing.length + unknown.length === 0
        ? 'all agree. Nothing was changed.'
        : `${agreed} agree, ${differing.length} to replace, ${unknown.length} to remove. Nothing was changed.`,
    details: [...differing.map((id) => `replace ${id}`), ...unknown.map((id) => `remove  ${id}`)],
  };
}
