import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

type Encoding = 'br' | 'gzip';

/** Less than this fits into two packets anyway. */
const LEAST_COMPRESSED_BYTES = 2048;
/** 200 KB of flags become 16 KB in 3 ms; a step more makes them no smaller, and 11 steps take a hundred times as long. */
const BROTLI_QUALITY = 5;

const compress: Record<Encoding, (bytes: Buffer) => Promise<Buffer>> = {
  br: (bytes) =>
    promisify(brotliCompress)(bytes, {
      params: {
        [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY,
        [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
      },
    }),
  gzip: promisify(gzip),
};

/** What is sent: the same content has the same tag in each encoding, on every gateway and at any time. */
export interface Representation {
  readonly bytes: Buffer;
  /** A strong ETag. */
  readonly tag: string;
  readonly encoding: Encoding | undefined;
}

/**
 * An answer that is made once and sent many times, in the encodings that readers take. Each encoding is made for its
 * first reader, on a thread of zlib's; those who come meanwhile wait with it for these milliseconds, so nobody's work is
 * done twice and the thread that serves goes on.
 */
export class ReadyAnswer {
  private readonly made = new Map<Encoding, Representation | Promise<Representation>>();
  private plain: Representation | undefined;

  constructor(readonly bytes: Buffer) {}

  /** @param accepted the header Accept-Encoding */
  in(accepted: string | undefined): Representation | Promise<Representation> {
    const encoding = this.bytes.length < LEAST_COMPRESSED_BYTES ? undefined : preferred(accepted);
    this.plain ??= { bytes: this.bytes, tag: `"${digestOf(this.bytes)}"`, encoding: undefined };
    return encoding ? (this.made.get(encoding) ?? this.make(encoding, this.plain)) : this.plain;
  }

  /** The tag by which a reader says that it has this content, in whatever encoding. @param held the header If-None-Match */
  heldAs(held: string, { tag }: Representation): string | undefined {
    const digest = tag.slice(0, 1 + DIGEST_CHARACTERS);
    const tags = held.split(',').map((each) => each.trim().replace(/^W\//, ''));
    return tags.find((each) => each.startsWith(digest) || each === '*');
  }

  private make(encoding: Encoding, { bytes, tag }: Representation): Promise<Representation> {
    const making = compress[encoding](bytes).then((compressed) => {
      const representation = { bytes: compressed, tag: `${tag.slice(0, -1)}-${encoding}"`, encoding };
      this.made.set(encoding, representation);
      return representation;
    });
    this.made.set(encoding, making);
    return making;
  }
}

/** 132 bits. */
const DIGEST_CHARACTERS = 22;

function digestOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('base64url').slice(0, DIGEST_CHARACTERS);
}

/** The encoding that a reader likes best (RFC 9110 §12.5.3): Brotli among equals, and none if that is liked better. */
function preferred(accepted: string | undefined): Encoding | undefined {
  if (!accepted) return undefined;
  const weights = new Map<string, number>();
  for (const item of accepted.toLowerCase().split(',', 20)) {
    const [name = '', ...parameters] = item.split(';').map((part) => part.trim());
    const weight = parameters.find((part) => part.startsWith('q='))?.slice(2);
    weights.set(name, weight === undefined ? 1 : Number(weight) || 0);
  }
  const weightOf = (name: string) => weights.get(name) ?? weights.get('*') ?? 0;
  const [br, gzipped] = [weightOf('br'), weightOf('gzip')];
  const best = Math.max(br, gzipped);
  if (best <= 0 || best < (weights.get('identity') ?? 0)) return undefined;
  return br === best ? 'br' : 'gzip';
}
