import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { follow, oldest, type Position } from '../../journal/follow.ts'
import { listSegments } from '../../journal/segments.ts'
import { type JournalIndex, type Placed, type Plan, planRebuild, writeRebuilt } from './rebuild.ts'
import { type Salvage, salvage } from './salvage.ts'
import { openSqliteQueue } from './queue.ts'

export interface RepairParts {
  /** `dispatch.db`. */
  readonly path: string
  readonly dataDir: string
  readonly log: Logger
}

/** What was found, and what would be written. */
export interface Repair {
  /** `undefined`: nothing of the file is readable, and the next start needs DISPATCH_FROM. */
  readonly plan: Plan | undefined
  /** Puts the new file in the place of the damaged one, which stays beside it. @returns the name that it has now */
  readonly write: () => string
}

/** Reads all that can be read; the damaged file itself is not touched. To be called while no dispatcher runs. */
export async function prepareRepair({ path, dataDir, log }: RepairParts): Promise<Repair> {
  const copy = `${path}.salvage`
  const fresh = `${path}.new`
  try {
    for (const file of [copy, fresh]) removeDatabase(file)
    copyFileSync(path, copy)
    // What it holds is committed. A frame that is damaged ends it, which SQLite knows by a checksum.
    if (existsSync(`${path}-wal`)) copyFileSync(`${path}-wal`, `${copy}-wal`)
    const found = readAround(copy, fresh)
    const plan = found && (await planRebuild(found, await indexJournal(dataDir, log)))
    return { plan, write: () => replace(path, plan && found && { plan, found, fresh }) }
  } finally {
    removeDatabase(copy)
  }
}

/** A file whose header is damaged is read with that of a new one: the rest does not depend on it. */
function readAround(copy: string, fresh: string): Salvage | undefined {
  const found = salvageIfPossible(copy)
  if (found) return found
  void openSqliteQueue({ path: fresh }).close()
  graftHeader(copy, fresh)
  removeDatabase(fresh)
  return salvageIfPossible(copy)
}

function salvageIfPossible(copy: string): Salvage | undefined {
  try {
    return salvage(copy)
  } catch {
    return undefined
  }
}

const headerSize = 100
/** Where the header says how many pages there are, and the page size: https://www.sqlite.org/fileformat2.html#the_database_header */
const pagesAt = 28
const pageSizeAt = 16

function graftHeader(copy: string, fresh: string): void {
  const header = readFileSync(fresh).subarray(0, headerSize)
  const pageSize = header.readUInt16BE(pageSizeAt)
  header.writeUInt32BE(Math.ceil(statSync(copy).size / pageSize), pagesAt)
  // Nothing is free: a list of free pages from elsewhere would be wrong.
  header.fill(0, 32, 40)
  // The number of pages counts only where these two agree.
  header.copy(header, 92, 24, 28)
  const file = openSync(copy, 'r+')
  try {
    writeSync(file, header, 0, headerSize, 0)
  } finally {
    closeSync(file)
  }
}

async function indexJournal(dataDir: string, log: Logger): Promise<JournalIndex> {
  const places = new Map<string, { order: number; at: Position; name: string }>()
  for await (const { event, at } of readAll(dataDir, log))
    if (!places.has(event.id)) places.set(event.id, { order: places.size, at, name: event.event })
  return {
    places,
    async read(orders) {
      const found = new Map<number, Placed>()
      if (orders.size === 0) return found
      for await (const { event, at } of readAll(dataDir, log)) {
        const order = places.get(event.id)?.order
        if (order !== undefined && orders.has(order) && !found.has(order)) found.set(order, { event, at, order })
      }
      return found
    },
    async isPlace({ segment, offset }) {
      const segments = await listSegments(dataDir)
      const own = segments.find(({ number }) => number === segment)
      const newest = segments.at(-1)?.number ?? 0
      // Of one that the retention has removed, the next is meant.
      if (own === undefined) return segment <= newest
      if (offset === 0) return true
      return offset > 0 && byteAt(own.path, offset - 1) === '\n'.charCodeAt(0)
    },
  }
}

async function* readAll(dataDir: string, log: Logger) {
  const { signal } = new AbortController()
  for await (const { entries } of follow({ dataDir, from: oldest, signal, wait: false, log }))
    yield* entries.filter(({ event }) => event.erased !== true)
}

function byteAt(path: string, offset: number): number | undefined {
  const file = openSync(path, 'r')
  try {
    const byte = Buffer.alloc(1)
    return readSync(file, byte, 0, 1, offset) === 1 ? byte[0] : undefined
  } finally {
    closeSync(file)
  }
}

/**
 * At every moment the name means a whole file or the damaged one, never none: of a file that is missing nobody would know
 * that it was there. The damaged one loses its -wal first, which would be applied to the new one.
 */
function replace(
  path: string,
  made: { readonly plan: Plan; readonly found: Salvage; readonly fresh: string } | undefined,
): string {
  const kept = `${path}.damaged-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`
  if (made) {
    writeRebuilt(made.fresh, made.plan, made.found)
    sync(made.fresh)
  }
  try {
    linkSync(path, kept)
  } catch {
    // A file system without hard links.
    copyFileSync(path, kept)
    sync(kept)
  }
  if (existsSync(`${path}-wal`)) renameSync(`${path}-wal`, `${kept}-wal`)
  rmSync(`${path}-shm`, { force: true })
  if (made) {
    renameSync(made.fresh, path)
    removeDatabase(made.fresh)
  } else rmSync(path)
  sync(dirname(path))
  return kept
}

function sync(path: string): void {
  const file = openSync(path, 'r')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

function removeDatabase(path: string): void {
  for (const file of [path, `${path}-wal`, `${path}-shm`, `${path}-journal`]) rmSync(file, { force: true })
}
