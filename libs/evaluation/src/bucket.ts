/** Which of a hundred buckets a text falls into: murmur3 (x86, 32 bits, seed 0) over its UTF-8 bytes. */

/** @returns 1 to 100; the same for a target in every flag that spreads by the same attribute */
export function bucketOf(attribute: string, text: string): number {
  return (murmur3(`${attribute}:${text}`) % 100) + 1;
}

/** Works on the text as it is, so that no bytes are set up for it. A lone surrogate counts as U+FFFD. */
function murmur3(text: string): number {
  let hash = 0;
  let block = 0;
  let bytes = 0;

  const units = text.length;
  for (let i = 0; i < units; i++) {
    let rest = text.charCodeAt(i);
    // What is left of the character after its first byte: how many bytes, and their bits.
    let following = 0;
    let byte = rest;
    if (rest >= 0x80) {
      if (rest >= 0xd800 && rest < 0xe000) {
        const low = rest < 0xdc00 && i + 1 < units ? text.charCodeAt(i + 1) : 0;
        if (low >= 0xdc00 && low < 0xe000) {
          rest = 0x10000 + ((rest - 0xd800) << 10) + (low - 0xdc00);
          i++;
        } else {
          rest = 0xfffd;
        }
      }
      following = rest < 0x800 ? 1 : rest < 0x10000 ? 2 : 3;
      byte = ((0xff00 >> (following + 1)) & 0xff) | (rest >> (6 * following));
    }
    for (;;) {
      block |= byte << (8 * (bytes & 3));
      if ((++bytes & 3) === 0) {
        hash ^= scrambled(block);
        hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64) | 0;
        block = 0;
      }
      if (following === 0) break;
      following--;
      byte = 0x80 | ((rest >> (6 * following)) & 0x3f);
    }
  }

  hash ^= scrambled(block) ^ bytes;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function scrambled(block: number): number {
  const mixed = Math.imul(block, 0xcc9e2d51);
  return Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593);
}
