import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { schemasWithoutId } from '@asyncapi/specs';
import { DeliverPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { Ajv, type AnySchema } from 'ajv';
import formats from 'ajv-formats';

import {
  type EnvironmentFact,
  evolve,
  type Fact,
  factBody,
  factIn,
  factSubject,
  isEnvironmentFact,
  type Notice,
  noticeBody,
  noticeIn,
  noticeOf,
  noticeSubject,
  unknownEnvironment,
} from '#libs/domain';

import { aFlag, aSegment } from '../libs/domain/src/builders.suite.js';
import { Admin, eventually, SdkSession } from './support/clients.js';
import { EventContract } from './support/event-contract.js';
import { NatsServer } from './support/nats.js';
import { DEMO, root, run, type Service, Workspace } from './support/processes.js';

const contract = new EventContract();
const guide = await readFile(join(root, 'docs/events.md'), 'utf8');

const environment = DEMO.dev.id;
const apiKey = 'a'.repeat(64);
/** One of each type: a new type of fact does not compile until it is here. */
const FACTS: { readonly [Type in Fact['type']]: Extract<Fact, { type: Type }> } = {
  EnvironmentAdded: { type: 'EnvironmentAdded', environment, account: 'demo' },
  SegmentPublished: { type: 'SegmentPublished', environment, segment: aSegment('beta testers') },
  SegmentRemoved: { type: 'SegmentRemoved', environment, identifier: 'beta testers', version: 1 },
  FlagPublished: { type: 'FlagPublished', environment, flag: aFlag('über.*>') },
  FlagRemoved: { type: 'FlagRemoved', environment, identifier: 'über.*>', version: 0 },
  ApiKeyAdded: { type: 'ApiKeyAdded', environment, apiKey },
  ApiKeyRemoved: { type: 'ApiKeyRemoved', environment, apiKey },
  EnvironmentRemoved: { type: 'EnvironmentRemoved', environment },
  SnapshotCompleted: { type: 'SnapshotCompleted', account: '', environments: 2 },
  ProxyKeyDeleted: { type: 'ProxyKeyDeleted', identifier: 'a/key' },
};
const facts: readonly Fact[] = [
  ...Object.values(FACTS),
  { type: 'EnvironmentAdded', environment: 'no UUID', account: undefined },
  { type: 'FlagPublished', environment, flag: { ...aFlag('sparse'), rules: null, version: undefined } },
];
const envelope = { id: 'an id', time: 0 };
const position = { epoch: 'an epoch', sequence: 1 };

interface Written {
  readonly stream: 'FF_FACTS' | 'FF_CHANGES';
  readonly subject: string;
  readonly body: string;
}
const written = (fact: Fact): Written => ({
  stream: 'FF_FACTS',
  subject: factSubject(fact),
  body: factBody(fact, envelope),
});
const announced = (notice: Notice): Written => ({
  stream: 'FF_CHANGES',
  subject: noticeSubject(notice),
  body: noticeBody(notice, position, envelope),
});
const noticesOf = (fact: EnvironmentFact) => {
  const unknown = unknownEnvironment(fact.environment);
  return [unknown, evolve(unknown, fact, 1)].map((before) => noticeOf(before, fact));
};
const faultsIn = ({ stream, subject, body }: Written) => contract.faultsIn(stream, subject, body);
const typeOf = ({ body }: { readonly body: string }) => (JSON.parse(body) as { type: string }).type;

describe('docs/asyncapi.yaml', () => {
  it('is an AsyncAPI 3.0.0 document', () => {
    const ajv = new Ajv({ allErrors: true, strict: false });
    formats.default(ajv);
    const validate = ajv.compile(schemasWithoutId['3.0.0'] as AnySchema);
    expect(validate(contract.document)).toBe(true);
    expect(validate({ ...contract.document, channels: { facts: { address: 1 } } })).toBe(false);
  });

  it('has every message of the code, and no other', () => {
    const messages = [
      ...facts.map((fact) => written(fact)),
      ...facts.filter(isEnvironmentFact).flatMap(noticesOf).map(announced),
    ];
    expect(messages.flatMap(faultsIn)).toEqual([]);
    expect([...new Set(messages.map(typeOf))].toSorted()).toEqual(contract.types.toSorted());
  });

  const flag = written(FACTS.FlagPublished);
  const notice = announced({ event: 'patch', kind: 'flag', environment, identifier: 'a', version: 2 });
  const without = ({ body, ...rest }: Written, ...path: string[]): Written => {
    const event = JSON.parse(body) as Record<string, unknown>;
    const parent = path.slice(0, -1).reduce((at, key) => at[key] as Record<string, unknown>, event);
    delete parent[path.at(-1) ?? ''];
    return { ...rest, body: JSON.stringify(event) };
  };
  const as = (message: Written, from: string, to: string): Written => ({
    ...message,
    body: message.body.replace(from, to),
  });
  it.each<[string, Written]>([
    ['without an id', without(notice, 'id')],
    ['whose position lacks its epoch', without(notice, 'data', 'fact', 'epoch')],
    ['of a flag without variations', without(flag, 'data', 'flag', 'variations')],
    ['with a field that nobody described', as(notice, '"version":2', '"version":2,"by":"anna"')],
    ['with a time that is none', as(notice, '1970-01-01T00:00:00.000Z', 'yesterday')],
    ['with an SDK key in clear', written({ ...FACTS.ApiKeyAdded, apiKey: DEMO.dev.serverKey })],
    ['whose subject names another flag', { ...notice, subject: notice.subject.replace(/a$/, 'b') }],
    ['in the other stream', { ...notice, stream: 'FF_FACTS' }],
    [
      'under a subject of another kind',
      { ...notice, subject: notice.subject.replace('.flag.', '.segment.') },
    ],
    ['of another type than its data', as(notice, 'flag.changed', 'segment.changed')],
  ])('refuses a message %s', (_, message) => {
    expect(faultsIn(flag)).toEqual([]);
    expect(faultsIn(notice)).toEqual([]);
    expect(faultsIn(message)).not.toEqual([]);
  });
});

describe('docs/events.md', () => {
  it('lists the types that there are', () => {
    const listed = [...guide.matchAll(/^\| `(io\.ff-relay\.[\w.]+)`/gm)].map(([, type = '']) => type);
    expect(listed.toSorted()).toEqual(contract.types.toSorted());
  });

  it('shows a fact and a notice as they are written', () => {
    const examples = [...guide.matchAll(/`(ff\.\w+\.v1\.[^`<]+)`:\n\n```json\n([^`]+)```/g)];
    expect(examples).toHaveLength(2);
    for (const [, subject = '', text = ''] of examples) {
      const { id, time } = JSON.parse(text) as { id: string; time: string };
      const as = { id, time: Date.parse(time) };
      const stream = subject.startsWith('ff.facts') ? 'FF_FACTS' : 'FF_CHANGES';
      const { notice, of } = stream === 'FF_FACTS' ? {} : noticeIn(text);
      const body = notice && of ? noticeBody(notice, of, as) : factBody(factIn(text), as);
      expect(JSON.parse(text)).toEqual(JSON.parse(body));
      expect(faultsIn({ stream, subject, body })).toEqual([]);
    }
  });
});

describe('A relay on NATS', () => {
  let workspace: Workspace;
  let server: NatsServer;
  let upstreamData: string;
  let controlPlane: Service;
  let relay: Service;
  let admin: Admin;
  let nats: NatsConnection;

  beforeEach(async () => {
    workspace = new Workspace();
    server = await NatsServer.start(await workspace.folder());
    upstreamData = await workspace.folder();
    controlPlane = await workspace.controlPlane(upstreamData);
    admin = new Admin(controlPlane.url);
    relay = await workspace.relay(await workspace.folder(), controlPlane.url, 0, { NATS_URL: server.url() });
    nats = await connect({ servers: server.url() });
  });
  afterEach(async () => {
    await nats.close();
    await workspace.dispose();
    await server.stop();
  });

  /** What a stream holds, as any client reads it. */
  const read = async (stream: Written['stream'], deliver: DeliverPolicy = DeliverPolicy.All) => {
    const consumer = await jetstream(nats).consumers.get(stream, { deliver_policy: deliver });
    const messages = [];
    let { num_pending: left } = await consumer.info();
    while (left > 0) {
      const message = await consumer.next();
      if (!message) throw new Error(`${stream} ended early`);
      messages.push({
        stream,
        subject: message.subject,
        body: message.string(),
        sequence: message.seq,
        header: message.headers?.get('Nats-Msg-Id'),
      });
      left = message.info.pending;
    }
    return messages;
  };
  /** Waits until the change is told in so many environments. */
  const told = async (change: string, environments: number) => {
    const changes = async () =>
      (await read('FF_CHANGES')).map(({ body }) => {
        const { event, identifier, version } = noticeIn(body).notice;
        return `${identifier} ${event} version ${version}`;
      });
    await eventually(changes, (seen) => seen.filter((each) => each === change).length === environments);
  };
  const makeAndRemove = async (flag: string) => {
    await admin.createFlag(flag);
    await told(`${flag} create version 1`, 2);
    await admin.deleteFlag(flag);
    await told(`${flag} delete version 1`, 2);
  };

  it('writes nothing but what docs/asyncapi.yaml describes', async () => {
    await makeAndRemove('a.$flag');
    await admin.setState('theme', 'off');
    await told('theme patch version 2', 1);

    const [factMessages, noticeMessages] = [await read('FF_FACTS'), await read('FF_CHANGES')];
    const all = [...factMessages, ...noticeMessages];
    expect(all.flatMap(faultsIn)).toEqual([]);
    expect(all.map(({ header }) => header)).toEqual(
      all.map(({ body }) => (JSON.parse(body) as { id: string }).id),
    );
    expect([...new Set(all.map(typeOf))].toSorted()).toEqual([
      'io.ff-relay.apikey.added.v1',
      'io.ff-relay.apikey.changed.v1',
      'io.ff-relay.environment.added.v1',
      'io.ff-relay.environment.changed.v1',
      'io.ff-relay.flag.changed.v1',
      'io.ff-relay.flag.published.v1',
      'io.ff-relay.flag.removed.v1',
      'io.ff-relay.segment.changed.v1',
      'io.ff-relay.segment.published.v1',
      'io.ff-relay.snapshot.completed.v1',
    ]);
    // Each notice names the fact that it tells of, or one after it, and the epoch is that of the stream.
    const { created } = await (await jetstreamManager(nats)).streams.info('FF_FACTS');
    for (const { body, header } of noticeMessages) {
      const { notice, of } = noticeIn(body);
      const subject = noticeSubject(notice).replace('ff.changes', 'ff.facts');
      const sequences = factMessages
        .filter((fact) => fact.subject === subject)
        .map(({ sequence }) => sequence);
      if (header === `${created}-${of.sequence}`) expect(sequences).toContain(of.sequence);
      else {
        expect(header).toBe(
          `${created}-${of.sequence}-${notice.environment}-${notice.kind}-${notice.identifier}`,
        );
        expect(Math.min(...sequences)).toBeLessThanOrEqual(of.sequence);
      }
      expect(of.epoch).toBe(created);
    }
  });

  it('tells of what differs, and of nothing else, when FF_FACTS is lost', async () => {
    await makeAndRemove('gone');
    const before = await read('FF_CHANGES');
    await controlPlane.process.kill('SIGTERM');
    const { streams } = await jetstreamManager(nats);
    await streams.delete('FF_FACTS');
    // Changed where the relay does not see it.
    const aside = await workspace.controlPlane(upstreamData);
    await new Admin(aside.url).setState('dark-mode', 'off');
    await aside.process.kill('SIGTERM');
    controlPlane = await workspace.controlPlane(upstreamData, controlPlane.port);

    await told('dark-mode patch version 2', 1);
    await admin.setState('theme', 'off');
    await told('theme patch version 2', 1);
    const { created } = await streams.info('FF_FACTS');
    const since = (await read('FF_CHANGES')).slice(before.length);
    expect(since.flatMap(faultsIn)).toEqual([]);
    expect(since.map(({ header }) => header)).toEqual([
      expect.stringMatching(new RegExp(`^${created}-\\d+-${environment}-flag-dark-mode$`)),
      expect.stringMatching(new RegExp(`^${created}-\\d+$`)),
    ]);
  });

  it('has the whole state in the last fact of every subject', async () => {
    await makeAndRemove('gone');
    await admin.setState('dark-mode', 'off');
    await told('dark-mode patch version 2', 1);

    const flags = (await read('FF_FACTS', DeliverPolicy.LastPerSubject))
      .map(({ body }) => factIn(body))
      .flatMap((fact) =>
        fact.type === 'FlagPublished' && fact.environment === environment ? fact.flag : [],
      );
    const named = (list: typeof flags) =>
      list.map(({ feature, version }) => `${feature} ${version}`).toSorted();
    expect(named(flags)).toContain('dark-mode 2');
    // A gateway is a moment behind those who are told by the log.
    const session = await SdkSession.signIn(relay.url);
    const served = await eventually(
      async () => JSON.parse(await session.flags()) as typeof flags,
      (list) => named(list).includes('dark-mode 2'),
    );
    expect(named(flags)).toEqual(named(served));
  });

  it('has its flag changes printed by docs/examples/subscriber.mjs, none missing over a kill, until the stream is lost', async () => {
    const subscribe = () => run('node', ['docs/examples/subscriber.mjs'], { NATS_URL: server.url() });
    const first = subscribe();
    await first.printed(/audit listens/);
    await admin.setState('dark-mode', 'off');
    await first.printed(/^10000000-0000-4000-8000-000000000001 dark-mode patch version 2$/m);
    const { consumers, streams } = await jetstreamManager(nats);
    await eventually(
      () => consumers.info('FF_CHANGES', 'audit'),
      ({ ack_floor }) => ack_floor.consumer_seq === 1,
    );
    await first.kill('SIGKILL');

    await admin.setState('dark-mode', 'on');
    await told('dark-mode patch version 3', 1);
    await makeAndRemove('new');
    const second = subscribe();
    await admin.setState('theme', 'off');
    await second.printed(/theme patch version 2/);
    const lines = second.output.split('\n').filter((line) => line.startsWith(environment));
    expect(lines).toEqual(
      [
        'dark-mode patch version 3',
        'new create version 1',
        'new delete version 1',
        'theme patch version 2',
      ].map((change) => `${environment} ${change}`),
    );
    await streams.delete('FF_CHANGES');
    expect(await second.exited).toBe(1);
  });
});
