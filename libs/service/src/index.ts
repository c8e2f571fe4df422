export { Channel } from './channel.js';
export { ManagementServer, PrometheusServer } from './management-server.js';
export { processOf, runRole, tellRemarks, workerOf } from './run-role.js';
export { couldNotStart, expectFreePort, listenFailure, runService, StartupError } from './run-service.js';
