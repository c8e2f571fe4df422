import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';

import { Logger } from '@nestjs/common';

/** How soon new files are found. */
const LOOK_EVERY_MS = 2000;
const CERTIFICATE =
  /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]+-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g;

/** A file, and the setting that names it. */
interface NamedFile {
  readonly setting: string;
  readonly path: string;
}

interface Parts<Part> {
  /** Authorities to trust. */
  readonly ca?: Part | undefined;
  /** A certificate, and those between it and its authority. */
  readonly cert?: Part | undefined;
  readonly key?: Part | undefined;
}

/** What the files hold, as PEM text. */
export type TlsTexts = Parts<string>;

/**
 * Certificates and keys in files that may be replaced while the process runs, as it is done before they expire. What
 * is new is taken when all of it belongs together; until then the last stays in use.
 */
export class TlsFiles {
  private readonly logger = new Logger('TLS');
  private timer: NodeJS.Timeout | undefined;
  private doubt = '';
  private reported = '';

  private constructor(
    private readonly files: Parts<NamedFile>,
    private texts: TlsTexts,
  ) {}

  /** Throws an Error that names the setting and what is wrong with its file. */
  static open(files: Parts<NamedFile>): TlsFiles {
    const read = (file?: NamedFile) => file && attempt(file, () => readFileSync(file.path, 'utf8'));
    const texts = { ca: read(files.ca), cert: read(files.cert), key: read(files.key) };
    check(files, texts);
    return new TlsFiles(files, texts);
  }

  get current(): TlsTexts {
    return this.texts;
  }

  /** What is shown to the other side, in ms since the epoch; undefined if nothing is. */
  get validity(): { readonly setting: string; readonly from: number; readonly until: number } | undefined {
    const { cert } = this.texts;
    if (cert === undefined || !this.files.cert) return undefined;
    const { validFromDate, validToDate } = new X509Certificate(cert);
    return { setting: this.files.cert.setting, from: validFromDate.getTime(), until: validToDate.getTime() };
  }

  /** Calls back whenever new files were taken, until it is closed. */
  watch(taken: (texts: TlsTexts) => void, everyMs = LOOK_EVERY_MS): void {
    this.timer = setInterval(() => void this.look(taken), everyMs).unref();
  }

  close(): void {
    clearInterval(this.timer);
  }

  private async look(taken: (texts: TlsTexts) => void): Promise<void> {
    try {
      const texts = await this.read();
      if (!isSame(texts, this.texts)) {
        check(this.files, texts);
        this.texts = texts;
        taken(texts);
        this.logger.log(`${this.settings()}: new files are used from now on${validUntil(texts)}`);
      }
      this.doubt = this.reported = '';
    } catch (error) {
      const { message } = error as Error;
      // One file is replaced before the other: that it does not fit yet is no news.
      if (message === this.doubt && message !== this.reported) {
        this.logger.warn(`${message}; what was there before stays in use`);
        this.reported = message;
      }
      this.doubt = message;
    }
  }

  private async read(): Promise<TlsTexts> {
    const { ca, cert, key } = this.files;
    const read = (file?: NamedFile) =>
      file &&
      readFile(file.path, 'utf8').catch((error: Error) => {
        throw unusable(file, error.message, error);
      });
    return { ca: await read(ca), cert: await read(cert), key: await read(key) };
  }

  private settings(): string {
    const { ca, cert, key } = this.files;
    return [ca, cert, key].flatMap((file) => file?.setting ?? []).join(', ');
  }
}

function isSame(one: TlsTexts, other: TlsTexts): boolean {
  return one.ca === other.ca && one.cert === other.cert && one.key === other.key;
}

/** Throws if something could not be used, or does not belong together. */
function check(files: Parts<NamedFile>, { ca, cert, key }: TlsTexts): void {
  if (files.ca && ca !== undefined) certificatesIn(files.ca, ca);
  if (!files.cert || !files.key || cert === undefined || key === undefined) return;
  const [own] = certificatesIn(files.cert, cert);
  const secret = attempt(files.key, () => createPrivateKey(key), 'holds no private key without a password');
  if (!own?.checkPrivateKey(secret))
    throw unusable(files.key, `is not the key of the first certificate in ${files.cert.setting}`);
  attempt(files.cert, () => createSecureContext({ cert, key }));
}

function certificatesIn(file: NamedFile, text: string): X509Certificate[] {
  const blocks = text.match(CERTIFICATE) ?? [];
  if (blocks.length === 0) throw unusable(file, 'holds no certificate in PEM');
  return blocks.map((block) =>
    attempt(file, () => new X509Certificate(block), 'holds a damaged certificate'),
  );
}

/** @param wrong what is wrong if it fails; what the failure says, if left out */
function attempt<Result>(file: NamedFile, act: () => Result, wrong?: string): Result {
  try {
    return act();
  } catch (error) {
    throw unusable(file, wrong ?? (error as Error).message, error);
  }
}

function unusable({ setting, path }: NamedFile, why: string, cause?: unknown): Error {
  return new Error(`${setting}: ${why.includes(path) ? why : `${path} ${why}`}`, { cause });
}

function validUntil({ cert }: TlsTexts): string {
  return cert === undefined ? '' : `; the certificate is valid until ${new X509Certificate(cert).validTo}`;
}
