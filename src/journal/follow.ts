import { isUtf8 } from 'node:buffer'
import { existsSync, type FSWatcher, watch } from 'node:fs'
import { type FileHandle, stat } from 'node:fs/promises'
import { type Logger, pino } from 'pino'
import type { JournalledEvent } from '../events/event.ts'
import { type Block, type Blocks, newline, readBlocks } from '../lib/blocks.ts'
import { type Damage, readableIds } from './damage.ts'
import { oldest, type Position } from './position.ts'
import { firstId, journalDir, listSegments, openToRead, type Segment } from './segments.ts'

/** Events in the order of the journal, each with its place, and the position after them. */
export interface Batch {
  readonly entries: readonly { readonly event: JournalledEvent; readonly at: Position }[]
  readonly position: Position
}

export interface FollowDeps {
  readonly dataDir: string
  readonly from: Position
  /** Ends the iteration, unless the end of the journal ends it first. */
  readonly signal: AbortSignal
  /** `false`: stop at the end of the journal. */
  readonly wait?: boolean
  /** Only lines that contain this text are parsed, which is much faster than parsing all lines. */
  readonly needle?: string | undefined
  readonly onDamage?: (damage: Damage) => void
  readonly log: Logger
}

const chunkSize = 64 * 1024

/**
 * Bytes of a read while most lines are skipped: fewer and larger reads are faster, and this size fits a core's cache.
 */
const searchSize = 1024 ** 2

/** Milliseconds. Some file systems and containers do not report a write. */
const pollInterval = 1000

/**
 * Reads the journal from a position on, across segments, and waits for more like `tail -F`. Only complete lines are
 * read. A complete line that is not an event is skipped and logged with its place.
 */
export async function* follow(deps: FollowDeps): AsyncGenerator<Batch> {
  const { dataDir, from, signal, wait = true, needle, onDamage = () => undefined, log } = deps
  const bell = createBell(journalDir(dataDir), signal)
  const sought = needle === undefined ? undefined : Buffer.from(needle)
  let file: (Segment & { readonly handle: FileHandle; readonly blocks: Blocks }) | undefined
  let position = from
  let next: Segment | undefined
  let skipped = 0
  try {
    while (!signal.aborted) {
      bell.reset()
      file ??= await openSegment(position)
      let block = await file?.blocks.next()
      if (block === undefined) {
        next = (await listSegments(dataDir)).find(isBehind)
        if (next === undefined && !wait) return
        if (next === undefined) {
          await bell.rung()
          continue
        }
        // A next segment exists, so this one is sealed, but it may have grown since the last read.
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
      // A segment can only be identified once it has a line.
      const first = position.first ?? (file && (await firstId(file.handle)))
      position = { segment, offset: block.offset + block.bytes.length, ...(first !== undefined && { first }) }
      yield { entries, position }
    }
  } finally {
    bell.close()
    await file?.handle.close()
  }

  /** Compares the paths of two segments with the same number, so that neither is skipped. */
  function isBehind({ number, path }: Segment): boolean {
    return number > position.segment || (number === position.segment && file !== undefined && path > file.path)
  }

  async function openSegment({ segment, offset, first }: Position) {
    for (const found of await listSegments(dataDir)) {
      if (next === undefined ? found.number !== segment : found.path !== next.path) continue
      // An empty segment is removed when there is a later one.
      const handle = await openToRead(found)
      if (handle === undefined) continue
      const known = next === undefined && first !== undefined ? await firstId(handle) : undefined
      if (known === undefined || known === first)
        return { ...found, handle, blocks: readBlocks(handle, offset, sought === undefined ? chunkSize : searchSize) }
      await handle.close()
    }
    return undefined
  }

  function readAll({ bytes, offset }: Block, segment: number): Batch['entries'] {
    // For bytes that are not UTF-8, the text would be longer than the bytes.
    if (!isUtf8(bytes)) return readDamaged({ bytes, offset }, segment)
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

  function readDamaged({ bytes, offset }: Block, segment: number): Batch['entries'] {
    const entries: Batch['entries'][number][] = []
    for (let start = 0, end = 0; start < bytes.length; start = end + 1) {
      end = bytes.indexOf(newline, start)
      const at = { segment, offset: offset + start }
      const line = bytes.subarray(start, end)
      if (isUtf8(line)) entries.push(...(line.length === 0 ? [] : parse(line.toString(), at)))
      else skip(line, at)
    }
    return entries
  }

  /** Only matching lines are decoded to text, because decoding takes most of the time. */
  function search({ bytes, offset }: Block, segment: number, sought: Buffer): Batch['entries'] {
    const entries: Batch['entries'][number][] = []
    for (let found = bytes.indexOf(sought); found !== -1; ) {
      const start = bytes.lastIndexOf(newline, found) + 1
      const end = bytes.indexOf(newline, found)
      entries.push(...readDamaged({ bytes: bytes.subarray(start, end + 1), offset: offset + start }, segment))
      found = bytes.indexOf(sought, end)
    }
    return entries
  }

  function parse(line: string, at: Position): Batch['entries'] {
    const event = parseEvent(line)
    if (event === undefined) skip(Buffer.from(line), at)
    return event === undefined ? [] : [{ event, at }]
  }

  function skip(line: Buffer, at: Position): void {
    const events = readableIds(line)
    log.error(
      { ...at, ...(events.length > 0 && { events }), skipped: ++skipped },
      'a line of the journal is no event; skipped',
    )
    onDamage({ at, events })
  }
}

/** Returns `undefined` for a complete line that no receiver wrote. */
function parseEvent(line: string): JournalledEvent | undefined {
  try {
    const event: unknown = JSON.parse(line)
    const isEvent = typeof event === 'object' && event !== null && 'event' in event && typeof event.event === 'string'
    return isEvent && 'id' in event ? (event as JournalledEvent) : undefined
  } catch {
    return undefined
  }
}

/** Returns the position of the first line that is not older than this time. */
export async function positionOfTime(dataDir: string, time: Date, log: Logger): Promise<Position> {
  const signal = new AbortController().signal
  for await (const { entries } of follow({ dataDir, from: oldest, signal, wait: false, log })) {
    const found = entries.find(({ event }) => new Date(event.time) >= time)
    if (found) return found.at
  }
  return positionOfLast(dataDir, 0)
}

/** Milliseconds by which a file's time may be behind the clock: some file systems have a resolution of two seconds. */
const coarsest = 2_000

/**
 * Returns where a search begins for lines that were journalled at this time or later. Segments last written before it
 * are not read.
 */
export async function positionBefore(dataDir: string, time: Date): Promise<Position> {
  for (const { number, path } of await listSegments(dataDir)) {
    // A segment that the retention has just removed is older.
    const written = await stat(path).catch(() => undefined)
    if (written && written.mtimeMs + coarsest >= time.getTime()) return { segment: number, offset: 0 }
  }
  return positionOfLast(dataDir, 0)
}

/** Returns the newest event, if there is one. */
export async function lastEvent(dataDir: string): Promise<JournalledEvent | undefined> {
  // Before the first start of a receiver there is no journal.
  if (!existsSync(journalDir(dataDir))) return undefined
  const from = await positionOfLast(dataDir, 1)
  const reading = { dataDir, from, signal: new AbortController().signal, wait: false, log: pino({ level: 'silent' }) }
  let last: JournalledEvent | undefined
  for await (const { entries } of follow(reading)) last = entries.at(-1)?.event ?? last
  return last
}

/** Returns where the last `count` lines begin. */
export async function positionOfLast(dataDir: string, count: number): Promise<Position> {
  let seen = 0
  for (const segment of (await listSegments(dataDir)).reverse()) {
    const handle = await openToRead(segment)
    // The retention removed this segment, and every older one before it.
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

/** Resolves waits when something in the folder changes, every second, and when the signal aborts. */
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

/** If the kernel has no free watches, or removes one, polling by the clock continues. */
function watchIfPossible(dir: string, strike: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(dir, strike)
    return watcher.on('error', () => watcher.close())
  } catch {
    return undefined
  }
}
