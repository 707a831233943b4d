import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import type { Event } from '../intake/event.ts'
import type { Delivery, NewDelivery, Queue } from './queue.ts'

/**
 * A delivery's way: blocked (behind another of its lane) → ready → running → done, or waiting (for its retry) → ready, or
 * dead. `lane` is the unit of order, portal and object; NULL means none. Of a lane at most one is ready, running or
 * waiting, so claiming never has to look behind the head.
 */
const schema = `
  CREATE TABLE position (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, offset INTEGER NOT NULL) STRICT;
  CREATE TABLE delivery (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    handler TEXT NOT NULL,
    lane TEXT,
    event TEXT, -- NULL when done: the journal has it
    state TEXT NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'waiting', 'done', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    due INTEGER,
    error TEXT,
    UNIQUE (event_id, handler)
  ) STRICT;
  CREATE INDEX delivery_ready ON delivery (handler, key) WHERE state = 'ready';
  CREATE INDEX delivery_due ON delivery (due) WHERE state = 'waiting';
  CREATE INDEX delivery_running ON delivery (key) WHERE state = 'running';
  CREATE INDEX delivery_head ON delivery (handler, lane) WHERE state IN ('ready', 'running', 'waiting');
  CREATE INDEX delivery_blocked ON delivery (handler, lane, key) WHERE state = 'blocked';
`
const version = 1

export interface SqliteQueueParts {
  readonly path: string
  readonly now?: () => number
}

/**
 * The embedded engine. One dispatcher writes it; what a killed one left running is ready again when it opens.
 *
 * @throws when the file was written by a newer version
 */
export function openSqliteQueue({ path, now = Date.now }: SqliteQueueParts): Queue {
  const db = new DatabaseSync(path)
  // NORMAL may forget the last commits in a power cut, never a part of one: position and deliveries go back together, and
  // the journal has the rest.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000')

  const inTransaction = <T>(work: () => T): T => {
    db.exec('BEGIN IMMEDIATE')
    try {
      const result = work()
      db.exec('COMMIT')
      return result
    } catch (error) {
      db.exec('ROLLBACK')
      throw error
    }
  }

  inTransaction(() => {
    const found = Number(db.prepare('PRAGMA user_version').get()?.['user_version'])
    if (found > version) throw new Error(`${path} was written by a newer version (${found}, this one knows ${version})`)
    if (found === 0) db.exec(`${schema} PRAGMA user_version = ${version}`)
    db.exec("UPDATE delivery SET state = 'ready' WHERE state = 'running'")
  })

  const sql = {
    position: db.prepare('SELECT segment, offset FROM position'),
    setPosition: db.prepare('INSERT OR REPLACE INTO position (one, segment, offset) VALUES (1, ?, ?)'),
    add: db.prepare(`
      INSERT INTO delivery (event_id, handler, lane, event, created_at, state)
      SELECT :id, :handler, :lane, :event, :now,
        CASE WHEN :lane IS NOT NULL AND EXISTS (
          SELECT 1 FROM delivery WHERE handler = :handler AND lane = :lane AND state IN ('ready', 'running', 'waiting')
        ) THEN 'blocked' ELSE 'ready' END
      WHERE true ON CONFLICT (event_id, handler) DO NOTHING`),
    due: db.prepare("UPDATE delivery SET state = 'ready', due = NULL WHERE state = 'waiting' AND due <= ?"),
    ready: db.prepare("SELECT key FROM delivery WHERE state = 'ready' AND handler = ? ORDER BY key LIMIT ?"),
    claim: db.prepare("UPDATE delivery SET state = 'running', attempts = attempts + 1 WHERE key = ? RETURNING *"),
    end: db.prepare(`
      UPDATE delivery SET state = :state, due = :due, error = :error, event = iif(:state = 'done', NULL, event)
      WHERE key = :key RETURNING lane`),
    unblock: db.prepare(`
      UPDATE delivery SET state = 'ready' WHERE key = (
        SELECT key FROM delivery WHERE handler = ? AND lane = ? AND state = 'blocked' ORDER BY key LIMIT 1)`),
    nextDue: db.prepare("SELECT due FROM delivery WHERE state = 'waiting' ORDER BY due LIMIT 1"),
  }

  /** The run is over; unless it is to be tried again the next of its lane may go. */
  const end = (delivery: Delivery, state: 'done' | 'waiting' | 'dead', due: number | null, error: string | null) =>
    inTransaction(() => {
      const lane = sql.end.get({ state, due, error, key: delivery.key })?.['lane']
      if (state !== 'waiting' && typeof lane === 'string') sql.unblock.run(delivery.handler, lane)
    })

  return {
    position() {
      const row = sql.position.get()
      return row && { segment: Number(row['segment']), offset: Number(row['offset']) }
    },
    add(deliveries, position) {
      inTransaction(() => {
        for (const { handler, event } of deliveries)
          sql.add.run({ id: event.id, handler, lane: laneOf(event), event: JSON.stringify(event), now: now() })
        sql.setPosition.run(position.segment, position.offset)
      })
    },
    claim(handlers, limit) {
      return inTransaction(() => {
        sql.due.run(now())
        return handlers
          .flatMap((handler) => sql.ready.all(handler, limit).map((row) => Number(row['key'])))
          .sort((a, b) => a - b)
          .slice(0, limit)
          .map((key) => toDelivery(sql.claim.get(key) ?? {}))
      })
    },
    done: (delivery) => end(delivery, 'done', null, null),
    retry: (delivery, due, error) => end(delivery, 'waiting', due, error),
    dead: (delivery, error) => end(delivery, 'dead', null, error),
    nextDue() {
      const due = sql.nextDue.get()?.['due']
      return due === undefined ? undefined : Number(due)
    },
    close: () => db.close(),
  }
}

/** Objects are numbered per portal: `deal:662` exists on each. */
function laneOf({ object, auth }: NewDelivery['event']): string | null {
  return object === undefined ? null : JSON.stringify([auth?.['member_id'] ?? auth?.['domain'] ?? null, object])
}

function toDelivery(row: Record<string, SQLOutputValue>): Delivery {
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    attempt: Number(row['attempts']),
    createdAt: Number(row['created_at']),
    event: JSON.parse(String(row['event'])) as Event,
  }
}
