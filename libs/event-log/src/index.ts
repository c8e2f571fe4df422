export { EventLogModule } from './event-log.module.js';
export { EmbeddedEventLog } from './embedded-event-log.js';
export {
  type Delivery,
  EventLog,
  type LoggedMessage,
  MessageTooLarge,
  type NewMessage,
  type StreamName,
  STREAMS,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';
