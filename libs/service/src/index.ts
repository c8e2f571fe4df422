export { expectFreePort, listenFailure, runService, StartupError } from './run-service.js';
