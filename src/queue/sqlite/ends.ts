import type { DatabaseSync } from 'node:sqlite'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { maxFailures } from '../../lib/error-text.ts'
import type { End } from '../end.ts'
import type { Delivery } from '../queue.ts'
import type { OrderingKeys } from './ordering.ts'
import { bare, inTransaction } from './schema.ts'

export interface EndsDeps {
  readonly db: DatabaseSync
  readonly orderingKeys: OrderingKeys
  readonly now: () => number
}

interface PendingEnd {
  readonly delivery: Delivery
  readonly end: End
  readonly stored: PromiseWithResolvers<void>
}

/**
 * Stores how runs ended. The commit is most of what an end costs, so the ends of one turn of the event loop share a
 * transaction. If the process dies before it, these runs are repeated like any run that was under way.
 */
export function createEnds({ db, orderingKeys, now }: EndsDeps) {
  const sql = {
    end: db.prepare(`
      UPDATE delivery SET state = :state, attempts = attempts - :uncounted, postponed = :postponed,
        quarantined = coalesce(:quarantined, quarantined), first_run_at = iif(:postponed, NULL, first_run_at),
        since = :since, due = :due, ended_at = :endedAt, error = coalesce(:error, error),
        event = iif(:state = 'done', NULL, event), spent_ms = coalesce(:spentMs, spent_ms)
      WHERE key = :key AND state = 'running' RETURNING ordering_key`),
    failed: db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)'),
    forgetFailures: db.prepare('DELETE FROM failure WHERE delivery = ? AND attempt <= ?'),
    see: db.prepare('INSERT OR REPLACE INTO snapshot (handler, ordering_key, fields) VALUES (?, ?, ?)'),
    unsee: db.prepare('DELETE FROM snapshot WHERE handler = ? AND ordering_key = ?'),
  }
  let pending: PendingEnd[] = []

  /** Returns whether the delivery was running. If it was not, nothing is changed. */
  function store({ key, handler, attempt, event }: Delivery, end: End): boolean {
    const { how, due, error, spentMs, alone = false, snapshot } = end
    const at = now()
    const isWaiting = how === 'retry' || how === 'postponed'
    const isEnded = how === 'done' || how === 'dead'
    const row = sql.end.get(
      bare({
        key,
        state: isWaiting ? 'waiting' : isEnded ? how : 'ready',
        uncounted: Number(how === 'postponed' || how === 'released'),
        postponed: Number(how === 'postponed'),
        quarantined: how === 'postponed' ? null : Number(alone),
        since: isWaiting ? at : null,
        due: due ?? null,
        endedAt: isEnded ? at : null,
        error: error ?? null,
        spentMs: spentMs ?? null,
      }),
    )
    if (row === undefined) return false
    if (error !== undefined && how !== 'postponed') {
      sql.failed.run(key, attempt, at, error)
      sql.forgetFailures.run(key, attempt - maxFailures)
    }
    const { ordering_key: orderingKey } = row
    if (isEnded && typeof orderingKey === 'string') orderingKeys.unblock(handler, orderingKey)
    if (snapshot === null) sql.unsee.run(handler, orderingKeyOf(event))
    else if (snapshot) sql.see.run(handler, orderingKeyOf(event), JSON.stringify(snapshot))
    return true
  }

  function flush(): void {
    const ends = pending
    if (ends.length === 0) return
    pending = []
    try {
      const found = inTransaction(db, () => ends.map(({ delivery, end }) => store(delivery, end)))
      for (const [index, { delivery, end, stored }] of ends.entries()) {
        // Without this error, a second end would retry a finished delivery, which has no event any more.
        if (found[index] || end.how === 'released') stored.resolve()
        else stored.reject(notRunning(delivery))
      }
    } catch (error) {
      for (const { stored } of ends) stored.reject(error)
    }
  }

  return {
    /** Resolves when the end is stored. Rejects if the delivery is not running. */
    add(delivery: Delivery, end: End): Promise<void> {
      const stored = Promise.withResolvers<void>()
      if (pending.push({ delivery, end, stored }) === 1) setImmediate(flush)
      return stored.promise
    },
    /** Stores at once what waits. */
    flush,
  }
}

function notRunning({ key, handler, event }: Delivery): Error {
  return new Error(`the delivery ${key} of ${event.id} to ${handler} is not running: its end is not written down`)
}
