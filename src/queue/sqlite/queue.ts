import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import { isDeletion } from '../../events/catalogue.ts'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { oldest } from '../../journal/position.ts'

import { boundError, maxFailures } from '../../lib/error-text.ts'
import { makePrivate } from '../../lib/private-files.ts'
import type { Delivery, Queue, SnapshotFields, Wanted } from '../queue.ts'
import { readNames, readSnapshotFields, readStoredEvent, standInFor } from '../stored.ts'
import { explainQueueFile } from './integrity.ts'
import { createOrderingKeys } from './ordering.ts'
import { bare, inTransaction, migrate, readHandlers, readPosition, readState } from './schema.ts'

export interface SqliteQueueDeps {
  readonly path: string
  readonly now?: () => number
  /** Called with a description of unreadable data, which is left out. */
  readonly onUnreadable?: (what: string) => void
}

/** Milliseconds between two checks whether a tool has changed the file. */
const watchInterval = 1_000

export function queuePath(dataDir: string): string {
  return join(dataDir, 'dispatch.db')
}

/** The handlers that ever ran. Only reads the file, because another dispatcher may be running. */
export function knownHandlers(dataDir: string): string[] {
  const path = queuePath(dataDir)
  if (!existsSync(path)) return []
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    return readHandlers(db)
  } catch (error) {
    throw explainQueueFile(error, path)
  } finally {
    db.close()
  }
}

/**
 * The number of the segment up to which the journal was followed, or 0 if it is unknown. Only reads the file. The
 * dispatcher reports a broken one.
 */
export function followedSegment(dataDir: string): number {
  const path = queuePath(dataDir)
  if (!existsSync(path)) return 0
  try {
    const db = new DatabaseSync(path, { readOnly: true })
    try {
      return Number(db.prepare('SELECT segment FROM position').get()?.['segment'] ?? 0)
    } finally {
      db.close()
    }
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
  let watching: NodeJS.Timeout | undefined

  const sql = {
    setPosition: db.prepare('INSERT OR REPLACE INTO position (one, segment, offset, first) VALUES (1, ?, ?, ?)'),
    // A wait that began in the future began before the clock was put back.
    wakeDue: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND due <= ?",
    ),
    wakeJumped: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND since > ?",
    ),
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
    end: db.prepare(`
      UPDATE delivery SET state = :state, since = :since, due = :due, error = coalesce(:error, error), quarantined = :quarantined,
        event = iif(:state = 'done', NULL, event), ended_at = iif(:state = 'waiting', NULL, :now),
        spent_ms = coalesce(:spentMs, spent_ms)
      WHERE key = :key AND state = 'running' RETURNING ordering_key`),
    postpone: db.prepare(`
      UPDATE delivery SET state = 'waiting', postponed = 1, attempts = attempts - 1, first_run_at = NULL,
        spent_ms = 0, since = :now, due = :due, error = :error
      WHERE key = :key AND state = 'running'`),
    resumePostponed: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND postponed = 1",
    ),
    release: db.prepare(
      "UPDATE delivery SET state = 'ready', attempts = attempts - 1, quarantined = ? WHERE key = ? AND state = 'running'",
    ),
    nextDue: db.prepare("SELECT due FROM delivery WHERE state = 'waiting' ORDER BY due LIMIT 1"),
    isKnown: db.prepare('SELECT 1 FROM handler WHERE name = ?'),
    registeredHandlers: db.prepare('SELECT name, events, ordered, debounce FROM handler ORDER BY name'),
    registerHandlers: db.prepare(`
      INSERT OR REPLACE INTO handler (name, events, ordered, debounce, loaded_at)
      VALUES (:name, :events, :order, :debounce, :now)`),
    failed: db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)'),
    forgetFailures: db.prepare('DELETE FROM failure WHERE delivery = ? AND attempt <= ?'),
    version: db.prepare('PRAGMA data_version'),
    handlers: db.prepare(`
      SELECT known.name,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'blocked') +
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state IN ('ready', 'running', 'waiting')) AS pending
      FROM handler AS known ORDER BY known.name`),
    snapshot: db.prepare('SELECT fields, dirty FROM snapshot WHERE handler = ? AND ordering_key = ?'),
    markDirty: db.prepare('UPDATE snapshot SET dirty = 1 WHERE handler = ? AND ordering_key = ?'),
    see: db.prepare('INSERT OR REPLACE INTO snapshot (handler, ordering_key, fields) VALUES (?, ?, ?)'),
    unsee: db.prepare('DELETE FROM snapshot WHERE handler = ? AND ordering_key = ?'),
    unseeAll: db.prepare('DELETE FROM snapshot WHERE handler = ?'),
    prune: db.prepare("DELETE FROM delivery WHERE state IN ('done', 'coalesced') AND segment <= ?"),
  }

  /** Starts the run of a ready delivery, or of the newest delivery that it is coalesced into. */
  function start(key: number, coalesce: Wanted['coalesce']): Delivery {
    const head = sql.get.get(key) ?? {}
    const orderingKey = head['ordering_key']
    const one = [head]
    if (coalesce && head['run'] === 1 && typeof orderingKey === 'string')
      for (const row of sql.behind.iterate(String(head['handler']), orderingKey)) {
        // A later event must not overtake an event of another name.
        if (coalesce === true && row['name'] !== head['name']) break
        // A later event must not replace a deletion: the handler may learn of the deleted record from no other event.
        if (isDeletion(String(one.at(-1)?.['name'])) && !isDeletion(String(row['name']))) break
        // A replay comes last in its ordering key but is not the newest: coalescing into it would count later events as
        // done.
        if (row['run'] !== 1) break
        one.push(row)
      }
    const newest = one.at(-1) ?? head
    for (const { key: older = null } of one.slice(0, -1))
      sql.coalesce.run(bare({ key: older, into: newest['key'] ?? null, now: now() }))
    return toDelivery(
      sql.claim.get(
        bare({
          key: newest['key'] ?? null,
          attempts: Number(head['attempts']) + 1,
          quarantined: Number(head['quarantined']),
          now: now(),
          coalesced: one.reduce((sum, row) => sum + Number(row['coalesced']), 0),
        }),
      ) ?? {},
    )
  }

  function toDelivery(row: Record<string, SQLOutputValue>): Delivery {
    const key = Number(row['key'])
    const orderingKey = typeof row['ordering_key'] === 'string' ? row['ordering_key'] : null
    const about = { id: String(row['event_id']), name: String(row['name']), orderingKey }
    const stored = readStoredEvent(row['event'], about, () => {
      const bytes = sql.bytes.get(key)?.['bytes']
      return bytes instanceof Uint8Array ? bytes : undefined
    })
    return {
      key,
      handler: String(row['handler']),
      attempt: Number(row['attempts']),
      coalesced: Number(row['coalesced']),
      spentMs: Number(row['spent_ms']),
      ...('event' in stored ? stored : { ...stored, event: standInFor(about, Number(row['created_at'])) }),
    }
  }

  function end(
    delivery: Delivery,
    state: 'done' | 'waiting' | 'dead',
    { due = null, error = null, spentMs = null, quarantined = 0, snapshot }: Ended,
  ): void {
    inTransaction(db, () => {
      const since = state === 'waiting' ? now() : null
      const text = error === null ? null : boundError(error)
      const row = sql.end.get(
        bare({ key: delivery.key, state, since, due, error: text, spentMs, quarantined, now: now() }),
      )
      if (row === undefined) throw notRunning(delivery)
      if (text !== null) {
        sql.failed.run(delivery.key, delivery.attempt, now(), text)
        sql.forgetFailures.run(delivery.key, delivery.attempt - maxFailures)
      }
      const { ordering_key: orderingKey } = row
      if (state !== 'waiting' && typeof orderingKey === 'string') orderingKeys.unblock(delivery.handler, orderingKey)
      if (snapshot === null) sql.unsee.run(delivery.handler, orderingKeyOf(delivery.event))
      else if (snapshot) sql.see.run(delivery.handler, orderingKeyOf(delivery.event), JSON.stringify(snapshot))
    })
  }

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
          .flatMap(({ handler, limit: most, coalesce }) =>
            sql.ready.all(handler, Math.min(most, limit)).map((row) => ({ key: Number(row['key']), coalesce })),
          )
          .sort((a, b) => a.key - b.key)
          .slice(0, limit)
          .map(({ key, coalesce }) => start(key, coalesce))
      })
    },
    done: (delivery, snapshot) => end(delivery, 'done', { snapshot }),
    snapshot({ handler, event }) {
      const row = sql.snapshot.get(handler, orderingKeyOf(event))
      if (row === undefined) return undefined
      const fields = readSnapshotFields(row['fields'])
      if (fields === undefined)
        onUnreadable(`the snapshot of ${handler} and ${orderingKeyOf(event)}: its handler runs, whatever has changed`)
      // An unreadable snapshot does not count as unchanged.
      return { fields: fields ?? {}, isDirty: fields === undefined || row['dirty'] === 1 }
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
    retry: (delivery, { alone = false, ...more }) => end(delivery, 'waiting', { quarantined: Number(alone), ...more }),
    postpone(delivery, { due, error }) {
      const { changes } = sql.postpone.run(bare({ key: delivery.key, now: now(), due, error: boundError(error) }))
      if (changes === 0) throw notRunning(delivery)
    },
    resumePostponed: () => void sql.resumePostponed.run(),
    dead: (delivery, error) => end(delivery, 'dead', { error }),
    noteFailure: ({ key, attempt }, error) => void sql.failed.run(key, attempt, now(), boundError(error)),
    restore: ({ key }, event) => void sql.restore.run(JSON.stringify(event), key),
    release: (delivery) => void sql.release.run(0, delivery.key),
    reclaim() {
      return inTransaction(db, () => {
        const [first, ...others] = sql.running.all()
        if (first === undefined || others.length === 0) return first && toDelivery(first)
        for (const { key = null } of [first, ...others]) sql.release.run(1, key)
        return undefined
      })
    },
    nextDue() {
      const due = sql.nextDue.get()?.['due']
      return due === undefined ? undefined : Number(due)
    },
    handlers: () => new Map(sql.handlers.all().map((row) => [String(row['name']), Number(row['pending'])])),
    registeredHandlers: () =>
      sql.registeredHandlers.all().map((row) => ({
        name: String(row['name']),
        events: readNames(row['events']),
        order: row['ordered'] === 'none' ? 'none' : 'object',
        debounce: Number(row['debounce']),
      })),
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
      const look = () => Number(sql.version.get()?.['data_version'])
      let snapshot = look()
      watching = setInterval(() => {
        const version = look()
        if (version !== snapshot) changed()
        snapshot = version
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
      if (db.isOpen) db.close()
    },
  }
}

interface Ended {
  readonly due?: number | null
  readonly error?: string | null
  readonly spentMs?: number | null
  readonly quarantined?: number
  readonly snapshot?: SnapshotFields | null | undefined
}

/** Without this error, a second end would retry a finished delivery, which has no event any more. */
function notRunning({ key, handler, event: { id } }: Delivery): Error {
  return new Error(`the delivery ${key} of ${id} to ${handler} is not running: its end is not written down`)
}
