import { givenSettings, isToGenerateOfflineConfig, RelayConfig, relayRoles, ROLES } from '#libs/config';
import { runService } from '#libs/service';

import { GatewayModule } from '../../gateway/src/gateway.module.js';
import { serveOnCores } from '../../gateway/src/serve-gateway.js';
import { generateOfflineConfig } from './generate-offline-config.js';
import { RelayModule } from './relay.module.js';

const { environment, ...told } = givenSettings(process.argv.slice(2), process.env);
if (isToGenerateOfflineConfig(environment)) {
  process.exitCode = await generateOfflineConfig(environment, told);
} else {
  await runService(async () => {
    const config = new RelayConfig(environment, relayRoles(environment), told);
    const app = await serveOnCores('ff-relay', config, [
      config.roles === ROLES ? RelayModule : GatewayModule,
    ]);
    return { app, shutdownGraceMs: config.shutdownGraceMs };
  });
}
