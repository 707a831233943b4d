import type { DatabaseSync } from 'node:sqlite'
import { laneOf } from '../../events/ordering-key.ts'
import type { NewDelivery } from '../queue.ts'
import { bare } from './schema.ts'

/** The lanes of deliveries: who of a lane may go. To be used inside a transaction of the caller's. */
export interface Lanes {
  /** @param run 1, or for a replay one that is free. What is there already is not added: `false`. */
  add(delivery: NewDelivery, run?: number): boolean
  /** The head of the lane is gone: the next may go, when its object is quiet. */
  unblock(handler: string, lane: string): void
}

/** A burst that never ends must not hold its first event for ever: this many times `settle` is the most. */
const longestSettle = 10

export function createLanes(db: DatabaseSync, now: () => number): Lanes {
  const sql = {
    head: db.prepare(`
      SELECT key, state, attempts, postponed, settle, created_at FROM delivery
      WHERE handler = ? AND lane = ? AND state IN ('ready', 'running', 'waiting')`),
    add: db.prepare(`
      INSERT INTO delivery (event_id, handler, run, lane, name, event, segment, settle, created_at, state, since, due)
      VALUES (:id, :handler, :run, :lane, :name, :event, :segment, :settle, :now, :state, :since, :due)
      ON CONFLICT (event_id, handler, run) DO NOTHING`),
    wait: db.prepare("UPDATE delivery SET state = 'waiting', since = :now, due = :due WHERE key = :key"),
    makeReady: db.prepare("UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE key = ?"),
    next: db.prepare(`
      SELECT key, settle, created_at FROM delivery WHERE handler = ? AND lane = ? AND state = 'blocked' ORDER BY key LIMIT 1`),
    newest: db.prepare(`
      SELECT created_at FROM delivery WHERE handler = ? AND lane = ? AND state = 'blocked' ORDER BY key DESC LIMIT 1`),
  }

  /** Until when the head of a lane waits for quiet, given when the newest event of its object came. */
  const settled = (settle: number, createdAt: number, newest: number) =>
    Math.min(newest + settle, createdAt + longestSettle * settle)

  return {
    add({ handler, event, segment, order, settle }, run = 1) {
      const at = now()
      const lane = order === 'none' ? null : laneOf(event)
      const head = lane === null ? undefined : sql.head.get(handler, lane)
      const waits = head === undefined && settle > 0
      const { changes } = sql.add.run(
        bare({
          id: event.id,
          handler,
          run,
          lane,
          name: event.event,
          event: JSON.stringify(event),
          segment,
          settle,
          now: at,
          state: head ? 'blocked' : waits ? 'waiting' : 'ready',
          since: waits ? at : null,
          due: waits ? at + settle : null,
        }),
      )
      if (changes === 0) return false
      if (head?.['state'] === 'waiting' && head['attempts'] === 0 && head['postponed'] === 0) {
        // The burst goes on.
        const due = settled(Number(head['settle']), Number(head['created_at']), at)
        sql.wait.run(bare({ key: head['key'] ?? null, now: at, due }))
      }
      return true
    },
    unblock(handler, lane) {
      const next = sql.next.get(handler, lane)
      if (next === undefined) return
      const newest = Number(sql.newest.get(handler, lane)?.['created_at'])
      const due = settled(Number(next['settle']), Number(next['created_at']), newest)
      if (Number(next['settle']) > 0 && due > now()) sql.wait.run(bare({ key: next['key'] ?? null, now: now(), due }))
      else sql.makeReady.run(next['key'] ?? null)
    },
  }
}
