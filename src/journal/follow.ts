import { isUtf8 } from 'node:buffer'
import { existsSync, type FSWatcher, watch } from 'node:fs'
import { type FileHandle, stat } from 'node:fs/promises'
import { type Logger, pino } from 'pino'
import type { JournalledEvent } from '../events/event.ts'
import { type Block, type Blocks, newline, readBlocks } from '../lib/blocks.ts'
import { isObject } from '../lib/is-object.ts'
import { parseJson } from '../lib/json.ts'
import { type Damage, readableIds } from './damage.ts'
import { oldest, type Position } from './position.ts'
import { firstId, journalDir, listSegments, openIfExists, type Segment } from './segments.ts'

/** An event and the place of its line. */
export interface Entry {
  readonly event: JournalledEvent
  readonly at: Position
}

/** Some events in the order of the journal, and the position after them. */
export interface Chunk {
  readonly entries: readonly Entry[]
  readonly position: Position
}

export interface ReadOptions {
  readonly dataDir: string
  readonly from: Position
  /** Ends the iteration early. */
  readonly signal?: AbortSignal
  /** Only lines that contain this text are parsed, which is much faster than parsing all lines. */
  readonly needle?: string | undefined
  readonly onDamage?: (damage: Damage) => void
  readonly log: Logger
}

/** Bytes of a read. */
const readSize = 64 * 1024

/**
 * Bytes of a read while most lines are skipped: fewer and larger reads are faster, and this size fits a core's cache.
 */
const searchSize = 1024 ** 2

/** Some file systems and containers do not report a write. */
const pollIntervalMs = 1000

/** Does the same as `readJournal`, and then waits for more like `tail -F`. */
export async function* follow(options: ReadOptions & { readonly signal: AbortSignal }): AsyncGenerator<Chunk> {
  const changes = watchFolder(journalDir(options.dataDir), options.signal)
  try {
    yield* readJournal(options, changes)
  } finally {
    changes.close()
  }
}

/**
 * Reads the journal from a position to its current end, across segments. Only complete lines are read. A complete line
 * that is not an event is skipped and logged with its place.
 *
 * @param changes if given, reading continues after the next change
 */
export async function* readJournal(
  { dataDir, from, signal, needle, onDamage = () => undefined, log }: ReadOptions,
  changes?: Changes,
): AsyncGenerator<Chunk> {
  const target = needle === undefined ? undefined : Buffer.from(needle)
  let file: (Segment & { readonly handle: FileHandle; readonly blocks: Blocks }) | undefined
  let position = from
  let next: Segment | undefined
  let skipped = 0
  try {
    while (!signal?.aborted) {
      // A change during the read must not be missed.
      const changed = changes?.next()
      file ??= await openSegment(position)
      let block = await file?.blocks.next()
      if (block === undefined) {
        next = (await listSegments(dataDir)).find(isBehind)
        if (next === undefined) {
          if (changed === undefined) return
          await changed
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
      const entries = target === undefined ? readAll(block, segment) : search(block, segment, target)
      // A segment can only be identified once it has a line.
      const first = position.first ?? (file && (await firstId(file.handle)))
      position = { segment, offset: block.offset + block.bytes.length, ...(first !== undefined && { first }) }
      yield { entries, position }
    }
  } finally {
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
      const handle = await openIfExists(found)
      if (handle === undefined) continue
      const known = next === undefined && first !== undefined ? await firstId(handle) : undefined
      if (known === undefined || known === first)
        return { ...found, handle, blocks: readBlocks(handle, offset, target === undefined ? readSize : searchSize) }
      await handle.close()
    }
    return undefined
  }

  function readAll({ bytes, offset }: Block, segment: number): Entry[] {
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

  function readDamaged({ bytes, offset }: Block, segment: number): Entry[] {
    const entries: Entry[] = []
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
  function search({ bytes, offset }: Block, segment: number, target: Buffer): Entry[] {
    const entries: Entry[] = []
    for (let found = bytes.indexOf(target); found !== -1; ) {
      const start = bytes.lastIndexOf(newline, found) + 1
      const end = bytes.indexOf(newline, found)
      entries.push(...readDamaged({ bytes: bytes.subarray(start, end + 1), offset: offset + start }, segment))
      found = bytes.indexOf(target, end)
    }
    return entries
  }

  function parse(line: string, at: Position): Entry[] {
    const event = parseJson(line)
    if (isEvent(event)) return [{ event, at }]
    skip(Buffer.from(line), at)
    return []
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

/** Returns `false` for the value of a line that no receiver wrote. */
function isEvent(value: unknown): value is JournalledEvent {
  return isObject(value) && typeof value['event'] === 'string' && 'id' in value
}

/** Returns the position of the first line that is not older than this time. */
export async function positionOfTime(dataDir: string, time: Date, log: Logger): Promise<Position> {
  for await (const { entries } of readJournal({ dataDir, from: oldest, log })) {
    const found = entries.find(({ event }) => new Date(event.time) >= time)
    if (found) return found.at
  }
  return positionOfLast(dataDir, 0)
}

/** A file's time may be this far behind the clock: some file systems have a resolution of two seconds. */
const mtimeResolutionMs = 2_000

/**
 * Returns where a search begins for lines that were journalled at this time or later. Segments last written before it
 * are not read.
 */
export async function positionBefore(dataDir: string, time: Date): Promise<Position> {
  for (const { number, path } of await listSegments(dataDir)) {
    // A segment that the retention has just removed is older.
    const written = await stat(path).catch(() => undefined)
    if (written && written.mtimeMs + mtimeResolutionMs >= time.getTime()) return { segment: number, offset: 0 }
  }
  return positionOfLast(dataDir, 0)
}

/** Returns the newest event, if there is one. */
export async function lastEvent(dataDir: string): Promise<JournalledEvent | undefined> {
  // Before the first start of a receiver there is no journal.
  if (!existsSync(journalDir(dataDir))) return undefined
  const from = await positionOfLast(dataDir, 1)
  const log = pino({ level: 'silent' })
  let last: JournalledEvent | undefined
  for await (const { entries } of readJournal({ dataDir, from, log })) last = entries.at(-1)?.event ?? last
  return last
}

/** Returns where the last `count` lines begin. */
export async function positionOfLast(dataDir: string, count: number): Promise<Position> {
  let seen = 0
  for (const segment of (await listSegments(dataDir)).reverse()) {
    const handle = await openIfExists(segment)
    // The retention removed this segment, and every older one before it.
    if (handle === undefined) return oldest
    try {
      for (let end = (await handle.stat()).size; end > 0; end -= readSize) {
        const start = Math.max(0, end - readSize)
        const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(end - start), 0, end - start, start)
        const bytes = buffer.subarray(0, bytesRead)
        for (let at = bytes.lastIndexOf(newline); at !== -1; at = at === 0 ? -1 : bytes.lastIndexOf(newline, at - 1))
          if (++seen > count) return { segment: segment.number, offset: start + at + 1 }
      }
    } finally {
      await handle.close()
    }
  }
  return oldest
}

interface Changes {
  /** Resolves at the next change. */
  readonly next: () => Promise<void>
  readonly close: () => void
}

/** Reports when something in the folder changes, and also every second and when the signal aborts. */
function watchFolder(dir: string, signal: AbortSignal): Changes {
  let change = Promise.withResolvers<void>()
  const report = () => change.resolve()
  const watcher = watchIfPossible(dir, report)
  const timer = setInterval(report, pollIntervalMs)
  signal.addEventListener('abort', report)
  return {
    next: () => {
      change = Promise.withResolvers<void>()
      return change.promise
    },
    close: () => {
      watcher?.close()
      clearInterval(timer)
      signal.removeEventListener('abort', report)
    },
  }
}

/** If the kernel has no free watches, or removes one, polling by the clock continues. */
function watchIfPossible(dir: string, report: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(dir, report)
    return watcher.on('error', () => watcher.close())
  } catch {
    return undefined
  }
}
