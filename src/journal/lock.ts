import { accessSync, constants, existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { codeOf } from '../error-code.ts'
import { StartError } from '../start-error.ts'

/** Another process has the part of the data directory that we wanted. The message names it. */
export class DataDirInUse extends StartError {
  override readonly name = 'DataDirInUse'
}

/** Who has a part of a data directory. */
export interface Holder {
  readonly pid: number
  readonly host: string
  /** ISO 8601. */
  readonly startedAt: string
}

const SQLITE_BUSY = 5

/** Milliseconds: somebody may just be looking whether it is held. */
const patience = 300

/** Milliseconds: whoever takes it just now has not written yet who he is, and whoever only looks is gone at once. */
const glance = 100

/**
 * Makes this process the only receiver, or the only dispatcher, on a data directory until it ends, however it ends. The
 * lock is SQLite's on a file of its own, because in containers every holder is pid 1, so a pid file is no lock. Nothing
 * else in this process may open that file: closing any descriptor of it would drop the lock.
 *
 * @throws {DataDirInUse}
 */
export function lockDataDir(dataDir: string, part: 'receiver' | 'dispatcher'): { release(): void } {
  const db = new DatabaseSync(join(dataDir, `${part}.lock`), { timeout: patience })
  try {
    db.exec(`
      BEGIN IMMEDIATE;
      CREATE TABLE IF NOT EXISTS holder (host TEXT, pid INTEGER, started_at TEXT);
      DELETE FROM holder`)
    db.prepare('INSERT INTO holder VALUES (?, ?, ?)').run(hostname(), process.pid, new Date().toISOString())
    // IMMEDIATE, unlike EXCLUSIVE, lets others read who holds it.
    db.exec('COMMIT; BEGIN IMMEDIATE')
    return { release: () => release(db) }
  } catch (error) {
    if (!isBusy(error)) throw error
    const holder = readHolder(db)
    db.close()
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
    if (!mayWrite) {
      const holder = readHolder(db)
      return holder && isAlive(holder) ? holder : undefined
    }
    db.exec('BEGIN IMMEDIATE; ROLLBACK')
    return undefined
  } catch (error) {
    if (!isBusy(error)) throw error
    return readHolder(db)
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

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY
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
