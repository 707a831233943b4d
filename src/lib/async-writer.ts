import { write, writeSync } from 'node:fs'
import { setImmediate as tick } from 'node:timers/promises'
import { codeOf } from './error-code.ts'

export interface Output {
  /** `false` when too much waits already: these lines are dropped. */
  write(...lines: readonly string[]): boolean
  /** Resolves when what was written before has left, or cannot. */
  flush(): Promise<void>
}

export interface OutputParts {
  /** 1 for stdout, 2 for stderr. */
  readonly fd: number
  /** Bytes that may wait for a reader who does not read. */
  readonly longestBacklog: number
  readonly onDrained?: () => void
}

/**
 * Linux' PIPE_BUF: so much is written whole or not at all, so lines do not mix with those of another process on the same
 * pipe (https://man7.org/linux/man-pages/man7/pipe.7.html).
 */
const longestWrite = 4096

/** Milliseconds until the next try where the output is full and does not block. */
const pause = 50

/** A write that takes longer, in milliseconds, is held by its reader. */
const held = 250

/**
 * Lines to stdout or stderr, written in the background: a reader who stalls must not hold an answer, and one who is gone
 * must not end the process. One write at a time, for a reader who stalls holds a thread of the pool.
 */
export function createOutput({ fd, longestBacklog, onDrained }: OutputParts): Output {
  const waiting: { readonly line: string; readonly size: number }[] = []
  let taken = 0
  let left = 0
  let isWriting = false
  let writing = Promise.resolve()
  /** When the write began that is under way. */
  let since: number | undefined

  async function writeAll(): Promise<void> {
    isWriting = true
    process.on('exit', onExit)
    // Posts that shared an fsync are told together: one write for all of them.
    writing = tick()
    await writing
    while (waiting.length > 0) {
      const bytes = takeChunk()
      since = Date.now()
      writing = writeWhole(fd, bytes)
      await writing
      since = undefined
      left += bytes.length
    }
    process.off('exit', onExit)
    isWriting = false
    onDrained?.()
  }

  function takeChunk(): Buffer {
    let count = 0
    for (let size = 0; count < waiting.length; count++) {
      size += waiting[count]?.size ?? 0
      if (size > longestWrite && count > 0) break
    }
    return toBytes(waiting.splice(0, count))
  }

  function onExit(code: number): void {
    if (since === undefined || Date.now() - since < held) writeRest()
    // exit(3) waits for every thread, also for one that is held. Another program in our place takes the code along.
    else process.execve?.(process.execPath, [process.execPath, '--eval', `process.exit(${code})`], {})
  }

  function writeRest(): void {
    try {
      writeSync(fd, toBytes(waiting))
    } catch {
      // Nobody reads.
    }
  }

  return {
    write(...lines) {
      const more = lines.map((line) => ({ line, size: Buffer.byteLength(line) }))
      const size = more.reduce((sum, one) => sum + one.size, 0)
      if (isWriting && taken - left + size > longestBacklog) return false
      taken += size
      waiting.push(...more)
      if (!isWriting) void writeAll()
      return true
    },
    async flush() {
      for (const end = taken; left < end; ) await writing
    },
  }
}

function toBytes(lines: readonly { readonly line: string }[]): Buffer {
  return Buffer.from(lines.map(({ line }) => line).join(''))
}

/** Never rejects: whoever should read is gone, and there is nowhere left to say so. */
function writeWhole(fd: number, bytes: Buffer, done = 0): Promise<void> {
  return new Promise((resolve) => {
    write(fd, bytes, done, (error, written) => {
      if (codeOf(error) === 'EAGAIN') setTimeout(() => resolve(writeWhole(fd, bytes, done)), pause)
      else if (error || done + written >= bytes.length) resolve()
      else resolve(writeWhole(fd, bytes, done + written))
    })
  })
}
