import { runRole } from '#libs/service';

import { IngestorModule } from './ingestor.module.js';

await runRole('ingestor', IngestorModule);
