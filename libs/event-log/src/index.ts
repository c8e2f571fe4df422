export { EventLogModule } from './event-log.module.js';
export { EmbeddedEventLog } from './embedded-event-log.js';
export { lookAtNats, type NatsReport } from './jetstream-event-log.js';
export {
  type Backlog,
  type BoundedStream,
  type Bounds,
  EventLog,
  type LoggedMessage,
  LogUnreachable,
  MessageTooLarge,
  METRICS_BOUNDS,
  type NewMessage,
  type OrderedStream,
  type StreamName,
  STREAMS,
  type Taken,
  UnexpectedSequence,
  UnknownEpoch,
} from './event-log.js';
export { whileLeading } from './while-leading.js';
