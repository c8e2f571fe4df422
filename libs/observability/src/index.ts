export { ObservabilityModule } from './observability.module.js';
export { ServiceLogger } from './service-logger.js';
export { UpstreamStatus, type UpstreamState } from './upstream-status.js';
