import { runService } from '#libs/service';

import { ControlPlaneConfig } from './control-plane-config.js';
import { startControlPlane } from './control-plane.js';

await runService(async () => {
  const config = new ControlPlaneConfig(process.env);
  const { app } = await startControlPlane(config);
  return { app, shutdownGraceMs: config.shutdownGraceMs };
});
