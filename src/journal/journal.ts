import { close, fdatasync, ftruncate, open as openFile, write } from 'node:fs'
import { rm, truncate } from 'node:fs/promises'
import { promisify } from 'node:util'
import { type Logger, pino } from 'pino'
import type { Event } from '../events/event.ts'
import { printableJson } from '../lib/printable.ts'
import { JournalUnavailable } from './journal-unavailable.ts'
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
  makeJournalDir,
  nameOf,
  numberOf,
  pointStableName,
  type Segment,
  sealLast,
  tryDisk,
  utcDate,
} from './segments.ts'
import { createStderrFallback } from './stderr-fallback.ts'

export interface Journal {
  /**
   * Resolves once the event would survive a power cut, so the caller may answer 200.
   *
   * Events that arrive while the disk is busy share the next fsync: the latency is that of one fsync, the throughput
   * that of many. If the disk is too slow an event waits, for 10 s at most.
   *
   * @throws {JournalUnavailable} if the disk refused or took too long; the event has gone to stderr
   */
  append(event: Event): Promise<void>
  /** Why the last events were refused; `undefined` if they were not. */
  readonly trouble: () => string | undefined
  /** When the last event was put on disk, in Unix milliseconds; `undefined` if there was none since the start. */
  readonly lastEventAt: () => number | undefined
  /** Resolves when everything appended before is on disk. Later events are refused. */
  close(): Promise<void>
}

/** The duration of an fsync, and the number of lines that shared it. */
export interface Sync {
  readonly lines: number
  readonly ms: number
}

export interface JournalDeps {
  readonly dataDir: string
  /** Bytes after which a segment is full. */
  readonly segmentSize: number
  /** A segment number that other files refer to. It is not used again. */
  readonly usedNumber?: number
  readonly log: Logger
  readonly now?: () => Date
  readonly stderrFallback?: (lines: readonly string[]) => Promise<void>
  /** Milliseconds that an event may wait for the disk. */
  readonly patience?: number
  readonly onSync?: (sync: Sync) => void
}

/**
 * The maximum number of characters in lines that wait for the disk: some 20,000 ordinary events, or several seconds
 * of the fastest sender.
 */
const mostWaiting = 10 * 1024 ** 2

/**
 * Milliseconds that the first line of a batch waits for others: a fraction of the time that Bitrix24's post needs to
 * arrive.
 */
const longestWait = 3

/**
 * The timeout is counted in this many steps. A step during which this process itself stood still, as in a frozen
 * container, does not count against the disk.
 */
const steps = 10

/** Milliseconds between two probes of a disk that refused. */
const probeInterval = 1_000

/** The lines that wait for one fsync. */
interface Batch {
  readonly lines: string[]
  /** Characters of all lines. */
  size: number
  readonly durable: PromiseWithResolvers<void>
  timer: NodeJS.Timeout | undefined
  isRefused: boolean
}

/** The segment being written. An fsync has confirmed only its first `durable` bytes. */
interface Writing {
  readonly segment: Segment
  readonly fd: number
  readonly place: Place
  readonly date: string
  durable: number
}

// Promise-based file handles cost twice the CPU of these functions, and every post runs this code.
const disk = {
  open: promisify(openFile),
  write: promisify(write),
  fdatasync: promisify(fdatasync),
  ftruncate: promisify(ftruncate),
  close: promisify(close),
}

/**
 * Opens the journal for writing, on a segment of its own. Segments of earlier processes are sealed and never appended
 * to, so that a position in one of them never comes to mean another line.
 */
export async function openJournal(deps: JournalDeps): Promise<Journal> {
  const {
    dataDir,
    segmentSize,
    usedNumber,
    log,
    now = () => new Date(),
    stderrFallback = createStderrFallback(),
    patience = 10_000,
    onSync = () => undefined,
  } = deps
  let batch = newBatch()
  let writing: Promise<void> | undefined
  let waiting = 0
  let closed = false
  let trouble: string | undefined
  let lastEventAt: number | undefined
  let isFailureTold = false
  let { newest, empty } = await readNumbers(dataDir)
  await bringBackLast()
  const last = await sealLast(dataDir, log)
  const home = await placeOf(dataDir)
  let number = highestOf(last?.segment.number, numberOf(newest ?? ''), usedNumber)
  // The last number with lines. Every later segment is empty.
  let used = last?.isEmpty ? last.segment.number - 1 : number
  if (last?.isEmpty) empty = withEmpty(empty, last.segment.number, last.segment.number)
  // From this number on, no segment has had a line.
  let unused = number + 1
  let file: Writing | undefined = await openSegment()

  // pino makes the line and passes it on before `info()` returns.
  const lines = pino(
    { base: null, timestamp: () => `,"time":"${now().toISOString()}"` },
    { write: (line) => void batch.lines.push(printableJson(line)) },
  )

  /**
   * Restores the segment under its name from journal.json. Without that name it goes after all other segments, so
   * that every follower reads it.
   */
  async function bringBackLast(): Promise<void> {
    await makeJournalDir(dataDir)
    const highest = (await listSegments(dataDir)).at(-1)?.number
    const otherwise = () => nameOf(highestOf(highest, numberOf(newest ?? ''), usedNumber) + 1, now())
    await bringBack(dataDir, numberOf(newest ?? '') === undefined ? undefined : newest, otherwise, log)
  }

  async function openSegment(): Promise<Writing> {
    const at = now()
    let fd: number | undefined
    try {
      await requireHome(dataDir, home)
      // A number is never used twice, even if a later step fails or the segment is removed.
      newest = nameOf(++number, at)
      empty = withEmpty(empty, unused, number - 1)
      await writeNumbers(dataDir, { newest, empty })
      const segment = await createSegment(dataDir, number, at)
      // The mode allows reading too, because the content is needed if the file loses its name.
      fd = await disk.open(segment.path, 'a+')
      await pointStableName(dataDir, segment)
      return { segment, fd, place: await placeOfOpen(fd), date: utcDate(at), durable: 0 }
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

  /** Makes one write and one fsync for all waiting lines, and repeats until no line waits. */
  async function writeBatches(): Promise<void> {
    for (await gather(); batch.lines.length > 0; await gather()) {
      const current = batch
      batch = newBatch()
      try {
        await writeBatch(current)
      } catch (error) {
        // This is logged once, because the log may be on the same full disk. Every refused event goes to stderr.
        if (!isFailureTold) log.error({ err: error, segment: file?.segment.path }, 'the journal cannot be written')
        isFailureTold = true
        trouble = error instanceof Error ? error.message : String(error)
        await abandonSegment()
        clearTimeout(current.timer)
        waiting -= current.size
        await refuse(current, new JournalUnavailable({}, { cause: error }))
      }
    }
    writing = undefined
  }

  /**
   * Lets more lines join the batch. An fsync costs the same for one line as for fifty. Bitrix24 opens a connection
   * for each post, and the event loop accepts one connection in a turn. While every turn brings another line, it is
   * worth waiting for the next; a single line waits for one turn.
   */
  function gather(): Promise<void> {
    const end = performance.now() + longestWait
    let seen = 0
    return new Promise((resolve) => {
      const look = () => {
        const { length } = batch.lines
        if (length === seen || performance.now() >= end) return resolve()
        seen = length
        setImmediate(look)
      }
      look()
    })
  }

  async function writeBatch(current: Batch): Promise<void> {
    const { lines, size, durable } = current
    const bytes = Buffer.from(lines.join(''))
    if (file && (file.durable >= segmentSize || file.date !== utcDate(now()))) {
      const full = file
      file = undefined
      await restoreIfLost(full)
      // All of its bytes are on disk, so a failed close loses nothing.
      await disk.close(full.fd).catch(() => undefined)
    }
    file ??= await openSegment()
    await writeWhole(file.fd, bytes)
    const started = performance.now()
    // Both run in parallel. If the file loses its name during the write, the next batch detects that and restores the
    // durable bytes.
    const reached = requireReachable(file.segment.path, file.place)
    await Promise.all([
      disk.fdatasync(file.fd).then(() => onSync({ lines: lines.length, ms: performance.now() - started })),
      reached,
    ])
    file.durable += bytes.length
    used = file.segment.number
    unused = used + 1
    lastEventAt = now().getTime()
    clearTimeout(current.timer)
    waiting -= size
    reclaim()
    durable.resolve()
  }

  function reclaim(): void {
    if (trouble !== undefined) log.info('the journal can be written again')
    trouble = undefined
    isFailureTold = false
  }

  // Posts may stay away while `/readyz` reports a failure, so the disk is also probed without posts.
  const probing = setInterval(() => {
    if (trouble !== undefined) writing ??= probe()
  }, probeInterval).unref()

  async function probe(): Promise<void> {
    try {
      await requireHome(dataDir, home)
      await tryDisk(dataDir)
      file ??= await openSegment()
      reclaim()
    } catch {
      // The trouble remains.
    }
    // Lines may have arrived during the probe.
    await writeBatches()
  }

  /**
   * Abandons a segment after a failed write or fsync. No later success on this file proves anything, because the
   * kernel may have dropped the pages and marked them clean. So the segment is cut to the bytes known to be durable,
   * and the next event opens another one.
   */
  async function abandonSegment(): Promise<void> {
    const abandoned = file
    file = undefined
    if (abandoned === undefined) return
    const wasLost = await restoreIfLost(abandoned)
    // The descriptor is closed in either case.
    await disk.close(abandoned.fd).catch(() => undefined)
    if (wasLost) return
    try {
      // A segment that never had a line keeps nothing. Otherwise a disk that fails for a long time would fill up with
      // refused lines.
      if (abandoned.durable === 0) await truncate(abandoned.segment.path)
      else await cutSegment(abandoned.segment, abandoned.durable, log)
    } catch (error) {
      // Refused events may then stay in the journal and be handled, which is less harmful than a lost line.
      log.error({ err: error, segment: abandoned.segment.path }, 'a segment could not be cut after a failed write')
    }
  }

  /** Restores a segment that lost its name and has acknowledged lines. @returns whether it had lost its name */
  async function restoreIfLost({ segment, fd, place, durable }: Writing): Promise<boolean> {
    try {
      if (await isReachable(segment.path, place)) return false
      // If DATA_DIR is now another folder, nothing may be written there. The segment still exists in the old folder.
      if (!(await isReachable(dataDir, home))) await disk.ftruncate(fd, durable)
      else await restoreSegment(segment, dataDir, fd, durable)
      log.error({ segment: segment.path, bytes: durable }, 'the segment being written was removed or moved')
    } catch (error) {
      log.error({ err: error, segment: segment.path }, 'a segment that was removed cannot be put back')
    }
    return true
  }

  /** Writes the events to stderr, and rejects the waiting calls only afterwards. */
  async function refuse(refused: Batch, error: JournalUnavailable): Promise<void> {
    // The batch timed out first and failed afterwards.
    if (refused.isRefused) return
    refused.isRefused = true
    await stderrFallback(refused.lines)
    refused.durable.reject(error)
  }

  function watch(current: Batch, left = steps): void {
    current.timer = setTimeout(() => (left > 1 ? watch(current, left - 1) : giveUp(current)), patience / steps)
  }

  /**
   * The disk takes too long, so the waiting calls are rejected. A batch that is being written may still reach the
   * disk.
   */
  function giveUp(late: Batch): void {
    trouble = `the disk took longer than ${patience} ms`
    log.error({ events: late.lines.length }, trouble)
    if (late === batch) {
      batch = newBatch()
      waiting -= late.size
    }
    void refuse(late, new JournalUnavailable({ reason: 'timeout' }))
  }

  return {
    append(event) {
      if (closed) return Promise.reject(new JournalUnavailable({ reason: 'closed' }))
      const current = batch
      lines.info(event, event.object === undefined ? event.event : `${event.event} ${event.object}`)
      if (waiting >= mostWaiting) return stderrFallback(current.lines.splice(-1)).then(() => refuseMany())
      const length = current.lines.at(-1)?.length ?? 0
      current.size += length
      waiting += length
      if (current.timer === undefined) watch(current)
      writing ??= writeBatches()
      return current.durable.promise
    },
    trouble: () => trouble,
    lastEventAt: () => lastEventAt,
    async close() {
      closed = true
      clearInterval(probing)
      await writing
      if (file) await restoreIfLost(file)
      if (file) await disk.close(file.fd)
      file = undefined
    },
  }
}

function refuseMany(): never {
  throw new JournalUnavailable({ reason: 'too much waits for the disk' })
}

function newBatch(): Batch {
  const durable = Promise.withResolvers<void>()
  // The callers of `append` await it. A batch without waiting callers must not cause an unhandled rejection.
  durable.promise.catch(() => undefined)
  return { lines: [], size: 0, durable, timer: undefined, isRefused: false }
}

/** write(2) may write fewer bytes than requested, for example on a full disk. */
async function writeWhole(fd: number, bytes: Buffer): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await disk.write(fd, bytes, done)).bytesWritten
}
