import { BundleError, generateBundle } from '#libs/bundle';
import { type GivenSettings, RelayConfig, SettingsError } from '#libs/config';
import { withSaasClient } from '#libs/saas-client';

/** Writes what the upstream says into CONFIG_DIR. @returns the exit code: 0, or 1 after saying why it could not */
export async function generateOfflineConfig(
  environment: NodeJS.ProcessEnv,
  told: Omit<GivenSettings, 'environment'>,
): Promise<number> {
  const stopping = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stopping.abort());
  // A parent that dies closes its channel.
  process.once('disconnect', () => stopping.abort());
  try {
    const config = new RelayConfig(environment, [], told, ['PROXY_KEY']);
    for (const remark of config.remarks) console.error(remark);
    const { configDir } = config;
    const { environments, leftOut } = await withSaasClient(config, (saas) =>
      generateBundle(saas, configDir, stopping.signal),
    );
    for (const fault of leftOut) console.error(`Left out, since it cannot be used: ${fault}`);
    console.log(`${configDir} holds ${environments.length} environments now. Serve them with OFFLINE=true.`);
    return 0;
  } catch (error) {
    console.error(reasonOf(error));
    return 1;
  } finally {
    if (process.connected) process.disconnect?.();
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof SettingsError || error instanceof BundleError) return error.message;
  return `The offline configuration was not written, and what was there before still is: ${(error as Error).message}.`;
}
