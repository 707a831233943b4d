import { close, fdatasync, open as openFile, write } from 'node:fs'
import { stat } from 'node:fs/promises'
import { setImmediate as tick } from 'node:timers/promises'
import { promisify } from 'node:util'
import { type Logger, pino } from 'pino'
import type { Event } from '../intake/event.ts'
import { Refusal } from '../refusal.ts'
import { createSegment, listSegments, pointStableName, type Segment } from './segments.ts'

export interface Journal {
  /**
   * Resolves once the event would survive a power cut, so the caller may answer 200.
   *
   * Events that arrive while the disk is busy share the next fsync: latency is that of one fsync, throughput that of
   * many.
   *
   * @throws {Refusal} `journal_unavailable` when the disk refused
   */
  append(event: Event): Promise<void>
  /** Resolves when everything appended before is on disk; what comes later is refused. */
  close(): Promise<void>
}

export interface JournalParts {
  readonly dataDir: string
  readonly log: Logger
}

/** Those who wait for one fsync. */
interface Group {
  readonly lines: string[]
  readonly durable: PromiseWithResolvers<void>
}

// The promise-based file handles cost twice the CPU of these, and this is the way of every post.
const disk = {
  open: promisify(openFile),
  write: promisify(write),
  fdatasync: promisify(fdatasync),
  close: promisify(close),
}

/** Opens the journal for writing, on a segment of its own: what an earlier process wrote is never appended to. */
export async function openJournal({ dataDir, log }: JournalParts): Promise<Journal> {
  let group = newGroup()
  let committing: Promise<void> | undefined
  let closed = false
  let file: { readonly segment: Segment; readonly fd: number } | undefined = await openSegment()

  // pino makes the line and hands it over before info() returns.
  const lines = pino(
    { base: null, timestamp: pino.stdTimeFunctions.isoTime },
    { write: (line) => void group.lines.push(line) },
  )

  async function openSegment() {
    const last = await lastSegment(dataDir)
    const isUnused = last !== undefined && (await stat(last.path)).size === 0
    const segment = isUnused ? last : await createSegment(dataDir, (last?.number ?? 0) + 1, new Date())
    const fd = await disk.open(segment.path, 'a')
    await pointStableName(dataDir, segment)
    return { segment, fd }
  }

  /** One write and one fsync for everyone who waits, again and again until nobody does. */
  async function commit(): Promise<void> {
    // Posts that were read from their sockets in this turn of the event loop join the first group.
    await tick()
    while (group.lines.length > 0) {
      const { lines, durable } = group
      group = newGroup()
      try {
        file ??= await openSegment()
        await writeWhole(file.fd, Buffer.from(lines.join('')))
        await disk.fdatasync(file.fd)
        durable.resolve()
      } catch (error) {
        durable.reject(new Refusal('journal_unavailable', {}, { cause: error }))
        log.error({ err: error, segment: file?.segment.path, events: lines.length }, 'the journal cannot be written')
        await abandonSegment()
      }
    }
    committing = undefined
  }

  /** After a failed write or fsync the kernel may have dropped pages: nothing that follows on this file proves anything. */
  async function abandonSegment(): Promise<void> {
    const abandoned = file
    file = undefined
    // The descriptor is gone either way, and the reason was logged with the failed write.
    if (abandoned) await disk.close(abandoned.fd).catch(() => undefined)
  }

  return {
    append(event) {
      if (closed) return Promise.reject(new Refusal('journal_unavailable', { reason: 'closed' }))
      const { durable } = group
      lines.info(event, event.object === undefined ? event.event : `${event.event} ${event.object}`)
      committing ??= commit()
      return durable.promise
    },
    async close() {
      closed = true
      await committing
      await abandonSegment()
    },
  }
}

function newGroup(): Group {
  const durable = Promise.withResolvers<void>()
  // Whoever appended waits for it; a group nobody joined must not become an unhandled rejection.
  durable.promise.catch(() => undefined)
  return { lines: [], durable }
}

async function lastSegment(dataDir: string): Promise<Segment | undefined> {
  try {
    return (await listSegments(dataDir)).at(-1)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

/** write(2) may take less than it was given, on a full disk for one. */
async function writeWhole(fd: number, bytes: Buffer): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await disk.write(fd, bytes, done)).bytesWritten
}
