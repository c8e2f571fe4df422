import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Ajv, type ValidateFunction } from 'ajv';
import formats from 'ajv-formats';
import { parse } from 'yaml';

import { textOfSubjectToken } from '#libs/domain';

import { root } from './processes.js';

interface Channel {
  readonly address: string;
  readonly parameters: Record<string, unknown>;
  readonly messages: Record<string, { readonly $ref: string }>;
  readonly 'x-jetstream-stream': string;
}

interface Message {
  readonly payload: { readonly allOf: readonly { readonly properties?: { type?: { const?: string } } }[] };
}

/** docs/asyncapi.yaml, as a tool takes it that checks what it reads. */
export class EventContract {
  readonly document: object;
  /** The CloudEvents type of each message. */
  readonly types: readonly string[];
  private readonly channels: readonly Channel[];
  private readonly validators: ReadonlyMap<string, { type: string; validate: ValidateFunction }>;

  constructor() {
    const document = parse(readFileSync(join(root, 'docs/asyncapi.yaml'), 'utf8')) as {
      channels: Record<string, Channel>;
      components: { messages: Record<string, Message>; schemas: object };
    };
    const ajv = new Ajv({
      allErrors: true,
      allowUnionTypes: true,
      strictTypes: false,
      strictRequired: false,
    });
    formats.default(ajv);
    // So that the document's references lead somewhere from inside of each payload.
    ajv.addVocabulary(['components']);
    const { messages, schemas } = document.components;
    this.document = document;
    this.channels = Object.values(document.channels);
    this.validators = new Map(
      Object.entries(messages).map(([name, { payload }]) => {
        const type = payload.allOf.flatMap(({ properties }) => properties?.type?.const ?? [])[0] ?? '';
        return [name, { type, validate: ajv.compile({ ...payload, components: { schemas } }) }];
      }),
    );
    this.types = [...this.validators.values()].map(({ type }) => type);
  }

  /** What the document finds wrong with a message; nothing if it is one of its own. */
  faultsIn(stream: string, subject: string, body: string): readonly string[] {
    const event = JSON.parse(body) as { type: string; subject: string };
    const fits = this.channels.flatMap((channel) => {
      const tokens = tokensIn(subject, channel.address);
      return tokens && channel['x-jetstream-stream'] === stream ? [{ channel, tokens }] : [];
    });
    const messages = fits.flatMap(({ channel, tokens }) =>
      Object.values(channel.messages).flatMap(({ $ref }) => {
        const message = this.validators.get($ref.split('/').at(-1) ?? '');
        return message?.type === event.type ? [{ ...message, channel, tokens }] : [];
      }),
    );
    const [message] = messages;
    if (!message || messages.length > 1) {
      return [
        `${messages.length} messages of ${stream} have the subject ${subject} and the type ${event.type}`,
      ];
    }
    const faults = message.validate(event)
      ? []
      : (message.validate.errors ?? []).map(({ instancePath, message: fault }) => `${instancePath} ${fault}`);
    const { address, parameters } = message.channel;
    for (const name of Object.keys(message.tokens)) {
      if (!parameters[name]) faults.push(`${address} does not describe {${name}}`);
    }
    const [, kind] = /^ff\.\w+\.v1\.[^.]+\.(\w+)\.[^.]+$/.exec(address) ?? [];
    const { environment, id } = message.tokens;
    const named = `${environment === undefined ? '_account' : textOfSubjectToken(environment)}/${kind}/${textOfSubjectToken(id ?? '')}`;
    if (named !== event.subject) faults.push(`the subject names ${named}, and the event ${event.subject}`);
    return faults;
  }
}

/** The parameters in a subject; nothing if it does not fit the address. */
function tokensIn(subject: string, address: string): Readonly<Record<string, string>> | undefined {
  const pattern = address.replaceAll('.', '\\.').replaceAll(/\{(\w+)\}/g, '(?<$1>[A-Za-z0-9_=-]+)');
  return new RegExp(`^${pattern}$`).exec(subject)?.groups;
}
