import { fstat, ftruncate, read, type Stats, stat } from 'node:fs'
import { link, lstat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import type { Logger } from 'pino'
import { syncPath } from '../lib/atomic-file.ts'
import { codeOf } from '../lib/error-code.ts'
import { fileMode } from '../lib/private-files.ts'
import { highestOf } from './numbers.ts'
import {
  firstIdIn,
  journalDir,
  listSegments,
  makeJournalDir,
  nameOf,
  numberOf,
  type Segment,
  stableName,
} from './segments.ts'

// An open file outlives its name. If its folder is removed, moved or mounted over, every write and every fsync still
// succeeds, and after a restart nothing of them is there.

/** Identifies a file or folder, whatever its name. */
export type Place = Pick<Stats, 'dev' | 'ino'>

// Promise-based file handles cost twice the CPU, and every post runs this code.
const disk = { stat: promisify(stat), fstat: promisify(fstat), read: promisify(read), ftruncate: promisify(ftruncate) }

export const placeOf: (path: string) => Promise<Place> = disk.stat

export const placeOfOpen: (fd: number) => Promise<Place> = disk.fstat

/** @throws if the path is another file, or does not exist */
export async function requireReachable(path: string, written: Place): Promise<void> {
  if (!(await isReachable(path, written)))
    throw new Error(`${path} is no longer the file that is written: was it removed, moved, or is a mount gone?`)
}

/**
 * @throws if the data directory is another folder than at the start: this process does not hold its lock, and it may
 *   be a mount point
 */
export async function requireHome(dataDir: string, home: Place): Promise<void> {
  if (!(await isReachable(dataDir, home)))
    throw new Error(
      `DATA_DIR ${dataDir} is no longer the folder of the start: was it removed, moved, or is a mount gone? Put it back, or restart the receiver`,
    )
}

export async function isReachable(path: string, { dev, ino }: Place): Promise<boolean> {
  try {
    const named = await disk.stat(path)
    return named.ino === ino && named.dev === dev
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) return false
    throw error
  }
}

/**
 * Restores the name of a segment that lost it, with the acknowledged lines. The content comes through the stable name
 * if that still links to it, otherwise from the open file.
 */
export async function restoreSegment({ path }: Segment, dataDir: string, fd: number, durable: number): Promise<void> {
  await disk.ftruncate(fd, durable)
  if (durable === 0) return
  await makeJournalDir(dataDir)
  if (await isReachable(stableName(dataDir), await disk.fstat(fd))) await link(stableName(dataDir), path)
  else await copy(fd, durable, path)
  for (const folder of [dirname(path), dataDir]) await syncPath(folder)
}

async function copy(fd: number, size: number, path: string): Promise<void> {
  const bytes = Buffer.alloc(size)
  for (let done = 0; done < size; ) {
    const { bytesRead } = await disk.read(fd, bytes, done, size - done, done)
    if (bytesRead === 0) throw new Error(`of ${size} bytes only ${done} can be read`)
    done += bytesRead
  }
  await writeFile(path, bytes, { flag: 'wx', flush: true, mode: fileMode(path) })
}

/**
 * Restores the name of a segment that only the stable name still links to, before the stable name moves to another
 * segment. It may be the last link to lines that no process has read. If its own name is unknown or taken, it goes after
 * all other segments, so that every follower reads it.
 *
 * @param newest its own name; empty if that is unknown
 */
export async function bringBack(
  dataDir: string,
  newest: string,
  usedNumber: number | undefined,
  { log, now }: { readonly log: Logger; readonly now: () => Date },
): Promise<void> {
  await makeJournalDir(dataDir)
  const stable = stableName(dataDir)
  const found = await lstat(stable).catch(() => undefined)
  if (!found?.isFile() || found.size === 0) return
  const segments = await listSegments(dataDir)
  const known = await Promise.all(segments.map(({ path }) => isReachable(path, found)))
  if (known.includes(true)) return
  // A copy of DATA_DIR may have made two files of one. In that case a segment has all of its content.
  const first = await firstIdIn({ path: stable })
  const others = await Promise.all(segments.map(firstIdIn))
  if (first !== undefined && others.includes(first)) return
  const number = numberOf(newest)
  const isFree = number !== undefined && segments.every(({ path }) => basename(path) !== newest)
  const last = highestOf(segments.at(-1)?.number, number, usedNumber)
  const path = join(journalDir(dataDir), isFree ? newest : nameOf(last + 1, now()))
  await link(stable, path)
  await syncPath(journalDir(dataDir))
  log.warn({ segment: path }, 'a segment whose name was removed is back')
}
