import { Module } from '@nestjs/common';

import { GatewayModule } from '../../gateway/src/gateway.module.js';
import { IngestorModule } from '../../ingestor/src/ingestor.module.js';
import { MetricsForwarderModule } from '../../metrics-forwarder/src/metrics-forwarder.module.js';
import { ProjectorModule } from '../../projector/src/projector.module.js';

/** All roles in one process, over one log and one store. */
@Module({ imports: [IngestorModule, ProjectorModule, GatewayModule, MetricsForwarderModule] })
export class RelayModule {}
