import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import { isDeletion } from '../../events/catalogue.ts'
import { oldest } from '../../journal/follow.ts'
import { makePrivate } from '../../lib/private-files.ts'
import { boundError, mostFailures } from '../../lib/error-text.ts'
import { laneOf } from '../../events/ordering-key.ts'
import type { Delivery, Queue, SeenFields, Wanted } from '../queue.ts'
import { explainQueueFile } from './integrity.ts'
import { createLanes } from './ordering.ts'
import { bare, inTransaction, migrate, readHandlers, readPosition, readState } from './schema.ts'
import { readNames, readSeenFields, readStoredEvent, standInFor } from '../stored.ts'

export interface SqliteQueueParts {
  readonly path: string
  readonly now?: () => number
  /** Told what cannot be read and is left out. */
  readonly onUnreadable?: (what: string) => void
}

/** Milliseconds between two looks at whether a tool has changed the file. */
const watchInterval = 1_000

export function queuePath(dataDir: string): string {
  return join(dataDir, 'dispatch.db')
}

/** The handlers that ever ran, without touching the file: another dispatcher may be at work. */
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
 * The number of the segment into which the journal was followed, and 0 where that is not known: what is wrong with the file
 * the dispatcher says. Without touching it, as above.
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
 * Where the journal is empty, following begins at its start: settled on disk before the first post is accepted, so that a
 * `dispatch.db` that is missing later is known to be lost.
 */
export function settleFirstStart(dataDir: string, isJournalEmpty: boolean): void {
  if (!isJournalEmpty) return
  const path = queuePath(dataDir)
  const isNew = !existsSync(path)
  try {
    const queue = openSqliteQueue({ path })
    // Also in a file that is there: a first start was killed half-way, or the journal it knew is gone.
    void queue.add([], oldest)
    void queue.prune(0)
    void queue.close()
  } catch (error) {
    // What is wrong with a file that was there, the dispatcher says; posts are taken without it.
    if (isNew) throw error
  }
}

/**
 * The embedded engine, on Node's own SQLite. One dispatcher writes it.
 *
 * @throws when the file was written by a newer version
 */
export function openSqliteQueue({ path, now = Date.now, onUnreadable = () => undefined }: SqliteQueueParts): Queue {
  makePrivate(path)
  const db = new DatabaseSync(path)
  // NORMAL may forget the last commits in a power cut, never a part of one: position and deliveries go back together, and
  // the journal has the rest.
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000')

  inTransaction(db, () => migrate(db, path))
  const lanes = createLanes(db, now)
  let watching: NodeJS.Timeout | undefined

  const sql = {
    setPosition: db.prepare('INSERT OR REPLACE INTO position (one, segment, offset, first) VALUES (1, ?, ?, ?)'),
    // A wait that began in the future, or ends later than it may, began before the clock was put back.
    wakeDue: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND due <= ?",
    ),
    wakeJumped: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND since > ?",
    ),
    running: db.prepare("SELECT * FROM delivery WHERE state = 'running'"),
    isSuspectRunning: db.prepare("SELECT 1 FROM delivery WHERE state = 'running' AND suspect = 1"),
    suspects: db.prepare("SELECT key, handler FROM delivery WHERE suspect = 1 AND state = 'ready' ORDER BY key"),
    ready: db.prepare("SELECT key FROM delivery WHERE state = 'ready' AND handler = ? ORDER BY key LIMIT ?"),
    get: db.prepare('SELECT * FROM delivery WHERE key = ?'),
    bytes: db.prepare('SELECT CAST(event AS BLOB) AS bytes FROM delivery WHERE key = ?'),
    restore: db.prepare('UPDATE delivery SET event = ? WHERE key = ?'),
    behind: db.prepare(`
      SELECT key, name, run, coalesced FROM delivery WHERE handler = ? AND lane = ? AND state = 'blocked' ORDER BY key`),
    coalesce: db.prepare(`
      UPDATE delivery SET state = 'coalesced', coalesced_into = :into, event = NULL, suspect = 0, ended_at = :now
      WHERE key = :key`),
    claim: db.prepare(`
      UPDATE delivery SET state = 'running', attempts = :attempts, coalesced = :coalesced, suspect = :suspect,
        postponed = 0, first_run_at = coalesce(first_run_at, :now)
      WHERE key = :key RETURNING *`),
    end: db.prepare(`
      UPDATE delivery SET state = :state, since = :since, due = :due, error = coalesce(:error, error), suspect = :suspect,
        event = iif(:state = 'done', NULL, event), ended_at = iif(:state = 'waiting', NULL, :now),
        spent_ms = coalesce(:spentMs, spent_ms)
      WHERE key = :key AND state = 'running' RETURNING lane`),
    postpone: db.prepare(`
      UPDATE delivery SET state = 'waiting', postponed = 1, attempts = attempts - 1, first_run_at = NULL,
        spent_ms = 0, since = :now, due = :due, error = :error
      WHERE key = :key AND state = 'running'`),
    resume: db.prepare(
      "UPDATE delivery SET state = 'ready', since = NULL, due = NULL WHERE state = 'waiting' AND postponed = 1",
    ),
    release: db.prepare(
      "UPDATE delivery SET state = 'ready', attempts = attempts - 1, suspect = ? WHERE key = ? AND state = 'running'",
    ),
    nextDue: db.prepare("SELECT due FROM delivery WHERE state = 'waiting' ORDER BY due LIMIT 1"),
    isKnown: db.prepare('SELECT 1 FROM handler WHERE name = ?'),
    remembered: db.prepare('SELECT name, events, ordered, settle FROM handler ORDER BY name'),
    remember: db.prepare(`
      INSERT OR REPLACE INTO handler (name, events, ordered, settle, loaded_at)
      VALUES (:name, :events, :order, :settle, :now)`),
    failed: db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)'),
    forgetFailures: db.prepare('DELETE FROM failure WHERE delivery = ? AND attempt <= ?'),
    version: db.prepare('PRAGMA data_version'),
    handlers: db.prepare(`
      SELECT known.name,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'blocked') +
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state IN ('ready', 'running', 'waiting')) AS owed
      FROM handler AS known ORDER BY known.name`),
    seen: db.prepare('SELECT fields, doubt FROM seen WHERE handler = ? AND lane = ?'),
    doubt: db.prepare('UPDATE seen SET doubt = 1 WHERE handler = ? AND lane = ?'),
    see: db.prepare('INSERT OR REPLACE INTO seen (handler, lane, fields) VALUES (?, ?, ?)'),
    unsee: db.prepare('DELETE FROM seen WHERE handler = ? AND lane = ?'),
    unseeAll: db.prepare('DELETE FROM seen WHERE handler = ?'),
    prune: db.prepare("DELETE FROM delivery WHERE state IN ('done', 'coalesced') AND segment <= ?"),
  }

  /** Starts the run of a ready delivery, or of the newest of those that it is one with. */
  function start(key: number, coalesce: Wanted['coalesce']): Delivery {
    const head = sql.get.get(key) ?? {}
    const lane = head['lane']
    const one = [head]
    if (coalesce && head['run'] === 1 && typeof lane === 'string')
      for (const row of sql.behind.iterate(String(head['handler']), lane)) {
        // What came after an event of another name must not overtake it.
        if (coalesce === true && row['name'] !== head['name']) break
        // Nor a deletion: of a record that is gone its handler may hear by no other event.
        if (isDeletion(String(one.at(-1)?.['name'])) && !isDeletion(String(row['name']))) break
        // A replay is the last in its lane and not the newest: what came after its event would be taken for done.
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
          suspect: Number(head['suspect']),
          now: now(),
          coalesced: one.reduce((sum, row) => sum + Number(row['coalesced']), 0),
        }),
      ) ?? {},
    )
  }

  function toDelivery(row: Record<string, SQLOutputValue>): Delivery {
    const key = Number(row['key'])
    const lane = typeof row['lane'] === 'string' ? row['lane'] : null
    const about = { id: String(row['event_id']), name: String(row['name']), lane }
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
    { due = null, error = null, spentMs = null, suspect = 0, seen }: Ended,
  ): void {
    inTransaction(db, () => {
      const since = state === 'waiting' ? now() : null
      const text = error === null ? null : boundError(error)
      const row = sql.end.get(bare({ key: delivery.key, state, since, due, error: text, spentMs, suspect, now: now() }))
      if (row === undefined) throw notRunning(delivery)
      if (text !== null) {
        sql.failed.run(delivery.key, delivery.attempt, now(), text)
        sql.forgetFailures.run(delivery.key, delivery.attempt - mostFailures)
      }
      const { lane } = row
      if (state !== 'waiting' && typeof lane === 'string') lanes.unblock(delivery.handler, lane)
      if (seen === null) sql.unsee.run(delivery.handler, laneOf(delivery.event))
      else if (seen) sql.see.run(delivery.handler, laneOf(delivery.event), JSON.stringify(seen))
    })
  }

  return {
    position: () => readPosition(db),
    add(deliveries, position, unseen = []) {
      inTransaction(db, () => {
        for (const delivery of deliveries)
          if (!delivery.isAbsent || sql.isKnown.get(delivery.handler)) lanes.add(delivery)
        for (const { handler, event } of unseen) sql.unsee.run(handler, laneOf(event))
        sql.setPosition.run(position.segment, position.offset, position.first ?? null)
      })
    },
    claim(wanted, limit) {
      return inTransaction(db, () => {
        sql.wakeDue.run(now())
        sql.wakeJumped.run(now())
        const byHandler = new Map(wanted.map((one) => [one.handler, one]))
        const suspect = sql.suspects.all().find((row) => byHandler.has(String(row['handler'])))
        if (suspect || sql.isSuspectRunning.get()) {
          if (!suspect || sql.running.get()) return []
          return [start(Number(suspect['key']), byHandler.get(String(suspect['handler']))?.coalesce ?? false)]
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
    done: (delivery, seen) => end(delivery, 'done', { seen }),
    seen({ handler, event }) {
      const row = sql.seen.get(handler, laneOf(event))
      if (row === undefined) return undefined
      const fields = readSeenFields(row['fields'])
      if (fields === undefined)
        onUnreadable(`seen of ${handler} and ${laneOf(event)}: its handler runs, whatever has changed`)
      // What nobody can read is not taken for unchanged.
      return { fields: fields ?? {}, isInDoubt: fields === undefined || row['doubt'] === 1 }
    },
    doubt({ handler, event }) {
      // A power cut may take back what was kept of an earlier run, but not that this one has begun.
      db.exec('PRAGMA synchronous = FULL')
      try {
        sql.doubt.run(handler, laneOf(event))
      } finally {
        db.exec('PRAGMA synchronous = NORMAL')
      }
    },
    retry: (delivery, { alone = false, ...more }) => end(delivery, 'waiting', { suspect: Number(alone), ...more }),
    postpone(delivery, { due, error }) {
      const { changes } = sql.postpone.run(bare({ key: delivery.key, now: now(), due, error: boundError(error) }))
      if (changes === 0) throw notRunning(delivery)
    },
    resume: () => void sql.resume.run(),
    dead: (delivery, error) => end(delivery, 'dead', { error }),
    noteFailure: ({ key, attempt }, error) => void sql.failed.run(key, attempt, now(), boundError(error)),
    restore: ({ key }, event) => void sql.restore.run(JSON.stringify(event), key),
    release: (delivery) => void sql.release.run(0, delivery.key),
    recover() {
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
    handlers: () => new Map(sql.handlers.all().map((row) => [String(row['name']), Number(row['owed'])])),
    remembered: () =>
      sql.remembered.all().map((row) => ({
        name: String(row['name']),
        events: readNames(row['events']),
        order: row['ordered'] === 'none' ? 'none' : 'object',
        settle: Number(row['settle']),
      })),
    remember(handlers) {
      // The same for all: tools tell by it which were loaded together.
      const at = now()
      inTransaction(db, () => {
        for (const { name, events, order, settle, onChange } of handlers) {
          sql.remember.run(bare({ name, events: JSON.stringify(events), order, settle, now: at }))
          if (!onChange) sql.unseeAll.run(name)
        }
      })
    },
    state: () => readState(db),
    watch({ changed }) {
      const look = () => Number(sql.version.get()?.['data_version'])
      let seen = look()
      watching = setInterval(() => {
        const version = look()
        if (version !== seen) changed()
        seen = version
      }, watchInterval)
    },
    hurry: () => undefined,
    prune(segment) {
      sql.prune.run(segment)
      // Only a checkpoint syncs a WAL whose commits do not.
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
  readonly suspect?: number
  readonly seen?: SeenFields | null | undefined
}

/** Without this an end that comes twice would give a delivery that is done another try, of no event. */
function notRunning({ key, handler, event: { id } }: Delivery): Error {
  return new Error(`the delivery ${key} of ${id} to ${handler} is not running: its end is not written down`)
}
