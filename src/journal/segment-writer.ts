import { close, fdatasync, ftruncate, open, write } from 'node:fs'
import { rm, truncate } from 'node:fs/promises'
import { promisify } from 'node:util'
import type { Logger } from 'pino'
import { highestOf, readNumbers, withEmpty, writeNumbers } from './numbers.ts'
import {
  bringBack,
  isReachable,
  type Place,
  placeOf,
  placeOfOpen,
  requireHome,
  requireReachable,
  restoreSegment,
} from './reach.ts'
import {
  createSegment,
  cutSegment,
  listSegments,
  nameOf,
  numberOf,
  pointStableName,
  type Segment,
  sealLast,
  tryDisk,
  utcDate,
} from './segments.ts'

export interface SegmentWriterDeps {
  readonly dataDir: string
  /** Bytes after which a segment is full. */
  readonly segmentSize: number
  /** A segment number that other files refer to. It is not used again. */
  readonly usedNumber?: number | undefined
  readonly log: Logger
  readonly now: () => Date
}

/** The segment being written. An fsync has confirmed only its first `durable` bytes. */
interface OpenSegment extends Segment {
  readonly fd: number
  readonly place: Place
  readonly date: string
  durable: number
}

// Promise-based file handles cost twice the CPU of these functions, and every post runs this code.
const disk = {
  open: promisify(open),
  write: promisify(write),
  fdatasync: promisify(fdatasync),
  ftruncate: promisify(ftruncate),
  close: promisify(close),
}

/**
 * Writes one segment after another, and begins with a new one: segments of earlier processes are sealed and never
 * appended to, so that a position in one of them never comes to mean another line. Only one call may run at a time.
 */
export async function openSegmentWriter({ dataDir, segmentSize, usedNumber, log, now }: SegmentWriterDeps) {
  let numbers = await readNumbers(dataDir)
  await bringBack(dataDir, numbers.newest ?? '', usedNumber, { log, now })
  const last = await sealLast(dataDir, log)
  const home = await placeOf(dataDir)
  let number = highestOf(last?.number, numberOf(numbers.newest ?? ''), usedNumber)
  // The last number with lines. Every later segment is empty.
  let used = last?.isEmpty ? last.number - 1 : number
  if (last?.isEmpty) numbers = { ...numbers, empty: withEmpty(numbers.empty, last.number, last.number) }
  // From this number on, no segment has had a line.
  let unused = number + 1
  let current: OpenSegment | undefined = await openSegment()

  async function openSegment(): Promise<OpenSegment> {
    const at = now()
    let fd: number | undefined
    try {
      await requireHome(dataDir, home)
      // A number is never used twice, even if a later step fails or the segment is removed.
      number++
      numbers = { newest: nameOf(number, at), empty: withEmpty(numbers.empty, unused, number - 1) }
      await writeNumbers(dataDir, numbers)
      const segment = await createSegment(dataDir, number, at)
      // The mode allows reading too, because the content is needed if the file loses its name.
      fd = await disk.open(segment.path, 'a+')
      await pointStableName(dataDir, segment)
      return { ...segment, fd, place: await placeOfOpen(fd), date: utcDate(at), durable: 0 }
    } catch (error) {
      if (fd !== undefined) await disk.close(fd)
      throw error
    } finally {
      // A disk that fails for a long time must not fill up with empty segments. A segment that cannot be removed does
      // no harm.
      await removeEmpty().catch(() => undefined)
    }
  }

  /** Removes segments without lines, except the last: the highest number must not be lost. */
  async function removeEmpty(): Promise<void> {
    const segments = await listSegments(dataDir)
    for (const segment of segments.slice(0, -1)) if (segment.number > used) await rm(segment.path, { force: true })
  }

  /** Closes the current segment. @returns it, unless there is none or it had lost its name */
  async function closeSegment(): Promise<OpenSegment | undefined> {
    const closed = current
    current = undefined
    if (closed === undefined) return undefined
    const wasLost = await restoreIfLost(closed)
    // All of its acknowledged bytes are on disk, so a failed close loses nothing.
    await disk.close(closed.fd).catch(() => undefined)
    return wasLost ? undefined : closed
  }

  /** Restores a segment that lost its name and has acknowledged lines. @returns whether it had lost its name */
  async function restoreIfLost(segment: OpenSegment): Promise<boolean> {
    const { path, fd, place, durable } = segment
    try {
      if (await isReachable(path, place)) return false
      // If DATA_DIR is now another folder, nothing may be written there. The segment still exists in the old folder.
      if (!(await isReachable(dataDir, home))) await disk.ftruncate(fd, durable)
      else await restoreSegment(segment, dataDir, fd, durable)
      log.error({ segment: path, bytes: durable }, 'the segment being written was removed or moved')
    } catch (error) {
      log.error({ err: error, segment: path }, 'a segment that was removed cannot be put back')
    }
    return true
  }

  return {
    /** Returns the path of the segment being written, if there is one. */
    path: () => current?.path,

    /**
     * Appends whole lines. A full segment, and one of an earlier day, is closed first.
     *
     * @returns milliseconds of the fsync
     * @throws if the lines may not be on disk; then call `abandon`
     */
    async append(bytes: Buffer): Promise<number> {
      if (current && (current.durable >= segmentSize || current.date !== utcDate(now()))) await closeSegment()
      current ??= await openSegment()
      await writeWhole(current.fd, bytes)
      const started = performance.now()
      // Both run in parallel. If the file loses its name during the write, the next call detects that and restores the
      // durable bytes.
      const reached = requireReachable(current.path, current.place)
      const synced = disk.fdatasync(current.fd).then(() => performance.now() - started)
      const [ms] = await Promise.all([synced, reached])
      current.durable += bytes.length
      used = current.number
      unused = used + 1
      return ms
    },

    /**
     * Abandons the segment after a failed `append`. No later success on this file proves anything, because the kernel
     * may have dropped the pages and marked them clean. So the segment is cut to the bytes known to be durable, and the
     * next line opens another one.
     */
    async abandon(): Promise<void> {
      const abandoned = await closeSegment()
      if (abandoned === undefined) return
      const { path, durable } = abandoned
      try {
        // A segment that never had a line keeps nothing. Otherwise a disk that fails for a long time would fill up with
        // refused lines.
        if (durable === 0) await truncate(path)
        else await cutSegment(abandoned, durable, log)
      } catch (error) {
        // Refused events may then stay in the journal and be handled, which is less harmful than a lost line.
        log.error({ err: error, segment: path }, 'a segment could not be cut after a failed write')
      }
    },

    /** Resolves if the disk can be written. */
    async probe(): Promise<void> {
      await requireHome(dataDir, home)
      await tryDisk(dataDir)
      current ??= await openSegment()
    },

    close: async (): Promise<void> => void (await closeSegment()),
  }
}

/** write(2) may write fewer bytes than requested, for example on a full disk. */
async function writeWhole(fd: number, bytes: Buffer): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await disk.write(fd, bytes, done)).bytesWritten
}
