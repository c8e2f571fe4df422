import type { ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';

import { beforeEach, describe, expect, it } from '@jest/globals';

import { Channel } from './index.js';

/** One end of an IPC channel: what is sent arrives at the other end as JSON. */
class End extends EventEmitter {
  other: End | undefined;
  connected = true;

  send(message: object): void {
    const sent = JSON.stringify(message);
    queueMicrotask(() => this.other?.emit('message', JSON.parse(sent)));
  }

  disconnect(): void {
    this.connected = false;
    this.emit('disconnect');
  }
}

describe('A channel between two processes', () => {
  let end: End;
  let here: Channel;
  let there: Channel;

  beforeEach(() => {
    end = new End();
    end.other = new End();
    end.other.other = end;
    here = new Channel(end as unknown as ChildProcess);
    there = new Channel(end.other as unknown as ChildProcess);
  });

  it('carries questions and answers both ways, also when they overtake each other', async () => {
    const later = Promise.withResolvers<string>();
    there.answer('slow', () => later.promise);
    there.answer('twice', (content) => [content, content]);
    here.answer('nothing', () => undefined);
    const slow = here.ask('slow');
    expect(await here.ask('twice', { a: 1 })).toEqual([{ a: 1 }, { a: 1 }]);
    expect(await there.ask('nothing')).toBeUndefined();
    later.resolve('at last');
    expect(await slow).toBe('at last');
  });

  it('refuses what nobody answers, and says why an answer failed', async () => {
    await expect(here.ask('status')).rejects.toThrow('nobody answers status yet');
    there.answer('status', () => Promise.reject(new Error('it is broken')));
    await expect(here.ask('status')).rejects.toThrow('it is broken');
  });

  it('gives up on one that does not answer in time', async () => {
    there.answer('status', () => new Promise(() => undefined));
    await expect(here.ask('status', undefined, 1)).rejects.toThrow('does not answer');
  });

  it('gives up on one that is gone, before and after it was asked', async () => {
    there.answer('status', () => new Promise(() => undefined));
    const asked = here.ask('status');
    end.disconnect();
    await expect(asked).rejects.toThrow('the other process is gone');
    await expect(here.ask('status')).rejects.toThrow('the other process is gone');
  });

  it('passes over what is none of its own', async () => {
    end.other!.emit('message', 'ready');
    end.other!.emit('message', { answerTo: 7, content: 'of nothing' });
    there.answer('status', () => 'well');
    expect(await here.ask('status')).toBe('well');
  });
});
