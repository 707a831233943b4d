import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { StartError } from '../start-error.ts'

/** Another receiver writes to this data directory. The message names it. */
export class DataDirInUse extends StartError {
  override readonly name = 'DataDirInUse'
}

const SQLITE_BUSY = 5

/**
 * Makes this process the only receiver on a data directory, until it ends, however it ends. The lock is SQLite's on a
 * file of its own, because in containers every holder is pid 1, so a pid file is no lock. Nothing else in this process
 * may open that file: closing any descriptor of it would drop the lock.
 *
 * @throws {DataDirInUse}
 */
export function lockDataDir(dataDir: string): { release(): void } {
  const db = new DatabaseSync(join(dataDir, 'receiver.lock'))
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
    const holder = db.prepare('SELECT host, pid, started_at FROM holder').get()
    db.close()
    throw new DataDirInUse(
      `${dataDir} is in use by another receiver: pid ${Number(holder?.['pid'])} on ${String(holder?.['host'])}, started ${String(holder?.['started_at'])}`,
      { cause: error },
    )
  }
}
