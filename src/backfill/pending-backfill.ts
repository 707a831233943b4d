import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { codeOf } from '../lib/error-code.ts'
import { fileMode } from '../lib/private-files.ts'

/** What is to be backfilled since the receiver was away; kept on disk, because a start may end before it is. */
export interface PendingBackfill {
  readonly since: Date
  /** All of it is journalled. */
  readonly done: () => Promise<void>
}

/**
 * From the last event before this start, or before an earlier one that did not get through; `undefined` where there was
 * none. To be called before events are taken.
 */
async function openPendingBackfill(dataDir: string, lastAt: Date | undefined): Promise<PendingBackfill | undefined> {
  const path = pathIn(dataDir)
  const since = (await readTime(path)) ?? lastAt
  if (since === undefined) return undefined
  await writeFile(`${path}.next`, since.toISOString(), { mode: fileMode(path) })
  await rename(`${path}.next`, path)
  return { since, done: () => rm(path, { force: true }) }
}

/** Nothing is backfilled at a start: the time would be a wrong one when that is wanted again. */
async function dropPendingBackfill(dataDir: string): Promise<void> {
  await rm(pathIn(dataDir), { force: true })
}

function pathIn(dataDir: string): string {
  return join(dataDir, 'backfill-since')
}

async function readTime(path: string): Promise<Date | undefined> {
  try {
    const time = new Date(await readFile(path, 'utf8'))
    return Number.isNaN(time.getTime()) ? undefined : time
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

export interface MissedParts {
  readonly dataDir: string
  readonly backfillOnStart: string | undefined
  /** When an earlier process accepted its last event, in Unix milliseconds. */
  readonly lastAt: number | undefined
  readonly log: Logger
}

/** What BACKFILL_ON_START is to look for. A disk that takes no note of it takes no event either, and says so by itself. */
export async function findMissed({
  dataDir,
  backfillOnStart,
  lastAt,
  log,
}: MissedParts): Promise<PendingBackfill | undefined> {
  try {
    if (backfillOnStart !== undefined)
      return await openPendingBackfill(dataDir, lastAt === undefined ? lastAt : new Date(lastAt))
    await dropPendingBackfill(dataDir)
  } catch (error) {
    log.error({ err: error }, 'nothing is backfilled')
  }
  return undefined
}
