import { readFile } from 'node:fs/promises';

import { Logger } from '@nestjs/common';
import { type Observable, Subject } from 'rxjs';

/** How soon a new key in the file is found. */
const LOOK_EVERY_MS = 2000;
/** What a header can carry. */
const KEY = /^[\x21-\x7e]{1,4096}$/;

/**
 * The account-level secret of this relay. If it stands in a file, a new one that appears there is taken over: a rotated
 * key needs no restart. A file that is gone, empty or holds something else changes nothing.
 */
export class ProxyKey {
  private readonly logger = new Logger(ProxyKey.name);
  private readonly changes = new Subject<void>();
  private timer: NodeJS.Timeout | undefined;
  private reported = '';

  /** @param file where a new key may appear; never, if left out */
  constructor(
    private key: string,
    private readonly file?: string,
  ) {}

  get current(): string {
    return this.key;
  }

  /** Emits after the key was replaced. */
  get changed(): Observable<void> {
    return this.changes;
  }

  /** Begins to watch the file. */
  watch(everyMs = LOOK_EVERY_MS): void {
    if (this.file !== undefined) this.timer = setInterval(() => void this.look(), everyMs).unref();
  }

  close(): void {
    clearInterval(this.timer);
    this.changes.complete();
  }

  private async look(): Promise<void> {
    try {
      const found = (await readFile(this.file ?? '', 'utf8')).trim();
      if (!KEY.test(found)) throw new Error('the file holds no proxy key');
      this.reported = '';
      if (found === this.key) return;
      this.key = found;
      this.logger.log('A new proxy key was found in PROXY_KEY_FILE and is used from now on');
      this.changes.next();
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.reported)
        this.logger.warn(`PROXY_KEY_FILE: ${message}; the last proxy key stays in use`);
      this.reported = message;
    }
  }
}
