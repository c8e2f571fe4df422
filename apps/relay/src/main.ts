import { RelayConfig } from '#libs/config';
import { ServiceLogger } from '#libs/observability';
import { runService } from '#libs/service';

import { serveGateway } from '../../gateway/src/serve-gateway.js';
import { RelayModule } from './relay.module.js';

await runService(async () => {
  const { logLevel, logFormat, shutdownGraceMs } = new RelayConfig(process.env);
  const app = await serveGateway(RelayModule, new ServiceLogger('ff-relay', logLevel, logFormat));
  return { app, shutdownGraceMs };
});
