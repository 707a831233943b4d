import { accessSync, constants, existsSync, truncateSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { codeOf } from '../lib/error-code.ts'
import { makePrivate } from '../lib/private-files.ts'
import { StartError } from '../lib/start-error.ts'

/** Another process has the part of the data directory that we wanted. The message names it. */
export class DataDirInUse extends StartError {
  override readonly name = 'DataDirInUse'
}

/** The file of a lock cannot be used; the message names it, and says what to do. */
export class LockError extends StartError {
  override readonly name = 'LockError'
}

/** Who has a part of a data directory. */
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

/** Milliseconds: somebody may just be looking whether it is held. */
const patience = 300

/** Milliseconds: whoever takes it just now has not written yet who he is, and whoever only looks is gone at once. */
const glance = 100

/**
 * Makes this process the only receiver, or the only dispatcher, on a data directory until it ends, however it ends. The
 * lock is SQLite's on a file of its own, because in containers every holder is pid 1, so a pid file is no lock. Nothing
 * else in this process may open that file: closing any descriptor of it would drop the lock.
 *
 * A file that is damaged is emptied in its place. What is locked is the file, not what it holds, so somebody who has it
 * keeps it; a new file of that name would be a second lock.
 *
 * @returns `wasDamaged`: it was emptied
 * @throws {DataDirInUse}
 * @throws {LockError}
 */
export function lockDataDir(dataDir: string, part: 'receiver' | 'dispatcher' | 'erase'): Lock {
  const path = join(dataDir, `${part}.lock`)
  try {
    return { ...takeLock(dataDir, part), wasDamaged: false }
  } catch (error) {
    if (!isDamage(error, path)) throw explain(error, path)
  }
  try {
    truncateSync(path)
    return { ...takeLock(dataDir, part), wasDamaged: true }
  } catch (error) {
    throw explain(error, path)
  }
}

export interface Lock {
  release(): void
  readonly wasDamaged: boolean
}

function takeLock(dataDir: string, part: 'receiver' | 'dispatcher' | 'erase'): { release(): void } {
  const path = join(dataDir, `${part}.lock`)
  makePrivate(path)
  const db = new DatabaseSync(path, { timeout: patience })
  try {
    // In another mode the lock would be on another file, and whoever has this one would not be seen.
    if (db.prepare('PRAGMA journal_mode').get()?.['journal_mode'] !== 'delete') throw new DamagedLock(path)
    db.exec(`
      BEGIN IMMEDIATE;
      CREATE TABLE IF NOT EXISTS holder (host TEXT, pid INTEGER, started_at TEXT);
      DELETE FROM holder`)
    db.prepare('INSERT INTO holder VALUES (?, ?, ?)').run(hostname(), process.pid, new Date().toISOString())
    // IMMEDIATE, unlike EXCLUSIVE, lets others read who holds it.
    db.exec('COMMIT; BEGIN IMMEDIATE')
    return { release: () => release(db) }
  } catch (error) {
    const holder = isBusy(error) ? readHolder(db) : undefined
    db.close()
    if (!isBusy(error)) throw error
    const who = holder ? `: pid ${holder.pid} on ${holder.host}, started ${holder.startedAt}` : ''
    throw new DataDirInUse(`${dataDir} is in use by another ${part}${who}`, { cause: error })
  }
}

/** Of the name nothing is left: to somebody who looks while the next one comes it would be that of a stranger. */
function release(db: DatabaseSync): void {
  try {
    db.exec('DELETE FROM holder; COMMIT')
  } catch {
    // On a full disk it stays.
  }
  db.close()
}

/**
 * Who has the part now; `undefined` when nobody does. A user who may not write there cannot try the lock: to him the one
 * who had it last has it as long as there is such a process.
 */
export function findHolder(dataDir: string, part: 'receiver' | 'dispatcher'): Holder | undefined {
  const path = join(dataDir, `${part}.lock`)
  if (!existsSync(path)) return undefined
  const mayWrite = isWritable(path) && isWritable(dataDir)
  const db = new DatabaseSync(path, { readOnly: !mayWrite, timeout: glance })
  try {
    // Whatever is wrong with it shows here.
    db.prepare('PRAGMA schema_version').get()
    if (!mayWrite) {
      const holder = readHolder(db)
      return holder && isAlive(holder) ? holder : undefined
    }
    db.exec('BEGIN IMMEDIATE; ROLLBACK')
    return undefined
  } catch (error) {
    if (isBusy(error)) return readHolder(db)
    throw isDamage(error, path)
      ? new LockError(`${path} is damaged, so nobody can read who has it: the next start of the ${part} empties it`, {
          cause: error,
        })
      : error
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

/** On another host, such as in a container, it is taken for alive. */
function isAlive({ pid, host }: Holder): boolean {
  if (host !== hostname()) return true
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return codeOf(error) === 'EPERM'
  }
}

/** Its header is that of another kind of lock. */
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

/** What is wrong with the file, in words that name it. */
function explain(error: unknown, path: string): unknown {
  const code = codeOfSqlite(error)
  if (code === SQLITE_READONLY || code === SQLITE_CANTOPEN)
    return new LockError(
      `${path} may not be written by user ${process.getuid?.()}: give it to the receiver's user, chown -R`,
      { cause: error },
    )
  if (!isDamage(error, path) && codeOf(error) !== 'EACCES') return error
  return new LockError(
    `${path} is damaged (${error instanceof Error ? error.message : String(error)}) and cannot be emptied: stop every process of this folder, and remove the file`,
    { cause: error },
  )
}

/** The kind of an error of SQLite's; extended codes have it in their last byte. */
function codeOfSqlite(error: unknown): number | undefined {
  return error instanceof Error && 'errcode' in error ? Number(error.errcode) & 0xff : undefined
}

function isBusy(error: unknown): boolean {
  return codeOfSqlite(error) === SQLITE_BUSY
}

/** Two that start at once may meet before either has written who it is. */
function readHolder(db: DatabaseSync): Holder | undefined {
  try {
    const row = db.prepare('SELECT host, pid, started_at FROM holder').get()
    return row && { pid: Number(row['pid']), host: String(row['host']), startedAt: String(row['started_at']) }
  } catch {
    return undefined
  }
}
