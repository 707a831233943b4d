import type { FileHandle } from 'node:fs/promises'

/** Whole lines of a file. */
export interface Block {
  /** The last one is a newline. They are good until the next block is asked for. */
  readonly bytes: Buffer
  /** Where they begin in the file. */
  readonly offset: number
}

export interface Blocks {
  /** The lines that follow; `undefined` at the end of what is there now: it may be asked again. */
  next(): Promise<Block | undefined>
  /** What follows the last whole line. */
  rest(): Block
}

export const newline = 0x0a

/**
 * Reads a file as blocks of whole lines, through one buffer.
 *
 * @param offset where the first line begins
 * @param size bytes of a read; a line that is longer makes the buffer grow
 */
export function readBlocks(handle: FileHandle, offset: number, size: number): Blocks {
  let buffer: Buffer = Buffer.allocUnsafeSlow(size)
  // In the buffer: what was given out, and behind it the line that has no end yet.
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
