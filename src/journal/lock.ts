import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { StartError } from '../start-error.ts'

/** Another process has the part of the data directory that we wanted. The message names it. */
export class DataDirInUse extends StartError {
  override readonly name = 'DataDirInUse'
}

const SQLITE_BUSY = 5

/**
 * Makes this process the only receiver, or the only dispatcher, on a data directory until it ends, however it ends. The
 * lock is SQLite's on a file of its own, because in containers every holder is pid 1, so a pid file is no lock. Nothing
 * else in this process may open that file: closing any descriptor of it would drop the lock.
 *
 * @throws {DataDirInUse}
 */
export function lockDataDir(dataDir: string, part: 'receiver' | 'dispatcher'): { release(): void } {
  const db = new DatabaseSync(join(dataDir, `${part}.lock`))
  try {
    db.exec(`
      BEGIN IMMEDIATE;
      CREATE TABLE IF NOT EXISTS holder (host TEXT, pid INTEGER, started_at TEXT);
      DELETE FROM holder`)
    db.prepare('INSERT INTO holder VALUES (?, ?, ?)').run(hostname(), process.pid, new Date().toISOString())
    // IMMEDIATE, unlike EXCLUSIVE, lets others read who holds it.
    db.exec('COMMIT; BEGIN IMMEDIATE')
    return { release: () => db.close() }
  } catch (error) {
    if (!(error instanceof Error && 'errcode' in error && error.errcode === SQLITE_BUSY)) throw error
    const holder = readHolder(db)
    db.close()
    throw new DataDirInUse(`${dataDir} is in use by another ${part}${holder}`, { cause: error })
  }
}

/** Two that start at once may meet before either has written who it is. */
function readHolder(db: DatabaseSync): string {
  try {
    const holder = db.prepare('SELECT host, pid, started_at FROM holder').get()
    if (!holder) return ''
    return `: pid ${Number(holder['pid'])} on ${String(holder['host'])}, started ${String(holder['started_at'])}`
  } catch {
    return ''
  }
}
