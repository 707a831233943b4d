import { closeSync, existsSync, openSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { codeOf } from './error-code.ts'

// Events hold personal data, so what we make is for the receiver's user. No umask does it: the handlers' own files would get
// it, too. An operator lets a group read by the mode of the folder, and only so: 0755 is what mkdir(1) makes, no decision.

/** For a file that is made at this path: 0600, or 0640 where its folder is for its group as well. */
export function fileMode(path: string): number {
  return isForGroup(dirname(path)) ? 0o640 : 0o600
}

/** For a folder that is made at this path: 0700, or 0750 where the one above it is for its group as well. */
export function folderMode(path: string): number {
  return isForGroup(dirname(path)) ? 0o750 : 0o700
}

/**
 * Makes an empty file of that mode where there is none, for SQLite, which asks for no mode, and gives the files beside it
 * the mode of this one. One that is there is not opened: closing it would drop the locks that this process has on it.
 */
export function makePrivate(path: string): void {
  if (existsSync(path)) return
  try {
    closeSync(openSync(path, 'ax', fileMode(path)))
  } catch {
    // Another process was faster, or SQLite will say why it cannot be made.
  }
}

/** The mode of a folder that users may enter who are neither its owner nor of its group, as `0755`; else `undefined`. */
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
