import { runRole } from '#libs/service';

import { MetricsForwarderModule } from './metrics-forwarder.module.js';

await runRole('metrics-forwarder', MetricsForwarderModule);
