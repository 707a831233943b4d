import type { DatabaseSync } from 'node:sqlite'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { maxDebounce } from '../coalesce.ts'
import type { NewDelivery } from '../queue.ts'
import { bare } from './schema.ts'

export type OrderingKeys = ReturnType<typeof createOrderingKeys>

/** Decides which delivery of an ordering key may run. Call it inside a transaction. */
export function createOrderingKeys(db: DatabaseSync, now: () => number) {
  const sql = {
    head: db.prepare(`
      SELECT key, state, attempts, postponed, debounce, created_at FROM delivery
      WHERE handler = ? AND ordering_key = ? AND state IN ('ready', 'running', 'waiting')`),
    add: db.prepare(`
      INSERT INTO delivery (event_id, handler, run, ordering_key, name, event, segment, debounce, created_at, state, since, due)
      VALUES (:id, :handler, :run, :orderingKey, :name, :event, :segment, :debounce, :now, :state, :since, :due)
      ON CONFLICT (event_id, handler, run) DO NOTHING`),
    wait: db.prepare("UPDATE delivery SET state = 'waiting', since = :now, due = :due WHERE key = :key"),
    makeReady: db.prepare("UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE key = ?"),
    next: db.prepare(`
      SELECT key, debounce, created_at FROM delivery WHERE handler = ? AND ordering_key = ? AND state = 'blocked' ORDER BY key LIMIT 1`),
    newest: db.prepare(`
      SELECT created_at FROM delivery WHERE handler = ? AND ordering_key = ? AND state = 'blocked' ORDER BY key DESC LIMIT 1`),
  }

  /** When the head of an ordering key stops waiting for quiet, if its object's newest event came at `newest`. */
  const quietAt = (debounce: number, createdAt: number, newest: number) =>
    Math.min(newest + debounce, createdAt + maxDebounce * debounce)

  return {
    /**
     * Adds the delivery, unless it already exists.
     *
     * @param run 1, or a free number for a replay
     */
    add({ handler, event, segment, order, debounce }: NewDelivery, run = 1): void {
      const at = now()
      const orderingKey = order === 'none' ? null : orderingKeyOf(event)
      const head = orderingKey === null ? undefined : sql.head.get(handler, orderingKey)
      const waits = head === undefined && debounce > 0
      const { changes } = sql.add.run(
        bare({
          id: event.id,
          handler,
          run,
          orderingKey,
          name: event.event,
          event: JSON.stringify(event),
          segment,
          debounce,
          now: at,
          state: head ? 'blocked' : waits ? 'waiting' : 'ready',
          since: waits ? at : null,
          due: waits ? at + debounce : null,
        }),
      )
      if (changes === 0 || head?.['state'] !== 'waiting' || head['attempts'] !== 0 || head['postponed'] !== 0) return
      // The burst goes on.
      const due = quietAt(Number(head['debounce']), Number(head['created_at']), at)
      sql.wait.run(bare({ key: head['key'] ?? null, now: at, due }))
    },
    /** Call this when the head of the ordering key is gone. The next delivery may run once its object is quiet. */
    unblock(handler: string, orderingKey: string): void {
      const next = sql.next.get(handler, orderingKey)
      if (next === undefined) return
      const newest = Number(sql.newest.get(handler, orderingKey)?.['created_at'])
      const due = quietAt(Number(next['debounce']), Number(next['created_at']), newest)
      if (Number(next['debounce']) > 0 && due > now()) sql.wait.run(bare({ key: next['key'] ?? null, now: now(), due }))
      else sql.makeReady.run(next['key'] ?? null)
    },
  }
}
