import { closeSync, existsSync, openSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { codeOf } from './error-code.ts'

// Events hold personal data, so new files are only for the receiver's user. An umask is not an option, because it would
// also apply to the handlers' own files. Only the mode of the folder lets a group read: 0755 is the default of
// mkdir(1), so it does not express a decision.

/** The mode for a new file at this path: 0600, or 0640 if its folder is accessible to the group. */
export function fileMode(path: string): number {
  return isForGroup(dirname(path)) ? 0o640 : 0o600
}

/** The mode for a new folder at this path: 0700, or 0750 if the parent folder is accessible to the group. */
export function folderMode(path: string): number {
  return isForGroup(dirname(path)) ? 0o750 : 0o700
}

/**
 * Makes an empty file with that mode if there is none. SQLite does not choose a mode itself, and gives the files
 * beside it the mode of this one. An existing file is not opened, because closing it would drop the locks that this
 * process has on it.
 */
export function makePrivate(path: string): void {
  if (existsSync(path)) return
  try {
    closeSync(openSync(path, 'ax', fileMode(path)))
  } catch {
    // Another process made it first, or SQLite will report why it cannot be made.
  }
}

/**
 * Returns the mode, such as `0755`, of a folder that users other than its owner and group may enter; otherwise
 * `undefined`.
 */
export function modeForOthers(folder: string): string | undefined {
  const mode = statSync(folder).mode & 0o7777
  return (mode & 0o007) === 0 ? undefined : `0${mode.toString(8).padStart(3, '0')}`
}

function isForGroup(folder: string): boolean {
  try {
    const { mode } = statSync(folder)
    return (mode & 0o050) === 0o050 && (mode & 0o007) === 0
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false
    throw error
  }
}
