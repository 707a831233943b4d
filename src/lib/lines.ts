import { newline } from './blocks.ts'

/**
 * Returns the lines of a stream, without their ends. node:readline would also end a line at U+2028, and would buffer
 * a line that never ends. `undefined` stands for a line of more than `maxBytes` bytes; it comes as soon as that length
 * is reached.
 */
export async function* readLines(chunks: AsyncIterable<Buffer>, maxBytes: number): AsyncGenerator<Buffer | undefined> {
  let parts: Buffer[] = []
  let size = 0
  for await (const chunk of chunks) {
    for (let from = 0; from < chunk.length; ) {
      const end = chunk.indexOf(newline, from)
      const isWhole = end !== -1
      const part = chunk.subarray(from, isWhole ? end : chunk.length)
      from += part.length + (isWhole ? 1 : 0)
      const wasTooLong = size > maxBytes
      size += part.length
      if (size <= maxBytes) parts.push(part)
      else {
        parts = []
        if (!wasTooLong) yield undefined
      }
      if (!isWhole) continue
      if (size <= maxBytes) yield Buffer.concat(parts)
      parts = []
      size = 0
    }
  }
  if (size > 0 && size <= maxBytes) yield Buffer.concat(parts)
}
