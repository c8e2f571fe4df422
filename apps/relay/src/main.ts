import { RelayConfig } from '#libs/config';
import { runService } from '#libs/service';

import { serveGateway } from '../../gateway/src/serve-gateway.js';
import { RelayModule } from './relay.module.js';

await runService(async () => {
  const app = await serveGateway(RelayModule);
  return { app, shutdownGraceMs: app.get(RelayConfig).shutdownGraceMs };
});
