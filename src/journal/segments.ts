import { link, mkdir, open, readdir, rename, rm, symlink } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'

/** One file of the journal. The number orders them, not the clock. */
export interface Segment {
  readonly number: number
  readonly path: string
}

const fileName = /^(\d{12})-\d{4}-\d{2}-\d{2}\.ndjson$/

export function journalDir(dataDir: string): string {
  return join(dataDir, 'journal')
}

/** The name for `tail -F`: whatever segment is being written. */
export function stableName(dataDir: string): string {
  return join(dataDir, 'events.ndjson')
}

/** Every segment, oldest first. */
export async function listSegments(dataDir: string): Promise<Segment[]> {
  const dir = journalDir(dataDir)
  const names = await readdir(dir)
  return names
    .map((name) => ({ number: Number(fileName.exec(name)?.[1] ?? Number.NaN), path: join(dir, name) }))
    .filter((segment) => !Number.isNaN(segment.number))
    .sort((a, b) => a.number - b.number)
}

/**
 * Makes the empty segment of this number and the folders above it, all of it on disk when this resolves: a file whose
 * name is not in its directory after a power cut is as lost as its lines.
 */
export async function createSegment(dataDir: string, number: number, now: Date): Promise<Segment> {
  const dir = journalDir(dataDir)
  await mkdir(dir, { recursive: true })
  const name = `${String(number).padStart(12, '0')}-${now.toISOString().slice(0, 10)}.ndjson`
  const segment = { number, path: join(dir, name) }
  await (await open(segment.path, 'ax')).close()
  for (const folder of [dir, dataDir]) await syncFolder(folder)
  return segment
}

/**
 * Lets the stable name point at this segment, by `link` and `rename`: GNU `tail -F` misses no line on a hard link, on a
 * symbolic link it does. Where the file system has no hard links a symbolic one has to do.
 */
export async function pointStableName(dataDir: string, segment: Segment): Promise<void> {
  const name = stableName(dataDir)
  const fresh = `${name}.next`
  await rm(fresh, { force: true })
  try {
    await link(segment.path, fresh)
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(codeOf(error) ?? '')) throw error
    await symlink(join(basename(journalDir(dataDir)), relative(journalDir(dataDir), segment.path)), fresh)
  }
  await rename(fresh, name)
  // rename() leaves both names when they already were the same file.
  await rm(fresh, { force: true })
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}
