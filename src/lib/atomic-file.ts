import { randomUUID } from 'node:crypto'
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { open, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
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
  await syncFolder(dirname(path))
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
  const folder = openSync(dirname(path), 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/** After this, a name that was added to the folder or removed from it survives a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

function temporaryPath(path: string): string {
  return `${path}.${randomUUID()}.tmp`
}

/** `wx` opens with O_EXCL, and `flush` is fsync. */
function optionsFor(path: string) {
  return { flag: 'wx', flush: true, mode: fileMode(path) } as const
}
