import { newline } from './blocks.ts'

/**
 * The lines of a stream, without their ends; not node:readline, which also ends a line at U+2028, and keeps one that never
 * ends. `undefined` stands for a line of more than `longest` bytes, as soon as it is known to be one.
 */
export async function* readLines(chunks: AsyncIterable<Buffer>, longest: number): AsyncGenerator<Buffer | undefined> {
  let parts: Buffer[] = []
  let size = 0
  for await (const chunk of chunks) {
    for (let from = 0; from < chunk.length; ) {
      const end = chunk.indexOf(newline, from)
      const isWhole = end !== -1
      const part = chunk.subarray(from, isWhole ? end : chunk.length)
      from += part.length + (isWhole ? 1 : 0)
      const wasTooLong = size > longest
      size += part.length
      if (size <= longest) parts.push(part)
      else {
        parts = []
        if (!wasTooLong) yield undefined
      }
      if (!isWhole) continue
      if (size <= longest) yield Buffer.concat(parts)
      parts = []
      size = 0
    }
  }
  if (size > 0 && size <= longest) yield Buffer.concat(parts)
}
