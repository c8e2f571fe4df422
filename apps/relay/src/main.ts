import { ownConfig, relayRoles, ROLES } from '#libs/config';
import { runService } from '#libs/service';

import { GatewayModule } from '../../gateway/src/gateway.module.js';
import { serveOnCores } from '../../gateway/src/serve-gateway.js';
import { RelayModule } from './relay.module.js';

await runService(async () => {
  const config = ownConfig(relayRoles);
  const app = await serveOnCores('ff-relay', config, [config.roles === ROLES ? RelayModule : GatewayModule]);
  return { app, shutdownGraceMs: config.shutdownGraceMs };
});
