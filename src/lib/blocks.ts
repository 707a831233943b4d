import type { FileHandle } from 'node:fs/promises'

/** Complete lines of a file. */
export interface Block {
  /** The last byte is a newline. The bytes are valid until the next block is requested. */
  readonly bytes: Buffer
  /** The offset of the bytes in the file. */
  readonly offset: number
}

export interface Blocks {
  /** Returns the next lines; `undefined` at the current end of the file. It may be called again after that. */
  next(): Promise<Block | undefined>
  /** Returns the bytes after the last complete line. */
  rest(): Block
}

export const newline = 0x0a

/**
 * Reads a file as blocks of complete lines, through one buffer.
 *
 * @param offset where the first line begins
 * @param size bytes of a read; a longer line makes the buffer grow
 */
export function readBlocks(handle: FileHandle, offset: number, size: number): Blocks {
  let buffer: Buffer = Buffer.allocUnsafeSlow(size)
  // The buffer holds the bytes that were returned, and then the line that is still incomplete.
  let given = 0
  let filled = 0

  return {
    async next() {
      buffer.copyWithin(0, given, filled)
      filled -= given
      offset += given
      given = 0
      for (;;) {
        if (filled === buffer.length) buffer = Buffer.concat([buffer], buffer.length * 2)
        const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, offset + filled)
        if (bytesRead === 0) return undefined
        const end = buffer.subarray(filled, filled + bytesRead).lastIndexOf(newline) + 1
        if (end > 0) given = filled + end
        filled += bytesRead
        if (end > 0) return { bytes: buffer.subarray(0, given), offset }
      }
    },
    rest: () => ({ bytes: buffer.subarray(given, filled), offset: offset + given }),
  }
}
