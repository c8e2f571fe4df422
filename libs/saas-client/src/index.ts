export { type Backoff, backoffMs, pause } from './backoff.js';
export { KeptSession } from './kept-session.js';
export {
  apiKeysIn,
  type CheckedList,
  type ConfigPage,
  type FetchedConfig,
  flagsIn,
  segmentsIn,
  type StreamMessage,
  unknownFieldsOfFlag,
  unknownFieldsOfSegment,
  UnusableAnswer,
} from './payloads.js';
export { ProxyKey } from './proxy-key.js';
export { ProxyKeyModule } from './proxy-key.module.js';
export {
  type CallObserver,
  SaasClient,
  type Session,
  type SignedInTarget,
  type StreamEvent,
  type UpstreamCall,
  UpstreamRefusal,
  UpstreamUnreachable,
} from './saas-client.js';
export { UpstreamLink, type UpstreamLinkOptions } from './upstream-link.js';
export { UpstreamLinkModule } from './upstream-link.module.js';
export { withSaasClient } from './with-saas-client.js';
