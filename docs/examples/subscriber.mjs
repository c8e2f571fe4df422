import { AckPolicy, DeliverPolicy, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';

const { host, username, password } = new URL(process.env.NATS_URL ?? 'nats://127.0.0.1:4222');
const name = process.env.CONSUMER ?? 'audit';
const login = username && { user: decodeURIComponent(username), pass: decodeURIComponent(password) };
const connection = await connect({ servers: host, name, maxReconnectAttempts: -1, ...login });

// The server keeps our place under this name, and waits with the next message until we are done with this one.
const manager = await jetstreamManager(connection, { checkAPI: false });
await manager.consumers.add('FF_CHANGES', {
  durable_name: name,
  filter_subject: 'ff.changes.v1.*.flag.*',
  deliver_policy: DeliverPolicy.New,
  ack_policy: AckPolicy.Explicit,
  max_ack_pending: 1,
});
const consumer = await manager.jetstream().consumers.get('FF_CHANGES', name);
console.log(`${name} listens`);

// Ends with an error when the stream was lost: what starts this again then begins with the new one.
for await (const message of await consumer.consume({ abort_on_missing_resource: true })) {
  const { environment, identifier, event, version } = message.json().data;
  console.log(`${environment} ${identifier} ${event} version ${version}`);
  message.ack();
}
