import type { ChildProcess } from 'node:child_process';

import { z } from 'zod';

const message = z.union([
  z.object({ question: z.string(), id: z.number(), content: z.unknown().optional() }),
  z.object({ answerTo: z.number(), refused: z.string() }),
  z.object({ answerTo: z.number(), content: z.unknown().optional() }),
]);
type Message = z.infer<typeof message>;

/** Questions and answers between a process and one that it started with an IPC channel. Either may ask. */
export class Channel {
  private readonly answers = new Map<string, (content: unknown) => unknown>();
  private readonly asked = new Map<number, PromiseWithResolvers<unknown>>();
  private lastId = 0;

  constructor(private readonly peer: ChildProcess | NodeJS.Process) {
    peer.on('message', (received) => {
      const read = message.safeParse(received);
      if (read.success) void this.take(read.data);
    });
    peer.on('disconnect', () => {
      for (const { reject } of this.asked.values()) reject(new Error('the other process is gone'));
      this.asked.clear();
    });
  }

  /** How a question is answered from now on. One that nobody answers is refused. */
  answer(question: string, by: (content: unknown) => unknown): void {
    this.answers.set(question, by);
  }

  /** Rejects when the question is refused, when the other process ends, or when it takes too long. */
  async ask(question: string, content?: unknown, withinMs?: number): Promise<unknown> {
    if (!this.peer.connected) throw new Error('the other process is gone');
    const id = ++this.lastId;
    const answered = Promise.withResolvers<unknown>();
    this.asked.set(id, answered);
    const late =
      withinMs === undefined
        ? undefined
        : setTimeout(() => answered.reject(new Error('the other process does not answer')), withinMs);
    this.send({ question, id, content });
    try {
      return await answered.promise;
    } finally {
      clearTimeout(late);
      this.asked.delete(id);
    }
  }

  private async take(received: Message): Promise<void> {
    if (!('question' in received)) {
      const asked = this.asked.get(received.answerTo);
      if ('refused' in received) asked?.reject(new Error(received.refused));
      else asked?.resolve(received.content);
      return;
    }
    const { question, id, content } = received;
    try {
      const by = this.answers.get(question);
      if (!by) throw new Error(`nobody answers ${question} yet`);
      this.send({ answerTo: id, content: await by(content) });
    } catch (error) {
      this.send({ answerTo: id, refused: error instanceof Error ? error.message : String(error) });
    }
  }

  /** Who is gone needs no message; what waits for its answer is told. */
  private send(sent: Message): void {
    if (this.peer.connected) this.peer.send?.(sent, undefined, undefined, () => undefined);
  }
}
