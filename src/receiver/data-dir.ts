import { existsSync } from 'node:fs'
import { access, constants, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createStableName, journalDir } from '../journal/segments.ts'
import { codeOf } from '../lib/error-code.ts'
import { folderMode } from '../lib/private-files.ts'
import { StartError } from '../lib/start-error.ts'

/**
 * Checks only the files that taking posts needs. The dispatcher reports its own files,
 * and events wait in the journal meanwhile.
 *
 * @throws {StartError} that names the user, the path and the command to run
 */
export async function ensureWritable(dir: string): Promise<void> {
  let path = dir
  try {
    await mkdir(dir, { recursive: true, mode: folderMode(dir) })
    // Files of an earlier run may belong to another user.
    for (path of [dir, journalDir(dir), join(dir, 'receiver.lock'), join(dir, 'journal.json')])
      if (existsSync(path)) await access(path, constants.W_OK)
    path = dir
    // First of all: a script that waits for the folder then runs `tail` on the stable name.
    await createStableName(dir)
  } catch (error) {
    const user = process.getuid?.()
    if (codeOf(error) === 'EROFS')
      throw new StartError(`${path} is on a read-only file system: set DATA_DIR`, { cause: error })
    if (codeOf(error) === 'EACCES')
      throw new StartError(`User ${user} may not write to ${path}. Run: chown -R ${user} ${dir}`, { cause: error })
    throw new StartError(`DATA_DIR ${path} cannot be used: ${String(error)}`, { cause: error })
  }
}
