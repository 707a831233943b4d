import { existsSync } from 'node:fs'
import { type FileHandle, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Block, newline, readBlocks } from '../lib/blocks.ts'
import { readableIds } from './damage.ts'
import { duplicatesOf, misfitIn } from './fit.ts'
import { createIdSet } from './id-set.ts'
import { checkLine } from './line-check.ts'
import type { Position } from './position.ts'
import { listSegments, openIfExists, type Segment, stableName } from './segments.ts'

/** A problem in the journal. */
export interface Trouble {
  readonly path: string
  /** The byte where the problem begins; `undefined` if it concerns the file as a whole. */
  readonly offset: number | undefined
  readonly what: string
}

export interface Verdict {
  readonly segments: number
  readonly lines: number
  readonly bytes: number
  /** The time of the first and of the last line, ISO 8601. */
  readonly first: string | undefined
  readonly last: string | undefined
  /**
   * How many lines are older than the line before them. This does no harm: events are ordered by place, not by time.
   */
  readonly setBack: number
  readonly troubles: number
}

export interface VerifyDeps {
  readonly dataDir: string
  /** How far the journal had been followed at some earlier time; `undefined` if that is unknown. */
  readonly position: Position | undefined
  readonly onTrouble: (trouble: Trouble) => Promise<void>
  readonly onRead: (position: Position) => void
}

const readSize = 1024 ** 2

/**
 * Reads every line of every existing segment. Meanwhile the receiver may append, begin other segments and remove old
 * ones. It needs 16 to 64 bytes of memory for the ids of each line, and a megabyte.
 */
export async function verifyJournal({ dataDir, position, onTrouble, onRead }: VerifyDeps): Promise<Verdict> {
  const ids = createIdSet()
  const counted = { segments: 0, lines: 0, bytes: 0, setBack: 0, troubles: 0 }
  let first: string | undefined
  let last: string | undefined
  const report = (path: string, offset: number | undefined, what: string) => {
    counted.troubles++
    return onTrouble({ path, offset, what })
  }

  const segments = await listSegments(dataDir)
  const duplicates = duplicatesOf(segments)
  for (const segment of segments) {
    if (duplicates.some(([, duplicate]) => duplicate === segment))
      await report(segment.path, undefined, 'has a number that is taken')
    await verifySegment(segment)
  }
  const misfit = position && (await misfitIn(dataDir, segments, position))
  if (misfit) await report(dataDir, undefined, misfit)
  if (!(await isStableNameRight(dataDir)))
    await report(stableName(dataDir), undefined, 'is not the newest segment, so tail -F shows nothing new')
  return { ...counted, first, last }

  async function verifySegment(segment: Segment): Promise<void> {
    const { path, number } = segment
    const handle = await openIfExists(segment)
    // The retention removed the segment.
    if (handle === undefined) return
    try {
      counted.segments++
      const blocks = readBlocks(handle, 0, readSize)
      const { size } = await handle.stat()
      let isPositionFound = position?.segment !== number
      for (;;) {
        const block = (await blocks.next()) ?? ((await isSealed(segment)) ? await blocks.next() : undefined)
        if (block === undefined) break
        if (await verifyBlock(path, block, position)) isPositionFound = true
        const end = block.offset + block.bytes.length
        onRead({ segment: number, offset: end })
        // Without this limit, lines appended during the reading might never end.
        if (end >= size) break
      }
      const { bytes: rest, offset } = blocks.rest()
      counted.bytes += offset + rest.length
      await verifyEnd(segment, handle, blocks.rest())
      if (!isPositionFound && position && position.offset !== offset)
        await verifyPosition(segment, position, offset + rest.length)
    } finally {
      await handle.close()
    }
  }

  /** @returns whether a line begins at the position */
  async function verifyBlock(path: string, { bytes, offset }: Block, wanted: Position | undefined): Promise<boolean> {
    let isFound = false
    for (let start = 0; start < bytes.length; ) {
      const end = bytes.indexOf(newline, start)
      const at = offset + start
      if (at === wanted?.offset) isFound = true
      counted.lines++
      const line = checkLine(bytes.subarray(start, end))
      if (typeof line === 'string') await report(path, at, line + nameEvents(bytes.subarray(start, end)))
      else {
        if (!ids.add(line.id)) await report(path, at, `has the id of an earlier line, ${line.id}`)
        first ??= line.time
        if (last !== undefined && Date.parse(line.time) < Date.parse(last)) counted.setBack++
        last = line.time
      }
      start = end + 1
    }
    return isFound
  }

  /** Half a line at the end of the newest segment is still being written, or the next start will cut it. */
  async function verifyEnd(segment: Segment, handle: FileHandle, { bytes, offset }: Block): Promise<void> {
    if (bytes.length === 0) return
    const { size } = await handle.stat()
    // Meanwhile the segment was cut, or the line was completed.
    if (size !== offset + bytes.length) return
    if (bytes.includes(0)) await report(segment.path, offset, 'holds NUL bytes, as a power cut leaves them')
    else if (await isSealed(segment))
      await report(segment.path, offset, 'is half a line, and the rest will not be written')
  }

  async function verifyPosition({ path }: Segment, { offset }: Position, size: number): Promise<void> {
    // The bytes that a crash left after the last complete line may have been followed before they were cut.
    if (offset > size && existsSync(`${path}.cut`)) return
    const where = offset > size ? 'behind the end of the segment' : 'in the middle of a line'
    await report(path, offset, `is where the dispatcher goes on, ${where}`)
  }

  async function isSealed({ number }: Segment): Promise<boolean> {
    return (await listSegments(dataDir)).some((segment) => segment.number > number)
  }
}

/** Describes the events of an unreadable line, as far as their ids can be read. */
function nameEvents(line: Buffer): string {
  const ids = readableIds(line)
  return ids.length === 0 ? '' : ` (event ${ids.join(', ')})`
}

/** Between two checks of a wrong name: a segment has its number before it has its name. */
const recheckIntervalMs = 300

async function isStableNameRight(dataDir: string): Promise<boolean> {
  for (let attempt = 1; attempt <= 5; attempt++) {
    if (attempt > 1) await sleep(recheckIntervalMs)
    const newest = (await listSegments(dataDir)).at(-1)
    if (newest === undefined) return true
    const [named, written] = await Promise.all(
      [stableName(dataDir), newest.path].map((path) => stat(path).catch(() => undefined)),
    )
    if (named !== undefined && named.ino === written?.ino && named.dev === written.dev) return true
  }
  return false
}
