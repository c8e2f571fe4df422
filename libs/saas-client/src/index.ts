export { type Backoff, backoffMs, pause } from './backoff.js';
export { KeptSession } from './kept-session.js';
export {
  type CheckedList,
  type ConfigPage,
  type FetchedConfig,
  type StreamMessage,
  UnusableAnswer,
} from './payloads.js';
export {
  SaasClient,
  type Session,
  type StreamEvent,
  UpstreamRefusal,
  UpstreamUnreachable,
} from './saas-client.js';
