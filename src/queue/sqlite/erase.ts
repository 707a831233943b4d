import type { DatabaseSync, SQLOutputValue } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ObjectSelection } from '../deliveries.ts'
import { planErasure } from '../delivery-row.ts'
import { isOrderingKeyOf, needlesOf } from '../stored.ts'
import type { OrderingKeys } from './ordering.ts'

export interface EraseDeps {
  readonly about: ObjectSelection
  readonly isAbandoned: boolean
  /** The deliveries about the object. */
  readonly rows: readonly Record<string, SQLOutputValue>[]
  readonly orderingKeys: OrderingKeys
}

/**
 * Runs inside the caller's transaction.
 *
 * @returns how many deliveries were dropped
 * @throws {RunNotEnded}
 */
export function eraseRows(db: DatabaseSync, { about, isAbandoned, rows, orderingKeys }: EraseDeps): number {
  const { kept, dropped } = planErasure(rows, isAbandoned)
  const drop = db.prepare('DELETE FROM delivery WHERE key = ?')
  for (const { key = null } of dropped) drop.run(key)
  const forget = [
    db.prepare('DELETE FROM failure WHERE delivery = ?'),
    db.prepare('UPDATE delivery SET error = NULL WHERE key = ?'),
  ]
  for (const { key = null } of kept) for (const statement of forget) statement.run(key)
  for (const table of ['snapshot', 'own_write']) {
    const found = db.prepare(`SELECT DISTINCT ordering_key FROM ${table} WHERE instr(ordering_key, ?) > 0`)
    const remove = db.prepare(`DELETE FROM ${table} WHERE ordering_key = ?`)
    for (const { ordering_key: orderingKey = null } of found.all(needlesOf(about.object).inOrderingKey))
      if (isOrderingKeyOf(orderingKey, about)) remove.run(orderingKey)
  }
  unblock(db, dropped, orderingKeys)
  return dropped.length
}

/** Later deliveries may wait behind a deleted one. */
function unblock(db: DatabaseSync, dropped: EraseDeps['rows'], orderingKeys: OrderingKeys): void {
  const head = db.prepare(
    "SELECT 1 FROM delivery WHERE handler = ? AND ordering_key = ? AND state IN ('ready', 'running', 'waiting')",
  )
  for (const { handler, ordering_key: orderingKey } of dropped)
    if (typeof orderingKey === 'string' && typeof handler === 'string' && head.get(handler, orderingKey) === undefined)
      orderingKeys.unblock(handler, orderingKey)
}

/** Tries, and milliseconds between two. A reader keeps the WAL for as long as it reads. */
const [maxTries, pauseMs] = [100, 100]

/**
 * Rewrites the file without its freed bytes, and empties the WAL, which has the old pages. Other processes may have
 * freed bytes without overwriting them.
 */
export async function scrub(db: DatabaseSync): Promise<void> {
  // Without this, VACUUM would write its copy to a file in the folder for temporary files.
  db.exec('PRAGMA temp_store = MEMORY; VACUUM')
  const checkpoint = db.prepare('PRAGMA wal_checkpoint(TRUNCATE)')
  for (let left = maxTries; Number(checkpoint.get()?.['busy']) !== 0; left--) {
    if (left === 0) throw new Error('dispatch.db is being read all the time, so its WAL cannot be emptied: try again')
    await sleep(pauseMs)
  }
}
