const [percent, plus, space] = [0x25, 0x2b, 0x20]

/** The value of a hex digit, by its byte; -1 of what is not one. */
const digits = new Int8Array(256).fill(-1)
for (let value = 0; value < 16; value++)
  for (const digit of [value.toString(16), value.toString(16).toUpperCase()]) digits[digit.charCodeAt(0)] = value

/** The byte that an escape stands for, `at` being its percent sign; negative where it is not an escape. */
export function escapedByte(bytes: Uint8Array, at: number): number {
  // Either digit is -1 where it is none, and then so is the whole.
  return ((digits[bytes[at + 1] ?? 0] ?? -1) << 4) | (digits[bytes[at + 2] ?? 0] ?? -1)
}

/** As `escapedByte`, of a text. */
export function escapedChar(text: string, at: number): number {
  return ((digits[text.charCodeAt(at + 1)] ?? -1) << 4) | (digits[text.charCodeAt(at + 2)] ?? -1)
}

/**
 * PHP's urldecode, in place: `+` is a space, and what is not an escape stays as it is. One pass, and nothing is thrown:
 * decodeURIComponent costs a stack trace for each part with a bad escape.
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
