import { close, fdatasync, ftruncate, open as openFile, write } from 'node:fs'
import { rm, truncate } from 'node:fs/promises'
import { promisify } from 'node:util'
import { type Logger, pino } from 'pino'
import type { Event } from '../intake/event.ts'
import { printableJson } from '../lib/printable.ts'
import { Refusal } from '../intake/refusal.ts'
import { createLastResort } from './stderr-fallback.ts'
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

export interface Journal {
  /**
   * Resolves once the event would survive a power cut, so the caller may answer 200.
   *
   * Events that arrive while the disk is busy share the next fsync: latency is that of one fsync, throughput that of
   * many. When the disk does not keep up an event waits, for 10 s at most.
   *
   * @throws {Refusal} `journal_unavailable` when the disk refused or took too long; the event has gone to stderr
   */
  append(event: Event): Promise<void>
  /** Why the last events were refused; `undefined` when they were not. */
  readonly trouble: () => string | undefined
  /** When the last event was put on disk, in Unix milliseconds; `undefined` when none was since the start. */
  readonly lastEventAt: () => number | undefined
  /** Resolves when everything appended before is on disk; what comes later is refused. */
  close(): Promise<void>
}

/** What an fsync cost, and how many shared it. */
export interface Sync {
  readonly lines: number
  readonly ms: number
}

export interface JournalParts {
  readonly dataDir: string
  /** Bytes after which a segment is full. */
  readonly segmentSize: number
  /** A number that others know a segment to have had: it is not used again. */
  readonly usedNumber?: number
  readonly log: Logger
  readonly now?: () => Date
  readonly lastResort?: (lines: readonly string[]) => Promise<void>
  /** Milliseconds that an event may wait for the disk. */
  readonly patience?: number
  readonly onSync?: (sync: Sync) => void
}

/** Characters of lines that may wait for the disk at once: some 20,000 ordinary events, seconds of the fastest sender. */
const mostWaiting = 10 * 1024 ** 2

/** Milliseconds that the first line of a group waits for company: a fraction of what Bitrix24's way to us takes. */
const longestWait = 3

/**
 * The patience is counted in so many steps: one in which this process stood still, as in a container that is frozen for a
 * while, is not the disk's.
 */
const steps = 10

/** Milliseconds between two looks at a disk that refused. */
const probeInterval = 1_000

/** Those who wait for one fsync. */
interface Group {
  readonly lines: string[]
  /** Characters of all lines. */
  size: number
  readonly durable: PromiseWithResolvers<void>
  timer: NodeJS.Timeout | undefined
  isRefused: boolean
}

/** The segment being written. What lies behind `durable` bytes has not met an fsync. */
interface Writing {
  readonly segment: Segment
  readonly fd: number
  readonly place: Place
  readonly date: string
  durable: number
}

// The promise-based file handles cost twice the CPU of these, and this is the way of every post.
const disk = {
  open: promisify(openFile),
  write: promisify(write),
  fdatasync: promisify(fdatasync),
  ftruncate: promisify(ftruncate),
  close: promisify(close),
}

/**
 * Opens the journal for writing, on a segment of its own: what an earlier process wrote is sealed and never appended to,
 * so that a position in it can never come to mean another line.
 */
export async function openJournal(parts: JournalParts): Promise<Journal> {
  const {
    dataDir,
    segmentSize,
    usedNumber,
    log,
    now = () => new Date(),
    lastResort = createLastResort(),
    patience = 10_000,
    onSync = () => undefined,
  } = parts
  let group = newGroup()
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
  // The last number that has lines; what comes after it is empty.
  let used = last?.isEmpty ? last.segment.number - 1 : number
  if (last?.isEmpty) empty = withEmpty(empty, last.segment.number, last.segment.number)
  // From this number on no segment has had a line.
  let unused = number + 1
  let file: Writing | undefined = await openSegment()

  // pino makes the line and hands it over before info() returns.
  const lines = pino(
    { base: null, timestamp: () => `,"time":"${now().toISOString()}"` },
    { write: (line) => void group.lines.push(printableJson(line)) },
  )

  /** Where journal.json says its name, under that; else behind all others, for whoever follows to read it. */
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
      // A number is never used twice, whatever fails on the way, and whatever is removed afterwards.
      newest = nameOf(++number, at)
      empty = withEmpty(empty, unused, number - 1)
      await writeNumbers(dataDir, { newest, empty })
      const segment = await createSegment(dataDir, number, at)
      // To be read, too, where its name is lost.
      fd = await disk.open(segment.path, 'a+')
      await pointStableName(dataDir, segment)
      return { segment, fd, place: await placeOfOpen(fd), date: utcDate(at), durable: 0 }
    } catch (error) {
      if (fd !== undefined) await disk.close(fd)
      throw error
    } finally {
      // A disk that fails for long must not be filled with them. What cannot be removed does no harm.
      await removeEmpty().catch(() => undefined)
    }
  }

  /** Segments without lines go, but for the last: the highest number must not be forgotten. */
  async function removeEmpty(): Promise<void> {
    const segments = await listSegments(dataDir)
    for (const segment of segments.slice(0, -1)) if (segment.number > used) await rm(segment.path, { force: true })
  }

  /** One write and one fsync for everyone who waits, again and again until nobody does. */
  async function writeGroups(): Promise<void> {
    for (await company(); group.lines.length > 0; await company()) {
      const current = group
      group = newGroup()
      try {
        await writeGroup(current)
      } catch (error) {
        // Once: the log may stand on the same full disk. Every event of it goes to stderr.
        if (!isFailureTold) log.error({ err: error, segment: file?.segment.path }, 'the journal cannot be written')
        isFailureTold = true
        trouble = error instanceof Error ? error.message : String(error)
        await abandonSegment()
        clearTimeout(current.timer)
        waiting -= current.size
        await refuse(current, new Refusal('journal_unavailable', {}, { cause: error }))
      }
    }
    writing = undefined
  }

  /**
   * Lets those join who are on their way: an fsync costs the same for one line as for fifty, and Bitrix24 opens a
   * connection for each post, of which the event loop takes one in a turn. As long as every turn brings another line,
   * the next is worth waiting for; a lonely line waits for one turn.
   */
  function company(): Promise<void> {
    const end = performance.now() + longestWait
    let seen = 0
    return new Promise((resolve) => {
      const look = () => {
        const { length } = group.lines
        if (length === seen || performance.now() >= end) return resolve()
        seen = length
        setImmediate(look)
      }
      look()
    })
  }

  async function writeGroup(current: Group): Promise<void> {
    const { lines, size, durable } = current
    const bytes = Buffer.from(lines.join(''))
    if (file && (file.durable >= segmentSize || file.date !== utcDate(now()))) {
      const full = file
      file = undefined
      await restoreIfLost(full)
      // All of it is on disk: a close that fails loses nothing.
      await disk.close(full.fd).catch(() => undefined)
    }
    file ??= await openSegment()
    await writeWhole(file.fd, bytes)
    const started = performance.now()
    // Side by side: a name that is lost while the disk writes is seen with the next batch, and what is durable is put back.
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
    recover()
    durable.resolve()
  }

  function recover(): void {
    if (trouble !== undefined) log.info('the journal can be written again')
    trouble = undefined
    isFailureTold = false
  }

  // Posts may stay away as long as `/readyz` says no, so the disk is tried without them, too.
  const probing = setInterval(() => {
    if (trouble !== undefined) writing ??= probe()
  }, probeInterval).unref()

  async function probe(): Promise<void> {
    try {
      await requireHome(dataDir, home)
      await tryDisk(dataDir)
      file ??= await openSegment()
      recover()
    } catch {
      // The trouble stands.
    }
    // Those who came meanwhile.
    await writeGroups()
  }

  /**
   * After a failed write or fsync nothing that follows on this file proves anything: the kernel may have dropped the
   * pages and marked them clean. It is cut to what is known to be durable and left; the next event opens another.
   */
  async function abandonSegment(): Promise<void> {
    const abandoned = file
    file = undefined
    if (abandoned === undefined) return
    const wasLost = await restoreIfLost(abandoned)
    // The descriptor is gone either way.
    await disk.close(abandoned.fd).catch(() => undefined)
    if (wasLost) return
    try {
      // Of one that never had a line nothing is kept, so that a disk that fails for long does not fill with what was refused.
      if (abandoned.durable === 0) await truncate(abandoned.segment.path)
      else await cutSegment(abandoned.segment, abandoned.durable, log)
    } catch (error) {
      // What was refused may stay in the journal then, and be handled: less harm than a line that is lost.
      log.error({ err: error, segment: abandoned.segment.path }, 'a segment could not be cut after a failed write')
    }
  }

  /** A segment whose name is gone, with lines that were acknowledged. @returns whether it was so */
  async function restoreIfLost({ segment, fd, place, durable }: Writing): Promise<boolean> {
    try {
      if (await isReachable(segment.path, place)) return false
      // Somewhere it still is what it was, and nothing may be written where DATA_DIR is another folder.
      if (!(await isReachable(dataDir, home))) await disk.ftruncate(fd, durable)
      else await restoreSegment(segment, dataDir, fd, durable)
      log.error({ segment: segment.path, bytes: durable }, 'the segment being written was removed or moved')
    } catch (error) {
      log.error({ err: error, segment: segment.path }, 'a segment that was removed cannot be put back')
    }
    return true
  }

  /** Gives the events to the last resort, and only then tells those who wait. */
  async function refuse(refused: Group, refusal: Refusal): Promise<void> {
    // It was given up and then failed, too.
    if (refused.isRefused) return
    refused.isRefused = true
    await lastResort(refused.lines)
    refused.durable.reject(refusal)
  }

  function watch(current: Group, left = steps): void {
    current.timer = setTimeout(() => (left > 1 ? watch(current, left - 1) : giveUp(current)), patience / steps)
  }

  /** The disk takes too long: those who wait are told so. A group that is being written may still reach the disk. */
  function giveUp(late: Group): void {
    trouble = `the disk took longer than ${patience} ms`
    log.error({ events: late.lines.length }, trouble)
    if (late === group) {
      group = newGroup()
      waiting -= late.size
    }
    void refuse(late, new Refusal('journal_unavailable', { reason: 'timeout' }))
  }

  return {
    append(event) {
      if (closed) return Promise.reject(new Refusal('journal_unavailable', { reason: 'closed' }))
      const current = group
      lines.info(event, event.object === undefined ? event.event : `${event.event} ${event.object}`)
      if (waiting >= mostWaiting) return lastResort(current.lines.splice(-1)).then(() => refuseMany())
      const length = current.lines.at(-1)?.length ?? 0
      current.size += length
      waiting += length
      if (current.timer === undefined) watch(current)
      writing ??= writeGroups()
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
  throw new Refusal('journal_unavailable', { reason: 'too much waits for the disk' })
}

function newGroup(): Group {
  const durable = Promise.withResolvers<void>()
  // Whoever appended waits for it; a group whose waiters are gone must not become an unhandled rejection.
  durable.promise.catch(() => undefined)
  return { lines: [], size: 0, durable, timer: undefined, isRefused: false }
}

/** write(2) may take less than it was given, on a full disk for one. */
async function writeWhole(fd: number, bytes: Buffer): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await disk.write(fd, bytes, done)).bytesWritten
}
