import { runRole } from '#libs/service';

import { ProjectorModule } from './projector.module.js';

await runRole('projector', ProjectorModule);
