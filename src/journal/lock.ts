import { accessSync, constants, existsSync, truncateSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { codeOf } from '../lib/error-code.ts'
import { messageOf } from '../lib/error-text.ts'
import { makePrivate } from '../lib/private-files.ts'
import { StartError } from '../lib/start-error.ts'

/** Another process holds the requested lock of the data directory. The message names that process. */
export class DataDirInUse extends StartError {
  override readonly name = 'DataDirInUse'
}

/** A lock file cannot be used. The message names it, and says what to do. */
export class LockError extends StartError {
  override readonly name = 'LockError'
}

/** Each of these has a lock of its own. */
type Component = 'receiver' | 'dispatcher' | 'erase'

/** The process that holds a lock of a data directory. */
export interface Holder {
  readonly pid: number
  readonly host: string
  /** ISO 8601. */
  readonly startedAt: string
}

const SQLITE_BUSY = 5
const SQLITE_READONLY = 8
const SQLITE_CORRUPT = 11
const SQLITE_CANTOPEN = 14
const SQLITE_NOTADB = 26

/** Another process may hold the lock briefly, only to check whether it is free. */
const takeTimeoutMs = 300

/**
 * A process that has just taken the lock has not written its identity yet. A process that only checks the lock
 * releases it at once.
 */
const checkTimeoutMs = 100

/**
 * Makes this process the only receiver, or the only dispatcher, on a data directory until it ends in any way. The
 * lock is SQLite's, on a file of its own. A pid file would not work, because in containers every holder has pid 1. No
 * other code in this process may open that file: closing any descriptor of it would drop the lock.
 *
 * A damaged file is emptied in place. The lock is on the file and not on its content, so a holder keeps it. A new
 * file of the same name would be a second lock.
 *
 * @returns `wasDamaged`: the file was emptied
 * @throws {DataDirInUse}
 * @throws {LockError}
 */
export function lockDataDir(dataDir: string, component: Component): Lock {
  const path = join(dataDir, `${component}.lock`)
  try {
    return { ...takeLock(dataDir, component), wasDamaged: false }
  } catch (error) {
    if (!isDamage(error, path)) throw explain(error, path)
  }
  try {
    truncateSync(path)
    return { ...takeLock(dataDir, component), wasDamaged: true }
  } catch (error) {
    throw explain(error, path)
  }
}

export interface Lock {
  release(): void
  readonly wasDamaged: boolean
}

function takeLock(dataDir: string, component: Component): { release(): void } {
  const path = join(dataDir, `${component}.lock`)
  makePrivate(path)
  const db = new DatabaseSync(path, { timeout: takeTimeoutMs })
  try {
    // In another journal mode the lock would be on another file, and a holder of this file would not be detected.
    if (db.prepare('PRAGMA journal_mode').get()?.['journal_mode'] !== 'delete') throw new DamagedLock(path)
    db.exec(`
      BEGIN IMMEDIATE;
      CREATE TABLE IF NOT EXISTS holder (host TEXT, pid INTEGER, started_at TEXT);
      DELETE FROM holder`)
    db.prepare('INSERT INTO holder VALUES (?, ?, ?)').run(hostname(), process.pid, new Date().toISOString())
    // Unlike EXCLUSIVE, IMMEDIATE lets other processes read the holder's name.
    db.exec('COMMIT; BEGIN IMMEDIATE')
    return { release: () => release(db) }
  } catch (error) {
    const holder = isBusy(error) ? readHolder(db) : undefined
    db.close()
    if (!isBusy(error)) throw error
    const who = holder ? `: pid ${holder.pid} on ${holder.host}, started ${holder.startedAt}` : ''
    throw new DataDirInUse(`${dataDir} is in use by another ${component}${who}`, { cause: error })
  }
}

/**
 * Removes the holder's name. Otherwise a process that looks while the next holder starts would read the name of the
 * wrong process.
 */
function release(db: DatabaseSync): void {
  try {
    db.exec('DELETE FROM holder; COMMIT')
  } catch {
    // On a full disk the name stays.
  }
  db.close()
}

/**
 * Returns the current holder; `undefined` if there is none. A user without write access cannot try the lock. For that
 * user the last holder counts while a process with its pid exists.
 */
export function findHolder(dataDir: string, component: Exclude<Component, 'erase'>): Holder | undefined {
  const path = join(dataDir, `${component}.lock`)
  if (!existsSync(path)) return undefined
  const mayWrite = isWritable(path) && isWritable(dataDir)
  const db = new DatabaseSync(path, { readOnly: !mayWrite, timeout: checkTimeoutMs })
  try {
    // This query fails if the file is damaged.
    db.prepare('PRAGMA schema_version').get()
    if (!mayWrite) {
      const holder = readHolder(db)
      return holder && isAlive(holder) ? holder : undefined
    }
    db.exec('BEGIN IMMEDIATE; ROLLBACK')
    return undefined
  } catch (error) {
    if (isBusy(error)) return readHolder(db)
    if (!isDamage(error, path)) throw error
    const text = `${path} is damaged, so it cannot be read who holds it: the next start of the ${component} empties it`
    throw new LockError(text, { cause: error })
  } finally {
    db.close()
  }
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** A process on another host, such as in a container, counts as alive. */
function isAlive({ pid, host }: Holder): boolean {
  if (host !== hostname()) return true
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

/** The file's header belongs to another kind of lock. */
class DamagedLock extends Error {
  constructor(path: string) {
    super(`${path} is in another journal mode`)
  }
}

function isDamage(error: unknown, path: string): boolean {
  if (error instanceof DamagedLock) return true
  const code = codeOfSqlite(error)
  // SQLite writes to no file whose header names a later format.
  return code === SQLITE_CORRUPT || code === SQLITE_NOTADB || (code === SQLITE_READONLY && isWritable(path))
}

/** Returns an error whose message names the file and what is wrong with it. */
function explain(error: unknown, path: string): unknown {
  const code = codeOfSqlite(error)
  if (code === SQLITE_READONLY || code === SQLITE_CANTOPEN)
    return new LockError(
      `${path} may not be written by user ${process.getuid?.()}: give it to the receiver's user, chown -R`,
      { cause: error },
    )
  if (!isDamage(error, path) && codeOf(error) !== 'EACCES') return error
  const text = `${path} is damaged (${messageOf(error)}) and cannot be emptied: stop every process of this folder, and remove the file`
  return new LockError(text, { cause: error })
}

/** Returns the primary code of an SQLite error. An extended code has it in its last byte. */
function codeOfSqlite(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error ? Number(error.errcode) & 0xff : undefined
}

function isBusy(error: unknown): boolean {
  return codeOfSqlite(error) === SQLITE_BUSY
}

/** Two processes that start at once may meet before either has written its identity. */
function readHolder(db: DatabaseSync): Holder | undefined {
  try {
    const row = db.prepare('SELECT host, pid, started_at FROM holder').get()
    return row && { pid: Number(row['pid']), host: String(row['host']), startedAt: String(row['started_at']) }
  } catch {
    return undefined
  }
}
