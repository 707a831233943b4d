import { accessSync, constants, existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import type { Deliveries, DeliveryRecord, ObjectSelection } from '../deliveries.ts'
import { isAbout, needlesOf, readNames, readOrderingKey, readStoredEvent, type Stored } from '../stored.ts'
import { eraseRows, scrub } from './erase.ts'
import { explainQueueFile } from './integrity.ts'
import { createOrderingKeys } from './ordering.ts'
import { inTransaction, isCurrent, readPosition, readState } from './schema.ts'

export interface SqliteDeliveriesDeps {
  readonly path: string
  /** `write` requires the right to write to the file. */
  readonly mode: 'read' | 'write'
  readonly now?: () => number
}

/** Milliseconds to wait for the lock of a running dispatcher. */
const patience = 5_000

/**
 * Deliveries per transaction, and milliseconds between two transactions, in which a running dispatcher gets its turn.
 */
const atOnce = 1_000
const breath = 5

/**
 * The deliveries of the embedded engine, for tools. Each change is one short transaction, because a dispatcher may be
 * running.
 *
 * @throws {Error} if there is no such file, this user may not read it, or another version wrote it
 */
export function openSqliteDeliveries({ path, mode, now = Date.now }: SqliteDeliveriesDeps): Deliveries {
  const db = named(() => (mode === 'write' ? openToWrite(path) : openToRead(path)), path)
  if (!named(() => isCurrent(db), path)) {
    db.close()
    throw new Error(`${path} was written by another version of the receiver: use its tools, or start this one`)
  }
  const orderingKeys = createOrderingKeys(db, now)
  const sql = {
    handlers: db.prepare(`
      SELECT known.*,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'blocked') +
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state IN ('ready', 'running', 'waiting')) AS pending,
        (SELECT count(*) FROM delivery WHERE handler = known.name AND state = 'dead') AS dead
      FROM handler AS known ORDER BY known.name`),
    ofEvent: db.prepare('SELECT * FROM delivery WHERE event_id = ? ORDER BY key'),
    ofKey: db.prepare('SELECT * FROM delivery WHERE key = ?'),
    kept: db.prepare('SELECT *, CAST(event AS BLOB) AS bytes FROM delivery WHERE event_id = ? AND event IS NOT NULL'),
    failures: db.prepare('SELECT attempt, at, error FROM failure WHERE delivery = ? ORDER BY rowid'),
    dead: db.prepare("SELECT * FROM delivery WHERE state = 'dead' ORDER BY key"),
    deadOne: db.prepare("SELECT * FROM delivery WHERE key = ? AND state = 'dead' AND event IS NOT NULL"),
    lastRun: db.prepare('SELECT max(run) AS run FROM delivery WHERE event_id = ? AND handler = ?'),
    keyOf: db.prepare('SELECT key FROM delivery WHERE event_id = ? AND handler = ? AND run = ?'),
    retried: db.prepare("UPDATE delivery SET state = 'coalesced', coalesced_into = ?, event = NULL WHERE key = ?"),
    drop: db.prepare("DELETE FROM delivery WHERE key = ? AND state = 'dead'"),
    isRunning: db.prepare("SELECT 1 FROM delivery WHERE handler = ? AND state = 'running'"),
    forgetHandler: db.prepare('DELETE FROM handler WHERE name = ?'),
    some: db.prepare(`
      SELECT max(key) AS last, count(*) AS count FROM (SELECT key FROM delivery WHERE handler = ? AND key > ? ORDER BY key LIMIT ${atOnce})`),
    forgetSome: db.prepare('DELETE FROM delivery WHERE handler = ? AND key > ? AND key <= ?'),
    forgetWrites: db.prepare('DELETE FROM own_write WHERE handler = ?'),
    forgetSeen: db.prepare('DELETE FROM snapshot WHERE handler = ?'),
    about: db.prepare(`
      SELECT * FROM delivery
      WHERE instr(ordering_key, ?) > 0 OR instr(event, ?) > 0 OR event_id IN (SELECT value FROM json_each(?)) ORDER BY key`),
    pending: db.prepare(`
      SELECT count(*) AS pending FROM delivery
      WHERE handler = ? AND state IN ('blocked', 'ready', 'running', 'waiting', 'dead')`),
  }

  function rowsAbout(about: ObjectSelection) {
    const { inOrderingKey, inEvent } = needlesOf(about.object)
    return sql.about.all(inOrderingKey, inEvent, JSON.stringify(about.events)).filter((row) => isAbout(row, about))
  }

  /** Run 1 is reserved for the event when it is followed, whenever that is. */
  const nextRun = (event: string, handler: string) => Number(sql.lastRun.get(event, handler)?.['run'] ?? 1) + 1

  return {
    position: () => readPosition(db),
    state: () => readState(db),
    handlers: () =>
      sql.handlers.all().map((row) => ({
        name: String(row['name']),
        events: readNames(row['events']),
        order: row['ordered'] === 'none' ? 'none' : row['ordered'] === 'object' ? 'object' : undefined,
        debounce: numberOf(row['debounce']),
        loadedAt: numberOf(row['loaded_at']),
        pending: Number(row['pending']),
        dead: Number(row['dead']),
      })),
    ofEvent: (id) => sql.ofEvent.all(id).map(toRecord),
    ofKey: (key) => {
      const row = sql.ofKey.get(key)
      return row && toRecord(row)
    },
    keptEvent: (id) => {
      for (const row of sql.kept.all(id)) {
        const stored = storedOf(row, bytesOf(row))
        if (stored && 'event' in stored) return stored.event
      }
      return undefined
    },
    keptBytes: (id) => {
      const rows = sql.kept.all(id)
      // If there are several rows, the unreadable one is of interest.
      const row = rows.find((one) => 'unreadable' in (storedOf(one, bytesOf(one)) ?? {})) ?? rows[0]
      return row && bytesOf(row)
    },
    failures: ({ key }) =>
      sql.failures.all(key).map((row) => ({
        attempt: Number(row['attempt']),
        at: Number(row['at']),
        error: String(row['error']),
      })),
    dead: ({ handler, events, object }) =>
      sql.dead
        .all()
        .map(toRecord)
        .filter((one) => handler === undefined || one.handler === handler)
        .filter((one) => events === undefined || events.includes(one.event))
        .filter((one) => object === undefined || one.object === object),
    retry: (dead) =>
      inTransaction(db, () => {
        let count = 0
        for (const { key } of dead) {
          const row = sql.deadOne.get(key)
          if (row === undefined) continue
          const { event_id: id = null, handler = null } = row
          const stored = storedOf(row, bytesOf(sql.kept.all(id).find((one) => one['key'] === key) ?? {}))
          if (!stored || !('event' in stored)) continue
          const run = nextRun(String(id), String(handler))
          orderingKeys.add(
            {
              handler: String(handler),
              event: stored.event,
              segment: Number(row['segment']),
              order: row['ordering_key'] === null ? 'none' : 'object',
              debounce: 0,
            },
            run,
          )
          // The dead delivery keeps its failures.
          sql.retried.run(sql.keyOf.get(id, handler, run)?.['key'] ?? null, key)
          count++
        }
        return count
      }),
    drop: (dead) => inTransaction(db, () => dead.reduce((sum, { key }) => sum + Number(sql.drop.run(key).changes), 0)),
    replay: (deliveries) =>
      inTransaction(db, () => {
        for (const delivery of deliveries) orderingKeys.add(delivery, nextRun(delivery.event.id, delivery.handler))
      }),
    async forget(handler) {
      const pending = Number(sql.pending.get(handler)?.['pending'])
      /** @returns the last deleted key, while some deliveries may be left */
      const forgetSome = (from: number) =>
        inTransaction(db, () => {
          // The run would go on, and the next delivery of its object would start beside it.
          if (sql.isRunning.get(handler))
            throw new Error(`a run of ${handler} has not ended: reload the handlers without its file first`)
          const { last = null, count } = sql.some.get(handler, from) ?? {}
          sql.forgetSome.run(handler, from, last)
          if (count === atOnce) return Number(last)
          // The handler is deleted together with its last deliveries, because a dispatcher may add events for it as
          // long as it is registered. It is deleted at the end, so that an interrupted call can be repeated.
          sql.forgetWrites.run(handler)
          sql.forgetSeen.run(handler)
          sql.forgetHandler.run(handler)
          return undefined
        })
      for (let last = forgetSome(0); last !== undefined; last = forgetSome(last)) await sleep(breath)
      return pending
    },
    ofObject: (about) => rowsAbout(about).map(toRecord),
    async erase(about, isAbandoned) {
      // SQLite overwrites the freed bytes.
      db.exec('PRAGMA secure_delete = ON')
      const dropped = inTransaction(db, () =>
        eraseRows(db, { about, isAbandoned, rows: rowsAbout(about), orderingKeys }),
      )
      await scrub(db)
      return dropped
    },
    close: () => db.close(),
  }
}

/** SQLite's errors do not name the file. */
function named<T>(open: () => T, path: string): T {
  try {
    return open()
  } catch (error) {
    throw explainQueueFile(error, path)
  }
}

function openToWrite(path: string): DatabaseSync {
  if (!existsSync(path)) throw new Error(`${path} is not there: no handler has run yet`)
  try {
    accessSync(path, constants.W_OK)
    accessSync(dirname(path), constants.W_OK)
  } catch (error) {
    throw new Error(`this user may not write to ${path}: run it as the receiver's`, { cause: error })
  }
  const db = new DatabaseSync(path, { timeout: patience })
  db.exec('PRAGMA synchronous = NORMAL')
  return db
}

const SQLITE_CANTOPEN = 14
const SQLITE_READONLY = 8

/**
 * SQLite reads a WAL database through files beside it, which a read-only user cannot create. They are missing after the
 * last writer has closed the database. With no writer left, the file may be opened as immutable.
 */
function openToRead(path: string): DatabaseSync {
  if (!existsSync(path)) throw new Error(`${path} is not there: no handler has run yet`)
  const db = new DatabaseSync(path, { readOnly: true, timeout: patience })
  try {
    isCurrent(db)
    return db
  } catch (error) {
    db.close()
    const code = error instanceof Error && 'errcode' in error ? Number(error.errcode) & 0xff : 0
    if (![SQLITE_CANTOPEN, SQLITE_READONLY].includes(code) || existsSync(`${path}-wal`)) throw error
    const url = pathToFileURL(path)
    url.searchParams.set('immutable', '1')
    return new DatabaseSync(url, { readOnly: true })
  }
}

function toRecord(row: Record<string, SQLOutputValue>): DeliveryRecord {
  const { ordering_key: orderingKey = null } = row
  const stored = storedOf(row)
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    event: String(row['event_id']),
    name: String(row['name']),
    object: stored && 'event' in stored ? stored.event.object : readOrderingKey(orderingKey)[1],
    run: Number(row['run']),
    state: row['state'] as DeliveryRecord['state'],
    postponed: row['postponed'] === 1,
    attempts: Number(row['attempts']),
    createdAt: Number(row['created_at']),
    firstRunAt: numberOf(row['first_run_at']),
    due: numberOf(row['due']),
    endedAt: numberOf(row['ended_at']),
    error: row['error'] === null ? undefined : String(row['error']),
    coalescedInto: numberOf(row['coalesced_into']),
    unreadable: stored && 'unreadable' in stored ? stored.unreadable : undefined,
  }
}

/** Returns `undefined` if no event is stored, as for a finished delivery. */
function storedOf(row: Record<string, SQLOutputValue>, bytes?: Uint8Array): Stored | undefined {
  const { event = null, ordering_key: orderingKey = null } = row
  if (event === null) return undefined
  const about = {
    id: String(row['event_id']),
    name: String(row['name']),
    orderingKey: typeof orderingKey === 'string' ? orderingKey : null,
  }
  return readStoredEvent(event, about, () => bytes)
}

function bytesOf({ bytes }: Record<string, SQLOutputValue>): Uint8Array | undefined {
  return bytes instanceof Uint8Array ? bytes : undefined
}

function numberOf(value: SQLOutputValue | undefined): number | undefined {
  return value === null || value === undefined ? undefined : Number(value)
}
