export { EventLogModule } from './event-log.module.js';
export { EmbeddedEventLog } from './embedded-event-log.js';
export {
  EventLog,
  type LoggedMessage,
  LogUnreachable,
  MessageTooLarge,
  type NewMessage,
  type StreamName,
  STREAMS,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';
export { whileLeading } from './while-leading.js';
