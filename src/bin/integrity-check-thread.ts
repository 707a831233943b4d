import { DatabaseSync } from 'node:sqlite'
import { parentPort, workerData } from 'node:worker_threads'

/** Started by queue-file.ts: a look at all of the file, beside the event loop. */
parentPort?.postMessage(check(String(workerData)))

function check(path: string): readonly string[] {
  const db = new DatabaseSync(path, { timeout: 5_000 })
  try {
    // It compares indexes with their tables, which quick_check does not.
    const rows = db.prepare('PRAGMA integrity_check(10)').all()
    return rows.map((row) => String(row['integrity_check'])).filter((words) => words !== 'ok')
  } catch (error) {
    const isSqlite = error instanceof Error && 'errcode' in error
    // An error that crosses a thread keeps its message only; SQLITE_BUSY and the like are no damage.
    if (isSqlite && [11, 26].includes(Number(error.errcode) & 0xff)) return [error.message]
    throw error
  } finally {
    db.close()
  }
}
