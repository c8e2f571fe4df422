import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { AckPolicy, jetstream, type JetStreamManager, jetstreamManager } from '@nats-io/jetstream';
import { connect, createInbox, type NatsConnection, PermissionViolationError } from '@nats-io/transport-node';

import { factBody, factSubject, noticeIn } from '#libs/domain';

import { flagPublished } from '../libs/domain/src/builders.suite.js';
import { Admin, eventually } from './support/clients.js';
import { NatsServer } from './support/nats.js';
import { root, run, type Service, Workspace } from './support/processes.js';

/** Both as somebody would choose them who read the comment in the file. */
const PASSWORDS = { RELAY_PASSWORD: 'r3lay-and-$more', AUDIT_PASSWORD: '"1234"' };

describe('The server of docs/examples/nats-accounts.conf', () => {
  let workspace: Workspace;
  let server: NatsServer;
  let controlPlane: Service;
  let relay: Service;
  let asRelay: NatsConnection;
  let manager: JetStreamManager;
  let asTool: NatsConnection;
  /** What the server refused to the tool. */
  const refusals: string[] = [];

  beforeAll(async () => {
    workspace = new Workspace();
    server = await NatsServer.start(
      await workspace.folder(),
      ['-c', join(root, 'docs/examples/nats-accounts.conf')],
      PASSWORDS,
    );
    controlPlane = await workspace.controlPlane(await workspace.folder());
    relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, {
      NATS_URL: server.url(`relay:${PASSWORDS.RELAY_PASSWORD}`),
    });
    asRelay = await connect({ servers: server.url(), user: 'relay', pass: PASSWORDS.RELAY_PASSWORD });
    manager = await jetstreamManager(asRelay);
    asTool = await connect({ servers: server.url(), user: 'audit', pass: '1234' });
    void (async () => {
      for await (const status of asTool.status()) {
        if (status.type !== 'error' || !(status.error instanceof PermissionViolationError)) continue;
        refusals.push(`${status.error.operation} ${status.error.subject}`);
      }
    })();
  });
  afterAll(async () => {
    await asTool.close();
    await asRelay.close();
    await workspace.dispose();
    await server.stop();
  });

  it('lets the relay keep its log there, and the tool follow what changes', async () => {
    const heard = new Promise<string>((resolve) => {
      asTool.subscribe('ff.changes.v1.*.flag.theme', {
        max: 1,
        callback: (_, message) => resolve(message.string()),
      });
    });
    await asTool.flush();
    const subscriber = run('node', ['docs/examples/subscriber.mjs'], {
      NATS_URL: server.url('audit:1234'),
    });
    await subscriber.printed(/audit listens/);
    await new Admin(controlPlane.url).setState('theme', 'off');
    await subscriber.printed(/theme patch version 2/);
    expect(noticeIn(await heard).notice).toMatchObject({ event: 'patch', identifier: 'theme', version: 2 });
    await subscriber.kill('SIGTERM');
  });

  describe('does not let the tool', () => {
    beforeAll(async () => {
      // So that nobody but the tool changes anything.
      await relay.process.kill('SIGTERM');
      await manager.consumers.add('FF_CHANGES', { durable_name: 'other', ack_policy: AckPolicy.Explicit });
    });

    /** Everything that the tool must not change: each stream, the buckets among them, and its consumers. */
    const state = async () => {
      const streams = await Array.fromAsync(manager.streams.list());
      return Promise.all(
        streams.map(async ({ config, state: { messages, first_seq, last_seq } }) => ({
          config,
          state: { messages, first_seq, last_seq },
          consumers: (await Array.fromAsync(manager.consumers.list(config.name))).filter(
            ({ name }) => name !== 'audit',
          ),
        })),
      );
    };
    const refused = (what: string) =>
      eventually(
        () => refusals,
        (seen) => seen.includes(what),
      );
    /** The name by which the tool's account knows what it may ask of JetStream; what it may not keeps its own. */
    const inFlags = (subject: string) =>
      subject.replace(/^\$JS\.API(?=\.CONSUMER\.(?:CREATE|MSG\.NEXT)\.FF_CHANGES\.)/, 'FLAGS.API');
    const consumerOn = (stream: string, durable_name: string) =>
      JSON.stringify({ stream_name: stream, config: { durable_name, ack_policy: 'explicit' } });

    it.each([
      ['publish a fact', 'ff.facts.v1.dev.flag.a', '{}'],
      ['publish a notice', 'ff.changes.v1.dev.flag.a', '{}'],
      ['take the lead', '$KV.ff_leases.ingestor', 'mine'],
      ['make a consumer of facts', '$JS.API.CONSUMER.CREATE.FF_FACTS.audit', consumerOn('FF_FACTS', 'audit')],
      [
        'make a consumer of facts the old way',
        '$JS.API.CONSUMER.DURABLE.CREATE.FF_FACTS.audit',
        consumerOn('FF_FACTS', 'audit'),
      ],
      [
        'make a consumer of another name',
        '$JS.API.CONSUMER.CREATE.FF_CHANGES.b',
        consumerOn('FF_CHANGES', 'b'),
      ],
      ['take the messages of another consumer', '$JS.API.CONSUMER.MSG.NEXT.FF_CHANGES.other', '1'],
      ['acknowledge for another consumer', '$JS.ACK.FF_CHANGES.other.1.1.1.1.0', '+ACK'],
      ['remove a consumer', '$JS.API.CONSUMER.DELETE.FF_CHANGES.other', ''],
      ['get a fact', '$JS.API.DIRECT.GET.FF_FACTS', '{"seq":1}'],
      ['get the last fact of a subject', '$JS.API.DIRECT.GET.FF_FACTS.ff.facts.v1.dev.flag.a', ''],
      ['get a fact through the stream', '$JS.API.STREAM.MSG.GET.FF_FACTS', '{"seq":1}'],
      ['read a bucket', '$JS.API.DIRECT.GET.KV_ff_leases.$KV.ff_leases.ingestor', ''],
      ['watch a bucket', '$JS.API.CONSUMER.CREATE.KV_ff_leases.audit', consumerOn('KV_ff_leases', 'audit')],
      ['see the subjects of facts', '$JS.API.STREAM.INFO.FF_FACTS', '{"subjects_filter":">"}'],
      ['list the streams', '$JS.API.STREAM.NAMES', ''],
      ['purge facts', '$JS.API.STREAM.PURGE.FF_FACTS', ''],
      ['purge notices', '$JS.API.STREAM.PURGE.FF_CHANGES', ''],
      ['remove facts', '$JS.API.STREAM.DELETE.FF_FACTS', ''],
      ['remove notices', '$JS.API.STREAM.DELETE.FF_CHANGES', ''],
      ['remove one notice', '$JS.API.STREAM.MSG.DELETE.FF_CHANGES', '{"seq":1}'],
      ['change a stream', '$JS.API.STREAM.UPDATE.FF_CHANGES', '{"name":"FF_CHANGES","max_age":1000000000}'],
      ['make a stream', '$JS.API.STREAM.CREATE.MINE', '{"name":"MINE","subjects":["mine"]}'],
      ['do any of it by the name of the account', 'FLAGS.API.STREAM.PURGE.FF_FACTS', ''],
    ])('%s', async (_, subject, body) => {
      const before = await state();
      const answers: string[] = [];
      const reply = createInbox();
      asTool.subscribe(reply, { callback: (__, message) => void answers.push(message.string()) });
      asTool.publish(subject, body, { reply });
      await refused(`publish ${inFlags(subject)}`);
      await asTool.flush();
      expect(answers).toEqual([]);
      expect(await state()).toEqual(before);
    });

    it.each(['ff.facts.v1.>', 'ff.>', '>', '$KV.>', '$JS.>', '$SYS.>'])('hear %s', async (subject) => {
      const heard: string[] = [];
      asTool.subscribe(subject, {
        callback: (error, message) => {
          if (!error) heard.push(message.subject);
        },
      });
      await refused(`subscription ${subject}`);
      const fact = flagPublished('secret');
      await jetstream(asRelay).publish(factSubject(fact), factBody(fact, { id: 'id', time: 0 }));
      await asTool.flush();
      expect(heard).toEqual([]);
    });

    it('make its own consumer one of facts', async () => {
      const answer = await asTool.request(
        '$JS.API.CONSUMER.CREATE.FF_CHANGES.audit',
        consumerOn('FF_FACTS', 'audit'),
      );
      expect(answer.string()).toContain('stream name in subject does not match request');
      await expect(manager.consumers.info('FF_FACTS', 'audit')).rejects.toThrow('consumer not found');
    });

    it('have an answer or a delivery sent where facts are', async () => {
      const facts = async () => (await manager.streams.info('FF_FACTS')).state.last_seq;
      const before = await facts();
      const toFacts = { reply: 'ff.facts.v1.dev.flag.a' };
      const ask = (call: string, body: string) => {
        asTool.publish(`$JS.API.CONSUMER.${call}.FF_CHANGES.audit`, body, toFacts);
      };
      await manager.consumers.delete('FF_CHANGES', 'audit');
      ask('CREATE', consumerOn('FF_CHANGES', 'audit'));
      ask('INFO', '');
      ask('MSG.NEXT', '1');
      // What comes next is answered after these, and shows that they were done.
      const consumer = await jetstream(asTool).consumers.get('FF_CHANGES', 'audit');
      expect(await consumer.next()).not.toBeNull();
      expect(await facts()).toBe(before);

      await manager.consumers.delete('FF_CHANGES', 'audit');
      await (
        await jetstreamManager(asTool, { checkAPI: false })
      ).consumers.add('FF_CHANGES', { durable_name: 'audit', deliver_subject: toFacts.reply });
      const { num_pending } = await manager.consumers.info('FF_CHANGES', 'audit');
      expect(num_pending).toBeGreaterThan(0);
      expect(await facts()).toBe(before);
    });
  });
});
