import { RelayConfig } from '#libs/config';
import { runService } from '#libs/service';

import { GatewayModule } from './gateway.module.js';
import { serveOnCores } from './serve-gateway.js';

await runService(async () => {
  const config = new RelayConfig(process.env, ['gateway']);
  return {
    app: await serveOnCores('gateway', config, [GatewayModule]),
    shutdownGraceMs: config.shutdownGraceMs,
  };
});
