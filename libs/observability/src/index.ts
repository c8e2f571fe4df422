export { ObservabilityModule } from './observability.module.js';
export { ServiceLogger } from './service-logger.js';
export { type PartStatus, StatusBoard } from './status-board.js';
export {
  joinedPages,
  KeptPage,
  PROPAGATION_BUCKETS_S,
  type SetSeries,
  Telemetry,
  UNSENT_EVALUATIONS,
} from './telemetry.js';
export {
  UPSTREAM_NOTE,
  UpstreamStatus,
  type UpstreamSnapshot,
  type UpstreamState,
} from './upstream-status.js';
export { upstreamCalls } from './upstream-telemetry.js';
