export { processOf, runRole } from './run-role.js';
export { expectFreePort, listenFailure, runService, StartupError } from './run-service.js';
