import type { DatabaseSync, SQLOutputValue } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ObjectSelection, RunNotEnded } from '../deliveries.ts'
import type { Lanes } from './ordering.ts'
import { isLaneOf, needlesOf } from '../stored.ts'

export interface EraseParts {
  readonly about: ObjectSelection
  readonly isAbandoned: boolean
  /** Of the deliveries about it. */
  readonly rows: readonly Record<string, SQLOutputValue>[]
  readonly lanes: Lanes
}

/** Inside the caller's transaction. @returns how many were dropped @throws {RunNotEnded} */
export function eraseRows(db: DatabaseSync, { about, isAbandoned, rows, lanes }: EraseParts): number {
  const running = rows.find(({ state }) => state === 'running')
  if (running && !isAbandoned)
    throw new RunNotEnded({ handler: String(running['handler']), event: String(running['event_id']) })
  const ended = rows.filter(({ state }) => state === 'done' || state === 'coalesced')
  const dropped = rows.filter((row) => !ended.includes(row))
  const drop = db.prepare('DELETE FROM delivery WHERE key = ?')
  for (const { key = null } of dropped) drop.run(key)
  const forget = [
    db.prepare('DELETE FROM failure WHERE delivery = ?'),
    db.prepare('UPDATE delivery SET error = NULL WHERE key = ?'),
  ]
  for (const { key = null } of ended) for (const statement of forget) statement.run(key)
  for (const table of ['seen', 'own_write']) {
    const found = db.prepare(`SELECT DISTINCT lane FROM ${table} WHERE instr(lane, ?) > 0`)
    const remove = db.prepare(`DELETE FROM ${table} WHERE lane = ?`)
    for (const { lane = null } of found.all(needlesOf(about.object).inLane)) if (isLaneOf(lane, about)) remove.run(lane)
  }
  unblock(db, dropped, lanes)
  return dropped.length
}

/** What came after it may wait behind what is gone. */
function unblock(db: DatabaseSync, dropped: EraseParts['rows'], lanes: Lanes): void {
  const head = db.prepare(
    "SELECT 1 FROM delivery WHERE handler = ? AND lane = ? AND state IN ('ready', 'running', 'waiting')",
  )
  for (const { handler, lane } of dropped)
    if (typeof lane === 'string' && typeof handler === 'string' && head.get(handler, lane) === undefined)
      lanes.unblock(handler, lane)
}

/** A reader of the WAL keeps it for as long as it reads: tries, with the milliseconds between two. */
const [tries, interval] = [100, 100]

/**
 * Rewrites the file without what was freed in it, by this process or by others that do not overwrite what they free, and
 * empties the WAL, which has the old pages.
 */
export async function scrub(db: DatabaseSync): Promise<void> {
  // Else the copy that VACUUM makes would be a file in the folder for temporary ones.
  db.exec('PRAGMA temp_store = MEMORY; VACUUM')
  const checkpoint = db.prepare('PRAGMA wal_checkpoint(TRUNCATE)')
  for (let left = tries; Number(checkpoint.get()?.['busy']) !== 0; left--) {
    if (left === 0) throw new Error('dispatch.db is being read all the time, so its WAL cannot be emptied: try again')
    await sleep(interval)
  }
}
