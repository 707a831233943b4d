const [percent, plus, space] = [0x25, 0x2b, 0x20]

/** The value of a hex digit, by its byte; -1 for any other byte. */
const digits = new Int8Array(256).fill(-1)
for (let value = 0; value < 16; value++)
  for (const digit of [value.toString(16), value.toString(16).toUpperCase()]) digits[digit.charCodeAt(0)] = value

/**
 * Returns the byte that an escape encodes; `at` is the position of its percent sign. Returns a negative number if it
 * is not an escape.
 */
export function escapedByte(bytes: Uint8Array, at: number): number {
  // Each invalid digit is -1, which makes the whole result negative.
  return ((digits[bytes[at + 1] ?? 0] ?? -1) << 4) | (digits[bytes[at + 2] ?? 0] ?? -1)
}

/** Does the same as `escapedByte` for a text. */
export function escapedChar(text: string, at: number): number {
  return ((digits[text.charCodeAt(at + 1)] ?? -1) << 4) | (digits[text.charCodeAt(at + 2)] ?? -1)
}

/**
 * Does what PHP's urldecode does, in place: `+` is a space, and an invalid escape stays unchanged. It makes one pass
 * and never throws: decodeURIComponent costs a stack trace for each part with a bad escape.
 *
 * @returns the part of `bytes` that holds the result
 */
export function decodePercent(bytes: Buffer): Buffer {
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    let byte = bytes[at] ?? 0
    if (byte === plus) byte = space
    else if (byte === percent) {
      const escaped = escapedByte(bytes, at)
      if (escaped >= 0) {
        byte = escaped
        at += 2
      }
    }
    bytes[length++] = byte
  }
  return bytes.subarray(0, length)
}
