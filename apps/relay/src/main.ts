import { RelayConfig, relayRoles, ROLES } from '#libs/config';
import { runService } from '#libs/service';

import { GatewayModule } from '../../gateway/src/gateway.module.js';
import { serveOnCores } from '../../gateway/src/serve-gateway.js';
import { RelayModule } from './relay.module.js';

await runService(async () => {
  const roles = relayRoles(process.env);
  const config = new RelayConfig(process.env, roles);
  const app = await serveOnCores('ff-relay', config, [roles === ROLES ? RelayModule : GatewayModule]);
  return { app, shutdownGraceMs: config.shutdownGraceMs };
});
