import { existsSync, type FSWatcher, watch } from 'node:fs'
import { type FileHandle, stat } from 'node:fs/promises'
import { type Logger, pino } from 'pino'
import type { Event } from '../intake/event.ts'
import { type Block, type Blocks, newline, readBlocks } from './blocks.ts'
import { journalDir, listSegments, openToRead } from './segments.ts'

/** The next byte to read. A position in a segment that is gone, or past the end of a sealed one, means the next one. */
export interface Position {
  readonly segment: number
  readonly offset: number
}

/** A line of the journal: the event, and what pino adds. */
export interface JournalledEvent extends Event {
  readonly level: number
  /** When the journal took it, ISO 8601. */
  readonly time: string
  readonly msg: string
}

/** Events in the order of the journal, each with its place, and where to go on after them. */
export interface Batch {
  readonly entries: readonly { readonly event: JournalledEvent; readonly at: Position }[]
  readonly position: Position
}

export interface FollowParts {
  readonly dataDir: string
  readonly from: Position
  /** Ends the iteration, where the end of the journal does not. */
  readonly signal: AbortSignal
  /** `false`: end at the end of the journal. */
  readonly wait?: boolean
  /** Only lines that hold this text are read, which is much faster than reading all. */
  readonly needle?: string | undefined
  readonly log: Logger
}

/** The start of every journal. */
export const oldest: Position = { segment: 0, offset: 0 }

const chunkSize = 64 * 1024

/** Where most lines are passed over, fewer and larger reads; it fits a core's cache. */
const searchSize = 1024 ** 2

/** Some file systems and containers give no notice of a write. */
const pollInterval = 1000

/**
 * Reads the journal on from a position, across segments, and waits for more like `tail -F`. Only whole lines are read; a
 * whole line that is no event is skipped and logged with its place.
 */
export async function* follow({ dataDir, from, signal, wait = true, needle, log }: FollowParts): AsyncGenerator<Batch> {
  const bell = createBell(journalDir(dataDir), signal)
  const sought = needle === undefined ? undefined : Buffer.from(needle)
  let file: { readonly handle: FileHandle; readonly blocks: Blocks } | undefined
  let position = from
  let skipped = 0
  try {
    while (!signal.aborted) {
      bell.reset()
      file ??= await openSegment(position)
      let block = await file?.blocks.next()
      if (block === undefined) {
        const next = (await listSegments(dataDir)).find((segment) => segment.number > position.segment)
        if (next === undefined && !wait) return
        if (next === undefined) {
          await bell.rung()
          continue
        }
        // Now that there is a next one this segment is sealed, but it may have grown since the last look.
        block = await file?.blocks.next()
        if (block === undefined) {
          const bytes = file?.blocks.rest().bytes.length ?? 0
          if (bytes > 0) log.warn({ ...position, bytes }, 'half a line at the end of a segment; skipped')
          await file?.handle.close()
          file = undefined
          position = { segment: next.number, offset: 0 }
          continue
        }
      }
      const { segment } = position
      const entries = sought === undefined ? readAll(block, segment) : search(block, segment, sought)
      position = { segment, offset: block.offset + block.bytes.length }
      yield { entries, position }
    }
  } finally {
    bell.close()
    await file?.handle.close()
  }

  async function openSegment({ segment, offset }: Position) {
    const found = (await listSegments(dataDir)).find(({ number }) => number === segment)
    if (found === undefined) return undefined
    // An empty one goes when there is a later one.
    const handle = await openToRead(found)
    return handle && { handle, blocks: readBlocks(handle, offset, needle === undefined ? chunkSize : searchSize) }
  }

  function readAll({ bytes, offset }: Block, segment: number): Batch['entries'] {
    let at = { segment, offset }
    return bytes
      .toString()
      .split('\n')
      .flatMap((line) => {
        const entry = line === '' ? [] : parse(line, at)
        at = { segment, offset: at.offset + Buffer.byteLength(line) + 1 }
        return entry
      })
  }

  /** Only what is found is made a text: that is what costs the time. */
  function search({ bytes, offset }: Block, segment: number, sought: Buffer): Batch['entries'] {
    const entries: { event: JournalledEvent; at: Position }[] = []
    for (let found = bytes.indexOf(sought); found !== -1; ) {
      const start = bytes.lastIndexOf(newline, found) + 1
      const end = bytes.indexOf(newline, found)
      entries.push(...parse(bytes.toString('utf8', start, end), { segment, offset: offset + start }))
      found = bytes.indexOf(sought, end)
    }
    return entries
  }

  function parse(line: string, at: Position): Batch['entries'] {
    const event = parseEvent(line)
    if (event === undefined) log.error({ ...at, skipped: ++skipped }, 'a line of the journal is no event; skipped')
    return event === undefined ? [] : [{ event, at }]
  }
}

/** `undefined` when the line is none: a whole line that no receiver wrote. */
function parseEvent(line: string): JournalledEvent | undefined {
  try {
    const event: unknown = JSON.parse(line)
    const isEvent = typeof event === 'object' && event !== null && 'event' in event && typeof event.event === 'string'
    return isEvent && 'id' in event ? (event as JournalledEvent) : undefined
  } catch {
    return undefined
  }
}

/** Where the first line begins that is not older than this. */
export async function positionOfTime(dataDir: string, time: Date, log: Logger): Promise<Position> {
  const signal = new AbortController().signal
  for await (const { entries } of follow({ dataDir, from: oldest, signal, wait: false, log })) {
    const found = entries.find(({ event }) => new Date(event.time) >= time)
    if (found) return found.at
  }
  return positionOfLast(dataDir, 0)
}

/** Milliseconds by which the time of a file may be behind the clock: some file systems count in steps of two seconds. */
const coarsest = 2_000

/**
 * Where to begin to look for what was journalled at this time or later: of the segments that were written before it,
 * nothing is read.
 */
export async function positionBefore(dataDir: string, time: Date): Promise<Position> {
  for (const { number, path } of await listSegments(dataDir)) {
    // One that the retention removed meanwhile is older still.
    const written = await stat(path).catch(() => undefined)
    if (written && written.mtimeMs + coarsest >= time.getTime()) return { segment: number, offset: 0 }
  }
  return positionOfLast(dataDir, 0)
}

/** The newest event, if there is any. */
export async function lastEvent(dataDir: string): Promise<JournalledEvent | undefined> {
  // The journal of a first start is not there yet.
  if (!existsSync(journalDir(dataDir))) return undefined
  const from = await positionOfLast(dataDir, 1)
  const reading = { dataDir, from, signal: new AbortController().signal, wait: false, log: pino({ level: 'silent' }) }
  let last: JournalledEvent | undefined
  for await (const { entries } of follow(reading)) last = entries.at(-1)?.event ?? last
  return last
}

/** Where the last `count` lines begin. */
export async function positionOfLast(dataDir: string, count: number): Promise<Position> {
  let seen = 0
  for (const segment of (await listSegments(dataDir)).reverse()) {
    const handle = await openToRead(segment)
    // The retention removed it, and what was older before it.
    if (handle === undefined) return oldest
    try {
      for (let end = (await handle.stat()).size; end > 0; end -= chunkSize) {
        const start = Math.max(0, end - chunkSize)
        const chunk = (await readChunk(handle, start)).subarray(0, end - start)
        for (let at = chunk.lastIndexOf(newline); at !== -1; at = at === 0 ? -1 : chunk.lastIndexOf(newline, at - 1))
          if (++seen > count) return { segment: segment.number, offset: start + at + 1 }
      }
    } finally {
      await handle.close()
    }
  }
  return oldest
}

async function readChunk(handle: FileHandle, offset: number): Promise<Buffer> {
  const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(chunkSize), 0, chunkSize, offset)
  return buffer.subarray(0, bytesRead)
}

/** Rings when something in the folder changes, every second, and when the signal aborts. */
function createBell(dir: string, signal: AbortSignal) {
  let ring = Promise.withResolvers<void>()
  const strike = () => ring.resolve()
  const watcher = watchIfPossible(dir, strike)
  const clock = setInterval(strike, pollInterval)
  signal.addEventListener('abort', strike)
  return {
    reset: () => {
      ring = Promise.withResolvers<void>()
    },
    rung: () => ring.promise,
    close: () => {
      watcher?.close()
      clearInterval(clock)
      signal.removeEventListener('abort', strike)
    },
  }
}

/** Where the kernel has no more watches to give, or takes one away, the clock goes on ringing. */
function watchIfPossible(dir: string, strike: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(dir, strike)
    return watcher.on('error', () => watcher.close())
  } catch {
    return undefined
  }
}
