import { DatabaseSync } from 'node:sqlite'
import { parentPort, workerData } from 'node:worker_threads'

/** Checks the whole file in a worker thread, off the event loop. queue/sqlite/integrity.ts starts it. */
parentPort?.postMessage(check(String(workerData)))

function check(path: string): readonly string[] {
  const db = new DatabaseSync(path, { timeout: 5_000 })
  try {
    // integrity_check compares indexes with their tables; quick_check does not.
    const rows = db.prepare('PRAGMA integrity_check(10)').all()
    return rows.map((row) => String(row['integrity_check'])).filter((args) => args !== 'ok')
  } catch (error) {
    const isSqlite = error instanceof Error && 'errcode' in error
    // SQLITE_CORRUPT (11) and SQLITE_NOTADB (26) are damage; SQLITE_BUSY and others are not. An error that crosses a
    // thread keeps only its message.
    if (isSqlite && [11, 26].includes(Number(error.errcode) & 0xff)) return [error.message]
    throw error
  } finally {
    db.close()
  }
}
