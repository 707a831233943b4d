import { write, writeSync } from 'node:fs'
import { setImmediate as tick } from 'node:timers/promises'
import { codeOf } from './error-code.ts'

export interface Output {
  /** Returns `false` if too much already waits: these lines are dropped. */
  write(...lines: readonly string[]): boolean
  /** Resolves when everything written before has left, or cannot leave. */
  flush(): Promise<void>
}

export interface OutputOptions {
  /** 1 for stdout, 2 for stderr. */
  readonly fd: number
  /** The maximum number of bytes that may wait for a reader that has stalled. */
  readonly maxBacklogBytes: number
  readonly onDrained?: () => void
}

/**
 * Linux' PIPE_BUF. Up to this many bytes are written atomically, so lines do not mix with those of another process on
 * the same pipe (https://man7.org/linux/man-pages/man7/pipe.7.html).
 */
const maxWriteBytes = 4096

/** Milliseconds until the next attempt if the output is full and non-blocking. */
const retryIntervalMs = 50

/** Milliseconds after which a pending write counts as blocked by its reader. */
const stalledAfterMs = 250

/**
 * Writes lines to stdout or stderr in the background. A stalled reader must not delay an answer, and a missing reader
 * must not end the process. Only one write runs at a time, because a stalled reader blocks a thread of the pool.
 */
export function createOutput({ fd, maxBacklogBytes, onDrained }: OutputOptions): Output {
  const waiting: { readonly line: string; readonly size: number }[] = []
  let taken = 0
  let left = 0
  let isWriting = false
  let writing = Promise.resolve()
  /** When the current write began. */
  let since: number | undefined

  async function writeAll(): Promise<void> {
    isWriting = true
    process.on('exit', onExit)
    // Posts that shared an fsync are logged together, in one write.
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
      if (size > maxWriteBytes && count > 0) break
    }
    return toBytes(waiting.splice(0, count))
  }

  function onExit(code: number): void {
    if (since === undefined || Date.now() - since < stalledAfterMs) writeRest()
    // exit(3) waits for every thread, including a blocked one. Another program that replaces this process ends with the
    // same code.
    else process.execve?.(process.execPath, [process.execPath, '--eval', `process.exit(${code})`], {})
  }

  function writeRest(): void {
    try {
      writeSync(fd, toBytes(waiting))
    } catch {
      // There is no reader.
    }
  }

  return {
    write(...lines) {
      const more = lines.map((line) => ({ line, size: Buffer.byteLength(line) }))
      const size = more.reduce((sum, one) => sum + one.size, 0)
      if (isWriting && taken - left + size > maxBacklogBytes) return false
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

/** Never rejects: the reader is gone, so there is no place to report the error. */
function writeWhole(fd: number, bytes: Buffer, done = 0): Promise<void> {
  return new Promise((resolve) => {
    write(fd, bytes, done, (error, written) => {
      if (codeOf(error) === 'EAGAIN') setTimeout(() => resolve(writeWhole(fd, bytes, done)), retryIntervalMs)
      else if (error || done + written >= bytes.length) resolve()
      else resolve(writeWhole(fd, bytes, done + written))
    })
  })
}
