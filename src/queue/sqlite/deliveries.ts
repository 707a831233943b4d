import { accessSync, constants, existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import type { Deliveries, ObjectSelection } from '../deliveries.ts'
import { isSelected, keptBytesOf, keptEventOf, toFailure, toRecord, toRedelivery } from '../delivery-row.ts'
import { isAbout, needlesOf } from '../stored.ts'
import { eraseRows, scrub } from './erase.ts'
import { explainQueueFile } from './integrity.ts'
import { createOrderingKeys } from './ordering.ts'
import { inTransaction, isCurrent, readHandlers, readPosition, readState } from './schema.ts'

export interface SqliteDeliveriesDeps {
  readonly path: string
  /** `write` requires the right to write to the file. */
  readonly mode: 'read' | 'write'
  readonly now?: () => number
}

/** Milliseconds to wait for the lock of a running dispatcher. */
const lockTimeoutMs = 5_000

/**
 * Deliveries per transaction, and milliseconds between two transactions, in which a running dispatcher gets its turn.
 */
const maxPerTransaction = 1_000
const pauseMs = 5

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
    ofEvent: db.prepare('SELECT * FROM delivery WHERE event_id = ? ORDER BY key'),
    ofKey: db.prepare('SELECT * FROM delivery WHERE key = ?'),
    kept: db.prepare('SELECT *, CAST(event AS BLOB) AS bytes FROM delivery WHERE event_id = ? AND event IS NOT NULL'),
    failures: db.prepare('SELECT attempt, at, error FROM failure WHERE delivery = ? ORDER BY rowid'),
    dead: db.prepare("SELECT * FROM delivery WHERE state = 'dead' ORDER BY key"),
    deadOne: db.prepare(
      "SELECT *, CAST(event AS BLOB) AS bytes FROM delivery WHERE key = ? AND state = 'dead' AND event IS NOT NULL",
    ),
    lastRun: db.prepare('SELECT max(run) AS run FROM delivery WHERE event_id = ? AND handler = ?'),
    keyOf: db.prepare('SELECT key FROM delivery WHERE event_id = ? AND handler = ? AND run = ?'),
    retried: db.prepare("UPDATE delivery SET state = 'coalesced', coalesced_into = ?, event = NULL WHERE key = ?"),
    drop: db.prepare("DELETE FROM delivery WHERE key = ? AND state = 'dead'"),
    isRunning: db.prepare("SELECT 1 FROM delivery WHERE handler = ? AND state = 'running'"),
    forgetHandler: db.prepare('DELETE FROM handler WHERE name = ?'),
    some: db.prepare(`
      SELECT max(key) AS last, count(*) AS count FROM (SELECT key FROM delivery WHERE handler = ? AND key > ? ORDER BY key LIMIT ${maxPerTransaction})`),
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
    handlers: () => readHandlers(db),
    ofEvent: (id) => sql.ofEvent.all(id).map(toRecord),
    ofKey: (key) => {
      const row = sql.ofKey.get(key)
      return row && toRecord(row)
    },
    keptEvent: (id) => keptEventOf(sql.kept.all(id)),
    keptBytes: (id) => keptBytesOf(sql.kept.all(id)),
    failures: ({ key }) => sql.failures.all(key).map(toFailure),
    dead: (selection) => sql.dead.all().map(toRecord).filter(isSelected(selection)),
    retry: (dead) =>
      inTransaction(db, () => {
        let count = 0
        for (const { key } of dead) {
          const delivery = toRedelivery(sql.deadOne.get(key) ?? {})
          if (delivery === undefined) continue
          const { event, handler } = delivery
          const run = nextRun(event.id, handler)
          orderingKeys.add(delivery, run)
          // The dead delivery keeps its failures.
          sql.retried.run(sql.keyOf.get(event.id, handler, run)?.['key'] ?? null, key)
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
          if (count === maxPerTransaction) return Number(last)
          // The handler is deleted together with its last deliveries, because a dispatcher may add events for it as
          // long as it is registered. It is deleted at the end, so that an interrupted call can be repeated.
          sql.forgetWrites.run(handler)
          sql.forgetSeen.run(handler)
          sql.forgetHandler.run(handler)
          return undefined
        })
      for (let last = forgetSome(0); last !== undefined; last = forgetSome(last)) await sleep(pauseMs)
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
  const db = new DatabaseSync(path, { timeout: lockTimeoutMs })
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
  const db = new DatabaseSync(path, { readOnly: true, timeout: lockTimeoutMs })
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
