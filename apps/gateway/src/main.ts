import { ownConfig } from '#libs/config';
import { runService } from '#libs/service';

import { GatewayModule } from './gateway.module.js';
import { serveOnCores } from './serve-gateway.js';

await runService(async () => {
  const config = ownConfig(() => ['gateway']);
  return {
    app: await serveOnCores('gateway', config, [GatewayModule]),
    shutdownGraceMs: config.shutdownGraceMs,
  };
});
