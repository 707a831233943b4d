import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { Worker } from 'node:worker_threads'

/** `dispatch.db` cannot be used. The message names the file, the problem and the way out. */
export class QueueFileError extends Error {
  override readonly name = 'QueueFileError'
}

const SQLITE_READONLY = 8
const SQLITE_CORRUPT = 11
const SQLITE_CANTOPEN = 14
const SQLITE_NOTADB = 26

/** The maximum number of findings of `PRAGMA integrity_check` in a message. */
const maxFindings = 3

/**
 * If the file caused SQLite's error, returns an error with the file's name and the way out. Returns any other error
 * unchanged.
 */
export function explainQueueFile(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !('errcode' in error)) return error
  // The last byte of an extended code is its primary code:
  // https://www.sqlite.org/rescode.html#primary_result_codes_versus_extended_result_codes
  const code = Number(error.errcode) & 0xff
  if (code === SQLITE_READONLY || code === SQLITE_CANTOPEN) {
    if (!mayWrite(path))
      return new QueueFileError(
        `${path} may not be written by user ${process.getuid?.()}: give the file and its folder to the receiver's user, chown -R. Posts are accepted meanwhile, no handler runs`,
        { cause: error },
      )
    // SQLite does not write to a file whose header names a later format.
    if (code === SQLITE_READONLY) return damaged(path, error.message, error)
  }
  return code === SQLITE_CORRUPT || code === SQLITE_NOTADB ? damaged(path, error.message, error) : error
}

function damaged(path: string, findings: string, cause?: unknown): QueueFileError {
  return new QueueFileError(
    `${path} is malformed: ${findings}. Posts are accepted meanwhile, no handler runs. Run "b24-receiver repair", which rebuilds it from what is readable and from the journal, or put a backup back`,
    { cause },
  )
}

function mayWrite(path: string): boolean {
  try {
    if (existsSync(path)) accessSync(path, constants.W_OK)
    accessSync(dirname(path), constants.W_OK)
    return true
  } catch {
    return false
  }
}

/**
 * Compares every table with its indexes: a delivery that is missing from an index would silently never run. The check
 * has a thread of its own, because for a large file it takes longer than an event loop may be blocked.
 *
 * @throws {QueueFileError}
 */
export async function checkQueueFile(path: string): Promise<void> {
  if (!existsSync(path) || statSync(path).size === 0) return
  const findings = await checkInThread(path)
  if (findings.length > 0) throw damaged(path, findings.slice(0, maxFindings).join('; '))
}

/** Returns the findings of `PRAGMA integrity_check`, or the reason why it failed; nothing if the file is intact. */
function checkInThread(path: string): Promise<readonly string[]> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('../../bin/integrity-check-thread.ts', import.meta.url), { workerData: path })
    thread.once('error', (error) => reject(explainQueueFile(error, path)))
    thread.once('message', (findings: readonly string[]) => resolve(findings))
    thread.once('exit', () => reject(new Error(`${path} could not be checked`)))
  })
}
