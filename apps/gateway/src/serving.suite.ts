import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { Inject, Module, type OnModuleInit } from '@nestjs/common';
import { ModuleRef } from '@nestjs/core';

import { RelayConfig } from '#libs/config';
import {
  type EnvironmentFact,
  type EnvironmentState,
  evolve,
  type Fact,
  factBody,
  factSubject,
  type Flag,
  type Notice,
  noticeBody,
  noticeOf,
  noticeSubject,
  type Position,
  type Segment,
  unknownEnvironment,
} from '#libs/domain';
import { EventLog } from '#libs/event-log';
import { Telemetry, UpstreamStatus } from '#libs/observability';
import { StateStore } from '#libs/state-store';

import { EnvironmentViews } from './environment-views.js';
import { GatewayModule } from './gateway.module.js';
import { NoticeHub } from './notice-hub.js';
import { serveGateway } from './serve-gateway.js';

export const SECRET = 'a secret of at least 32 characters';

export const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

/** What a test leaves behind; undone by `cleanUp`, the last first. */
export const cleanUps: (() => unknown)[] = [];
export async function cleanUp(): Promise<void> {
  for (const clean of cleanUps.splice(0).toReversed()) await clean();
}

/** What the projector would say to the gateway: facts, and after each its notice. */
export class Upstream {
  private readonly states = new Map<string, EnvironmentState>();
  private ids = 0;
  constructor(
    readonly log: EventLog,
    private readonly views: EnvironmentViews,
  ) {}

  /** Appends facts and their notices. Returns when the gateway holds them. */
  async happens(...facts: readonly Fact[]): Promise<void> {
    const positions = await Promise.all(facts.map((fact) => this.append(fact)));
    for (const [i, position] of positions.entries()) {
      const fact = facts[i];
      if (!fact || !('environment' in fact)) continue;
      const before = this.states.get(fact.environment) ?? unknownEnvironment(fact.environment);
      this.states.set(fact.environment, evolve(before, fact, position.sequence));
      await this.tell(noticeOf(before, fact), position);
    }
    const last = positions.at(-1);
    if (last) await this.views.caughtUp(last);
  }

  append(fact: Fact): Promise<Position> {
    const id = `fact-${++this.ids}`;
    return this.log.append('FF_FACTS', {
      subject: factSubject(fact),
      id,
      body: factBody(fact, { id, time: 1 }),
    });
  }

  tell(notice: Notice, of: Position): Promise<Position> {
    const id = `notice-${++this.ids}`;
    const body = noticeBody(notice, of, { id, time: 1 });
    return this.log.append('FF_CHANGES', { subject: noticeSubject(notice), id, body });
  }
}

/** Starts the real server, as a process does, over an empty log. */
export async function startEmpty(settings: NodeJS.ProcessEnv = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'gateway-'));
  const config = new RelayConfig({
    PROXY_KEY: 'not-used-here',
    AUTH_SECRET: SECRET,
    DATA_DIR: folder,
    HOST: '127.0.0.1',
    PORT: '0',
    MANAGEMENT_PORT: '0',
    LOG_LEVEL: 'ERROR',
    ...settings,
  });
  const wired = Promise.withResolvers<ModuleRef>();
  @Module({ imports: [GatewayModule] })
  class Root implements OnModuleInit {
    constructor(@Inject(ModuleRef) private readonly parts: ModuleRef) {}
    async onModuleInit() {
      const [log, store] = [
        this.parts.get(EventLog, { strict: false }),
        this.parts.get(StateStore, { strict: false }),
      ];
      const { epoch } = await log.head('FF_FACTS');
      await store.begin({ position: { epoch, sequence: 0 }, complete: false, writer: 'nobody' });
      wired.resolve(this.parts);
    }
  }
  /** Resolves once it serves. */
  const serving = serveGateway('gateway', config, [Root]);
  serving.catch(wired.reject);
  const parts = await wired.promise;
  const part = <Part>(type: abstract new (...given: never[]) => Part): Part =>
    parts.get(type, { strict: false });
  const [log, views, hub, telemetry] = [
    part(EventLog),
    part(EnvironmentViews),
    part(NoticeHub),
    part(Telemetry),
  ];
  const upstreamStatus = part(UpstreamStatus);
  // As the process that has the link would say.
  if (config.closeStreamsOnUpstreamLoss) {
    upstreamStatus.reporting = true;
    upstreamStatus.stream('CONNECTED');
  }
  let stopped: Promise<void> | undefined;
  const stop = () =>
    (stopped ??= (async () => {
      await (await serving).close();
      await rm(folder, { recursive: true });
    })());
  cleanUps.push(stop);
  return { upstream: new Upstream(log, views), views, hub, telemetry, upstreamStatus, serving, stop };
}

/** Calls of a gateway, as an SDK makes them. */
export function callsOf(url: string) {
  const call = async (
    method: string,
    path: string,
    headers: Record<string, string> = {},
    body?: string | Buffer,
  ) => {
    const response = await fetch(`${url}${path}`, { method, headers, ...(body !== undefined && { body }) });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: (): unknown => JSON.parse(text),
    };
  };
  const signIn = async (apiKey: string, target?: object) => {
    const { json } = await call('POST', '/client/auth', {}, JSON.stringify({ apiKey, target }));
    return (json() as { authToken: string }).authToken;
  };
  return { call, signIn };
}

export interface Environment {
  readonly id: string;
  readonly flags?: readonly Flag[];
  readonly segments?: readonly Segment[];
}

/** The SDK key of an environment. */
export const keyOf = (environment: string) => `key-of-${environment}`;

export function factsOf({ id: environment, flags = [], segments = [] }: Environment): EnvironmentFact[] {
  return [
    { type: 'EnvironmentAdded', environment, account: 'acme' },
    { type: 'ApiKeyAdded', environment, apiKey: sha256(keyOf(environment)) },
    ...flags.map((flag) => ({ type: 'FlagPublished', environment, flag }) as const),
    ...segments.map((segment) => ({ type: 'SegmentPublished', environment, segment }) as const),
  ];
}

/** A gateway that serves environments on a port of its own. */
export async function serve(environments: readonly Environment[], settings: NodeJS.ProcessEnv = {}) {
  const { upstream, views, telemetry, serving, stop } = await startEmpty(settings);
  await upstream.happens(...environments.flatMap(factsOf), {
    type: 'SnapshotCompleted',
    account: 'acme',
    environments: environments.length,
  });
  const url = await (await serving).getUrl();
  const { call, signIn } = callsOf(url);
  return {
    url,
    call,
    signIn: (environment: string, target?: object) => signIn(keyOf(environment), target),
    happens: (...facts: readonly Fact[]) => upstream.happens(...facts),
    views,
    telemetry,
    stop,
  };
}

/** A connection, byte for byte. */
export class Wire {
  readonly socket: Socket;
  readonly closed: Promise<unknown>;
  text = '';
  private isClosed = false;

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1');
    this.socket.setEncoding('latin1').on('data', (text) => (this.text += String(text)));
    this.socket.on('error', () => undefined);
    this.closed = once(this.socket, 'close').then(() => (this.isClosed = true));
    cleanUps.push(() => this.socket.destroy());
  }

  send(method: string, path: string, headers: Record<string, string>, version = '1.1'): void {
    const lines = Object.entries({ host: 'relay', ...headers }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    );
    this.socket.write(`${method} ${path} HTTP/${version}\r\n${lines.join('')}\r\n`);
  }

  /** Everything so far, once it contains the text. */
  async until(text: string): Promise<string> {
    for (let seen = 0; !this.text.includes(text, seen - text.length);) {
      seen = this.text.length;
      if (this.isClosed) throw new Error(`closed before ${JSON.stringify(text)} came: ${this.text}`);
      await Promise.race([once(this.socket, 'data'), this.closed]);
    }
    return this.text;
  }

  get head(): string {
    return this.text.slice(0, this.text.indexOf('\r\n\r\n')).toLowerCase();
  }
  get body(): string {
    return this.text.slice(this.text.indexOf('\r\n\r\n') + 4);
  }
  /** The body's chunks, each as it was framed. */
  get chunks(): string[] {
    const chunks: string[] = [];
    for (let rest = this.body; rest !== '';) {
      const sizeEnd = rest.indexOf('\r\n');
      const size = Number.parseInt(rest.slice(0, sizeEnd), 16);
      const end = sizeEnd + 2 + size;
      if (rest.slice(end, end + 2) !== '\r\n') throw new Error(`this is no chunk: ${JSON.stringify(rest)}`);
      chunks.push(rest.slice(sizeEnd + 2, end));
      rest = rest.slice(end + 2);
    }
    return chunks;
  }
  get events(): {
    event: string;
    domain: string;
    identifier: string;
    version: number;
    id: string | undefined;
  }[] {
    return this.chunks.flatMap((chunk) => {
      const [, id, data] = /^event: \*\n(?:id: (.*)\n)?data: (.*)\n\n$/.exec(chunk) ?? [];
      return data === undefined ? [] : [{ ...JSON.parse(data), id }];
    });
  }
  /** What it heard, in short: `patch a 2`. */
  get heard(): string[] {
    return this.events.map(({ event, identifier, version }) => `${event} ${identifier} ${version}`);
  }
  /** What its reader says when it comes again. */
  get lastEventId(): string {
    return this.events.findLast(({ id }) => id !== undefined)?.id ?? '';
  }
}
