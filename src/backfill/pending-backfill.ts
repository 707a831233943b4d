import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { readIfExists, writeFileAtomic } from '../lib/atomic-file.ts'

/** A backfill that is pending. It is stored on disk, because the process may end before the backfill is done. */
export interface PendingBackfill {
  readonly since: Date
  /** Call it when everything is journalled. */
  readonly done: () => Promise<void>
}

/**
 * Starts from the last event before this start, or before an earlier start whose backfill did not succeed. Returns
 * `undefined` if there was no event. Call it before events are taken.
 */
async function openPendingBackfill(dataDir: string, lastAt: Date | undefined): Promise<PendingBackfill | undefined> {
  const path = pathIn(dataDir)
  const since = readTime(path) ?? lastAt
  if (since === undefined) return undefined
  await writeFileAtomic(path, since.toISOString())
  return { since, done: () => rm(path, { force: true }) }
}

/** Removes the stored time if no backfill is wanted: the time would be wrong when the setting is used again. */
async function dropPendingBackfill(dataDir: string): Promise<void> {
  await rm(pathIn(dataDir), { force: true })
}

function pathIn(dataDir: string): string {
  return join(dataDir, 'backfill-since')
}

function readTime(path: string): Date | undefined {
  const time = new Date(readIfExists(path) ?? '')
  return Number.isNaN(time.getTime()) ? undefined : time
}

export interface MissedDeps {
  readonly dataDir: string
  readonly backfillOnStart: string | undefined
  /** When an earlier process accepted its last event, in Unix milliseconds. */
  readonly lastAt: number | undefined
  readonly log: Logger
}

/**
 * Returns the backfill for BACKFILL_ON_START. A failed write is only logged: on such a
 * disk the journal fails and reports it, too.
 */
export async function findMissed({
  dataDir,
  backfillOnStart,
  lastAt,
  log,
}: MissedDeps): Promise<PendingBackfill | undefined> {
  try {
    if (backfillOnStart !== undefined)
      return await openPendingBackfill(dataDir, lastAt === undefined ? lastAt : new Date(lastAt))
    await dropPendingBackfill(dataDir)
  } catch (error) {
    log.error({ err: error }, 'nothing is backfilled')
  }
  return undefined
}
