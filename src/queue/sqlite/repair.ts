import {
  closeSync,
  copyFileSync,
  existsSync,
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
import { readJournal } from '../../journal/follow.ts'
import { oldest, type Position } from '../../journal/position.ts'
import { listSegments } from '../../journal/segments.ts'
import { syncPathSync } from '../../lib/atomic-file.ts'
import { openSqliteQueue } from './queue.ts'
import { type JournalIndex, type Placed, type Plan, planRebuild } from './rebuild.ts'
import { type Salvage, salvage } from './salvage.ts'
import { writeRebuilt } from './write-rebuilt.ts'

export interface RepairDeps {
  /** The path of `dispatch.db`. */
  readonly path: string
  readonly dataDir: string
  readonly log: Logger
}

/** The result of the search, and the plan for the new file. */
export interface Repair {
  /** `undefined` if nothing in the file is readable. Then the next start needs DISPATCH_FROM. */
  readonly plan: Plan | undefined
  /**
   * Replaces the damaged file by the new one, and keeps the damaged one beside it.
   *
   * @returns the new name of the damaged file
   */
  readonly write: () => string
}

/** Reads all that can be read, and does not change the damaged file. Call it while no dispatcher runs. */
export async function prepareRepair({ path, dataDir, log }: RepairDeps): Promise<Repair> {
  const copy = `${path}.salvage`
  const fresh = `${path}.new`
  try {
    for (const file of [copy, fresh]) removeDatabase(file)
    copyFileSync(path, copy)
    // The WAL has committed data. SQLite recognises a damaged frame by its checksum, and stops reading there.
    if (existsSync(`${path}-wal`)) copyFileSync(`${path}-wal`, `${copy}-wal`)
    const found = readAround(copy, fresh)
    const plan = found && (await planRebuild(found, await indexJournal(dataDir, log)))
    return { plan, write: () => replace(path, plan && found && { plan, found, fresh }) }
  } finally {
    removeDatabase(copy)
  }
}

/** Reads a file with a damaged header through the header of a new file, because the rest does not depend on it. */
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
/** Offsets of the page count and the page size in the header: https://www.sqlite.org/fileformat2.html#the_database_header */
const pagesAt = 28
const pageSizeAt = 16

function graftHeader(copy: string, fresh: string): void {
  const header = readFileSync(fresh).subarray(0, headerSize)
  const pageSize = header.readUInt16BE(pageSizeAt)
  header.writeUInt32BE(Math.ceil(statSync(copy).size / pageSize), pagesAt)
  // The file has no free pages: the new file's list of free pages would be wrong here.
  header.fill(0, 32, 40)
  // The page count is valid only if these two numbers agree.
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
        if (order !== undefined && orders.has(order) && !found.has(order)) found.set(order, { event, at })
      }
      return found
    },
    async isPlace({ segment, offset }) {
      const segments = await listSegments(dataDir)
      const own = segments.find(({ number }) => number === segment)
      const newest = segments.at(-1)?.number ?? 0
      // If the retention has removed the segment, following continues with the next one.
      if (own === undefined) return segment <= newest
      if (offset === 0) return true
      return offset > 0 && byteAt(own.path, offset - 1) === '\n'.charCodeAt(0)
    },
  }
}

async function* readAll(dataDir: string, log: Logger) {
  for await (const { entries } of readJournal({ dataDir, from: oldest, log }))
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
 * At every moment the name means an intact file or the damaged one, never a missing one: a missing file would look like
 * one that never existed. The damaged file loses its -wal first, because SQLite would apply it to the new file.
 */
function replace(
  path: string,
  made: { readonly plan: Plan; readonly found: Salvage; readonly fresh: string } | undefined,
): string {
  const kept = `${path}.damaged-${new Date().toISOString().replaceAll(/[:.]/g, '-')}`
  if (made) {
    writeRebuilt(made.fresh, made.plan, made.found)
    syncPathSync(made.fresh)
  }
  try {
    linkSync(path, kept)
  } catch {
    // Some file systems have no hard links.
    copyFileSync(path, kept)
    syncPathSync(kept)
  }
  if (existsSync(`${path}-wal`)) renameSync(`${path}-wal`, `${kept}-wal`)
  rmSync(`${path}-shm`, { force: true })
  if (made) {
    renameSync(made.fresh, path)
    removeDatabase(made.fresh)
  } else rmSync(path)
  syncPathSync(dirname(path))
  return kept
}

function removeDatabase(path: string): void {
  for (const file of [path, `${path}-wal`, `${path}-shm`, `${path}-journal`]) rmSync(file, { force: true })
}
