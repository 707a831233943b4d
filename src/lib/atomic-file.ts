import { randomUUID } from 'node:crypto'
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { open, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { codeOf } from './error-code.ts'
import { fileMode } from './private-files.ts'

/**
 * Replaces a file, or makes it. At every moment, also after a power cut, the name means the complete old file or the
 * complete new one. After the promise resolves it means the new one, also after a power cut: the content, the name and
 * the folder are on disk. If it rejects, either is possible, and no other file stays.
 *
 * A process that is killed meanwhile may leave a file of the same name with a UUID and `.tmp` behind it. Nothing reads
 * it. Its name is random, so two writers never rename each other's half-written file.
 */
export async function writeFileAtomic(path: string, text: string): Promise<void> {
  const temporary = temporaryPath(path)
  try {
    await writeFile(temporary, text, optionsFor(path))
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw error
  }
  await syncPath(dirname(path))
}

/** Does the same, for callers that cannot wait. The event loop stands still for two fsyncs. */
export function writeFileAtomicSync(path: string, text: string): void {
  const temporary = temporaryPath(path)
  try {
    writeFileSync(temporary, text, optionsFor(path))
    renameSync(temporary, path)
  } catch (error) {
    try {
      rmSync(temporary, { force: true })
    } catch {
      // The first error says more.
    }
    throw error
  }
  syncPathSync(dirname(path))
}

/**
 * After this, the content of the file survives a power cut; for a folder, the names that were added to it or removed
 * from it.
 */
export async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Does the same, for callers that cannot wait. */
export function syncPathSync(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Returns the text of a small file; `undefined` if there is no such file. */
export function readIfExists(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

function temporaryPath(path: string): string {
  return `${path}.${randomUUID()}.tmp`
}

/** `wx` opens with O_EXCL, and `flush` is fsync. */
function optionsFor(path: string) {
  return { flag: 'wx', flush: true, mode: fileMode(path) } as const
}
