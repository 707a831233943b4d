import {
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import type { Logger } from 'pino'
import { syncPath } from '../lib/atomic-file.ts'
import { codeOf } from '../lib/error-code.ts'
import { fileMode, folderMode } from '../lib/private-files.ts'
import { lengthOfWhole, readableIds } from './damage.ts'

/** One file of the journal. Segments are ordered by number, not by the clock. */
export interface Segment {
  readonly number: number
  readonly path: string
}

const fileName = /^(\d{12})-\d{4}-\d{2}-\d{2}\.ndjson$/

/** Returns `undefined` if it is not the name of a segment. */
export function numberOf(name: string): number | undefined {
  const digits = fileName.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

export function journalDir(dataDir: string): string {
  return join(dataDir, 'journal')
}

export async function makeJournalDir(dataDir: string): Promise<void> {
  const dir = journalDir(dataDir)
  await mkdir(dir, { recursive: true, mode: folderMode(dir) })
}

/** The name for `tail -F`. It always links to the segment being written. */
export function stableName(dataDir: string): string {
  return join(dataDir, 'events.ndjson')
}

/**
 * Makes the folder of the segments, and the stable name. If GNU `tail -F` starts while its only file is missing, it
 * checks only once a second from then on, and loses every segment that lives for a shorter time.
 */
export async function createStableName(dataDir: string): Promise<void> {
  await makeJournalDir(dataDir)
  const path = stableName(dataDir)
  await writeFile(path, '', { flag: 'ax', mode: fileMode(path) }).catch((error: unknown) => {
    if (codeOf(error) !== 'EEXIST') throw error
  })
}

/** Returns every segment, oldest first. */
export async function listSegments(dataDir: string): Promise<Segment[]> {
  const dir = journalDir(dataDir)
  const names = await readdir(dir)
  return names
    .map((name) => ({ number: numberOf(name) ?? Number.NaN, path: join(dir, name) }))
    .filter((segment) => !Number.isNaN(segment.number))
    .sort((a, b) => a.number - b.number || (a.path < b.path ? -1 : 1))
}

/** Returns the size in bytes; 0 for a segment that the retention has removed meanwhile. */
export async function sizeOf({ path }: Pick<Segment, 'path'>): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  )
}

/** Opens a file, to read it or also to overwrite it. Returns `undefined` if it was removed since it was listed. */
export async function openIfExists(
  { path }: Pick<Segment, 'path'>,
  flags: 'r' | 'r+' = 'r',
): Promise<FileHandle | undefined> {
  try {
    return await open(path, flags)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/** Returns the id of the first event; `undefined` if there is none yet, or if it cannot be read. */
export async function firstId(handle: FileHandle): Promise<string | undefined> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(idSearchBytes), 0, idSearchBytes, 0)
  const [line = ''] = buffer.toString('latin1', 0, bytesRead).split('\n')
  return /"id":"([^"]{1,64})"/.exec(line)?.[1]
}

/** Does the same for a file, which may have been removed. */
export async function firstIdIn(file: Pick<Segment, 'path'>): Promise<string | undefined> {
  const handle = await openIfExists(file)
  try {
    return handle && (await firstId(handle))
  } finally {
    await handle?.close()
  }
}

/** pino's level and time, and then the id, come before any text from a portal. */
const idSearchBytes = 160

/** Returns whether no event was ever journalled here, or all of them are gone. */
export async function isJournalEmpty(dataDir: string): Promise<boolean> {
  const sizes = await Promise.all((await listSegments(dataDir)).map(async ({ path }) => (await stat(path)).size))
  return sizes.every((size) => size === 0)
}

/**
 * Makes the empty segment of this number and the folders above it. All of it is on disk when the promise resolves:
 * after a power cut, a file without its name in the directory is lost together with its lines.
 */
export async function createSegment(dataDir: string, number: number, now: Date): Promise<Segment> {
  const dir = journalDir(dataDir)
  await makeJournalDir(dataDir)
  const segment = { number, path: join(dir, nameOf(number, now)) }
  await (await open(segment.path, 'ax', fileMode(segment.path))).close()
  for (const folder of [dir, dataDir]) await syncPath(folder)
  return segment
}

export function nameOf(number: number, now: Date): string {
  return `${String(number).padStart(12, '0')}-${utcDate(now)}.ndjson`
}

/**
 * Makes the stable name link to this segment, by `link` and `rename`. GNU `tail -F` misses no line on a hard link; on
 * a symbolic link it does. A symbolic link is used only if the file system has no hard links, or if the journal is on
 * another file system.
 */
export async function pointStableName(dataDir: string, segment: Segment): Promise<void> {
  const name = stableName(dataDir)
  const fresh = `${name}.next`
  await rm(fresh, { force: true })
  try {
    await link(segment.path, fresh)
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK', 'EXDEV'].includes(codeOf(error) ?? '')) throw error
    await symlink(join(basename(journalDir(dataDir)), relative(journalDir(dataDir), segment.path)), fresh)
  }
  await rename(fresh, name)
  // If both names were already the same file, `rename()` keeps both.
  await rm(fresh, { force: true })
}

/**
 * Seals the last segment of an earlier process by cutting everything after its last complete line. An earlier damaged
 * line stays in its place: the lines after it may have been acknowledged, and a position must not come to mean
 * another line.
 *
 * @returns the last segment, and whether it is empty and always was; `undefined` on the first start
 */
export async function sealLast(
  dataDir: string,
  log: Logger,
): Promise<(Segment & { readonly isEmpty: boolean }) | undefined> {
  await makeJournalDir(dataDir)
  const segment = (await listSegments(dataDir)).at(-1)
  if (segment === undefined) return undefined
  const bytes = await readFile(segment.path)
  const end = lengthOfWhole(bytes)
  try {
    if (end < bytes.length) await cutSegment(segment, end, log)
  } catch (error) {
    // Every follower of the journal skips half a line at the end of a sealed segment.
    log.error({ err: error, segment: segment.path }, 'the last segment could not be cut')
  }
  return { ...segment, isEmpty: end === 0 }
}

/**
 * Cuts a segment to this many bytes. The bytes after them go to a file beside it, if the disk has room. An event in
 * them was most likely never acknowledged. But a disk may also damage an acknowledged line, so the readable ids are
 * logged.
 */
export async function cutSegment(segment: Segment, size: number, log: Logger): Promise<void> {
  const rest = (await readFile(segment.path)).subarray(size)
  if (rest.length === 0) return
  const beside = `${segment.path}.cut`
  const isKept = await writeFile(beside, rest, { mode: fileMode(beside) }).then(
    () => true,
    // A partial copy would only fill the disk further.
    () => rm(beside, { force: true }).then(() => false),
  )
  await truncate(segment.path, size)
  const events = readableIds(rest)
  log.warn(
    {
      segment: segment.path,
      bytes: rest.length,
      ...(isKept && { kept_in: beside, to_bring_back: `b24-receiver import ${beside}` }),
      ...(events.length > 0 && { events }),
    },
    'the end of a segment was cut',
  )
}

/** Resolves if the disk accepts and keeps as many bytes as a large event has. */
export async function tryDisk(dataDir: string): Promise<void> {
  // The folder may have been removed.
  await makeJournalDir(dataDir)
  const path = join(journalDir(dataDir), 'probe')
  try {
    await writeFile(path, Buffer.alloc(256 * 1024), { flush: true, mode: fileMode(path) })
  } finally {
    await rm(path, { force: true })
  }
}

/** The UTC date, for a segment's name and for its end. */
export function utcDate(date: Date): string {
  return date.toISOString().slice(0, 10)
}
