import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { oldest } from '../../journal/position.ts'
import { boundError } from '../../lib/error-text.ts'
import { makePrivate } from '../../lib/private-files.ts'
import { coalescedWith, countOf } from '../coalesce.ts'
import { type Row, storedOf, toDelivery, toSnapshot } from '../delivery-row.ts'
import { endings } from '../end.ts'
import type { Delivery, Queue, Wanted } from '../queue.ts'
import { createEnds } from './ends.ts'
import { explainQueueFile } from './integrity.ts'
import { createOrderingKeys } from './ordering.ts'
import { bare, inTransaction, migrate, readHandlers, readKnownHandlers, readPosition, readState } from './schema.ts'

export interface SqliteQueueDeps {
  readonly path: string
  readonly now?: () => number
  /** Called with a description of unreadable data, which is left out. */
  readonly onUnreadable?: (what: string) => void
}

/** Makes the waiting deliveries ready that meet a further condition. */
const wake = "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting'"

/** Milliseconds between two checks whether a tool has changed the file. */
const watchInterval = 1_000

export function queuePath(dataDir: string): string {
  return join(dataDir, 'dispatch.db')
}

/** Only reads the file, because another dispatcher may be running. Returns `undefined` if there is none. */
function readFile<T>(dataDir: string, read: (db: DatabaseSync) => T): T | undefined {
  const path = queuePath(dataDir)
  if (!existsSync(path)) return undefined
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    return read(db)
  } catch (error) {
    throw explainQueueFile(error, path)
  } finally {
    db.close()
  }
}

/** The handlers that ever ran. */
export function knownHandlers(dataDir: string): string[] {
  return readFile(dataDir, readKnownHandlers) ?? []
}

/**
 * The number of the segment up to which the journal was followed, or 0 if it is unknown. The dispatcher reports a broken
 * file.
 */
export function followedSegment(dataDir: string): number {
  try {
    return readFile(dataDir, (db) => Number(db.prepare('SELECT segment FROM position').get()?.['segment'] ?? 0)) ?? 0
  } catch {
    return 0
  }
}

/**
 * If the journal is empty, following begins at its start. This fact is on disk before the first post is accepted, so a
 * `dispatch.db` that is missing later is known to be lost.
 */
export function initFirstStart(dataDir: string, isJournalEmpty: boolean): void {
  if (!isJournalEmpty) return
  const path = queuePath(dataDir)
  const isNew = !existsSync(path)
  try {
    const queue = openSqliteQueue({ path })
    // An existing file gets the position too: a first start may have been killed half-way, or the journal may be gone.
    void queue.add([], oldest)
    void queue.prune(0)
    void queue.close()
  } catch (error) {
    // The dispatcher reports a broken file that was already there, and posts are accepted without it.
    if (isNew) throw error
  }
}

/**
 * The embedded engine, on Node's own SQLite. Only one dispatcher writes to it.
 *
 * @throws if a newer version wrote the file
 */
export function openSqliteQueue({ path, now = Date.now, onUnreadable = () => undefined }: SqliteQueueDeps): Queue {
  makePrivate(path)
  const db = new DatabaseSync(path)
  // With NORMAL, a power cut may undo the last commits, but never a part of one. Position and deliveries go back
  // together, and the journal has the rest.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000')

  inTransaction(db, () => migrate(db, path))
  const orderingKeys = createOrderingKeys(db, now)
  const ends = createEnds({ db, orderingKeys, now })
  let watching: NodeJS.Timeout | undefined

  const sql = {
    setPosition: db.prepare('INSERT OR REPLACE INTO position (one, segment, offset, first) VALUES (1, ?, ?, ?)'),
    wakeDue: db.prepare(`${wake} AND due <= ?`),
    // A wait that began in the future began before the clock was put back.
    wakeJumped: db.prepare(`${wake} AND since > ?`),
    resumePostponed: db.prepare(`${wake} AND postponed = 1`),
    running: db.prepare("SELECT * FROM delivery WHERE state = 'running'"),
    isQuarantinedRunning: db.prepare("SELECT 1 FROM delivery WHERE state = 'running' AND quarantined = 1"),
    quarantined: db.prepare("SELECT key, handler FROM delivery WHERE quarantined = 1 AND state = 'ready' ORDER BY key"),
    ready: db.prepare("SELECT key FROM delivery WHERE state = 'ready' AND handler = ? ORDER BY key LIMIT ?"),
    get: db.prepare('SELECT * FROM delivery WHERE key = ?'),
    bytes: db.prepare('SELECT CAST(event AS BLOB) AS bytes FROM delivery WHERE key = ?'),
    restore: db.prepare('UPDATE delivery SET event = ? WHERE key = ?'),
    behind: db.prepare(`
      SELECT key, name, run, coalesced FROM delivery WHERE handler = ? AND ordering_key = ? AND state = 'blocked' ORDER BY key`),
    coalesce: db.prepare(`
      UPDATE delivery SET state = 'coalesced', coalesced_into = :into, event = NULL, quarantined = 0, ended_at = :now
      WHERE key = :key`),
    claim: db.prepare(`
      UPDATE delivery SET state = 'running', attempts = :attempts, coalesced = :coalesced, quarantined = :quarantined,
        postponed = 0, first_run_at = coalesce(first_run_at, :now)
      WHERE key = :key RETURNING *`),
    quarantine: db.prepare(
      "UPDATE delivery SET state = 'ready', attempts = attempts - 1, quarantined = 1 WHERE key = ?",
    ),
    nextDue: db.prepare("SELECT due FROM delivery WHERE state = 'waiting' ORDER BY due LIMIT 1"),
    isKnown: db.prepare('SELECT 1 FROM handler WHERE name = ?'),
    registerHandlers: db.prepare(`
      INSERT OR REPLACE INTO handler (name, events, ordered, debounce, loaded_at)
      VALUES (:name, :events, :order, :debounce, :now)`),
    failed: db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)'),
    version: db.prepare('PRAGMA data_version'),
    snapshot: db.prepare('SELECT fields, dirty FROM snapshot WHERE handler = ? AND ordering_key = ?'),
    markDirty: db.prepare('UPDATE snapshot SET dirty = 1 WHERE handler = ? AND ordering_key = ?'),
    unsee: db.prepare('DELETE FROM snapshot WHERE handler = ? AND ordering_key = ?'),
    unseeAll: db.prepare('DELETE FROM snapshot WHERE handler = ?'),
    prune: db.prepare("DELETE FROM delivery WHERE state IN ('done', 'coalesced') AND segment <= ?"),
  }

  /** Starts the run of a ready delivery, or of the newest delivery that it is coalesced into. */
  function start(key: number, coalesce: Wanted['coalesce']): Delivery {
    const head = sql.get.get(key) ?? {}
    const { handler = null, ordering_key: orderingKey = null } = head
    const all = coalesce ? [head, ...coalescedWith(head, sql.behind.iterate(handler, orderingKey), coalesce)] : [head]
    const newest = all.at(-1)?.['key'] ?? null
    for (const { key: older = null } of all.slice(0, -1))
      sql.coalesce.run(bare({ key: older, into: newest, now: now() }))
    return deliveryOf(
      sql.claim.get(
        bare({
          key: newest,
          attempts: Number(head['attempts']) + 1,
          quarantined: Number(head['quarantined']),
          now: now(),
          coalesced: countOf(all),
        }),
      ) ?? {},
    )
  }

  const deliveryOf = (row: Row) =>
    toDelivery(
      row,
      storedOf(row, () => sql.bytes.get(Number(row['key']))?.['bytes']),
    )

  return {
    position: () => readPosition(db),
    add(deliveries, position, droppedSnapshots = []) {
      inTransaction(db, () => {
        for (const delivery of deliveries)
          if (!delivery.isAbsent || sql.isKnown.get(delivery.handler)) orderingKeys.add(delivery)
        for (const { handler, event } of droppedSnapshots) sql.unsee.run(handler, orderingKeyOf(event))
        sql.setPosition.run(position.segment, position.offset, position.first ?? null)
      })
    },
    claim(wanted, limit) {
      return inTransaction(db, () => {
        sql.wakeDue.run(now())
        sql.wakeJumped.run(now())
        const byHandler = new Map(wanted.map((one) => [one.handler, one]))
        const quarantined = sql.quarantined.all().find((row) => byHandler.has(String(row['handler'])))
        if (quarantined || sql.isQuarantinedRunning.get()) {
          if (!quarantined || sql.running.get()) return []
          return [start(Number(quarantined['key']), byHandler.get(String(quarantined['handler']))?.coalesce ?? false)]
        }
        return wanted
          .flatMap(({ handler, limit: maxOfHandler, coalesce }) =>
            sql.ready.all(handler, Math.min(maxOfHandler, limit)).map((row) => ({ key: Number(row['key']), coalesce })),
          )
          .sort((a, b) => a.key - b.key)
          .slice(0, limit)
          .map(({ key, coalesce }) => start(key, coalesce))
      })
    },
    ...endings((delivery, end) => ends.add(delivery, end)),
    snapshot({ handler, event }) {
      const row = sql.snapshot.get(handler, orderingKeyOf(event))
      const onUnreadableSnapshot = () =>
        onUnreadable(`the snapshot of ${handler} and ${orderingKeyOf(event)}: its handler runs, whatever has changed`)
      return row && toSnapshot(row, onUnreadableSnapshot)
    },
    markDirty({ handler, event }) {
      // A power cut may undo the snapshot of an earlier run, but not the fact that this run has begun.
      db.exec('PRAGMA synchronous = FULL')
      try {
        sql.markDirty.run(handler, orderingKeyOf(event))
      } finally {
        db.exec('PRAGMA synchronous = NORMAL')
      }
    },
    resumePostponed: () => void sql.resumePostponed.run(),
    noteFailure: ({ key, attempt }, error) => void sql.failed.run(key, attempt, now(), boundError(error)),
    restore: ({ key }, event) => void sql.restore.run(JSON.stringify(event), key),
    reclaim() {
      return inTransaction(db, () => {
        const [first, ...others] = sql.running.all()
        if (first === undefined || others.length === 0) return first && deliveryOf(first)
        for (const { key = null } of [first, ...others]) sql.quarantine.run(key)
        return undefined
      })
    },
    nextDue() {
      const due = sql.nextDue.get()?.['due']
      return due === undefined ? undefined : Number(due)
    },
    handlers: () => readHandlers(db),
    registerHandlers(handlers) {
      // All handlers get the same time, by which tools recognise those that were loaded together.
      const at = now()
      inTransaction(db, () => {
        for (const { name, events, order, debounce, onChange } of handlers) {
          sql.registerHandlers.run(bare({ name, events: JSON.stringify(events), order, debounce, now: at }))
          if (!onChange) sql.unseeAll.run(name)
        }
      })
    },
    state: () => readState(db),
    watch({ changed }) {
      const readVersion = () => Number(sql.version.get()?.['data_version'])
      let before = readVersion()
      watching = setInterval(() => {
        const version = readVersion()
        if (version !== before) changed()
        before = version
      }, watchInterval)
    },
    failFast: () => undefined,
    prune(segment) {
      sql.prune.run(segment)
      // Only a checkpoint syncs the WAL, because the commits do not.
      db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    },
    close() {
      clearInterval(watching)
      ends.flush()
      if (db.isOpen) db.close()
    },
  }
}
