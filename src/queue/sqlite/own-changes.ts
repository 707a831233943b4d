import { DatabaseSync } from 'node:sqlite'
import type { Row } from '../delivery-row.ts'
import {
  type About,
  createOwnChanges,
  type Known,
  lifetimeMs,
  maxRequestMs,
  type OwnChangeStore,
  type OwnChanges,
  type StoredWrite,
  toStoredWrite,
} from '../own-changes.ts'
import { readNames } from '../stored.ts'
import { bare, inTransaction } from './schema.ts'

export interface SqliteOwnChangesDeps {
  /** The path of `dispatch.db`, which the queue has migrated. */
  readonly path: string
  readonly now?: () => number
  readonly onUnreadable?: (what: string) => void
}

/** The requests and runs are kept in memory: those of the previous process are over. */
export function openSqliteOwnChanges({
  path,
  now = Date.now,
  onUnreadable = () => undefined,
}: SqliteOwnChangesDeps): OwnChanges {
  const db = new DatabaseSync(path)
  db.exec('PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000')
  // A request of the previous process may never be answered, and may have changed the record.
  db.exec('UPDATE own_write SET event = NULL WHERE certain = 0')
  const sql = {
    add: db.prepare(`
      INSERT INTO own_write (ordering_key, handler, user, event, sent_at, first, last, certain, content)
      VALUES (:orderingKey, :handler, :user, :event, :sentAt, :first, :last, :certain, :content)`),
    of: db.prepare('SELECT * FROM own_write WHERE ordering_key = ? AND sent_at > ? ORDER BY key'),
    account: db.prepare(`
      UPDATE own_write SET accounted = json_insert(accounted, '$[#]', :subscription)
      WHERE key IN (SELECT value FROM json_each(:keys))`),
    forget: db.prepare('DELETE FROM own_write WHERE sent_at <= ? OR sent_at > ?'),
  }
  /** By handler and ordering key, the oldest first. */
  const lastRuns = new Map<string, { readonly place: number; readonly at: number }>()
  /** By place, the oldest first. */
  const open = new Map<number, { readonly orderingKeys: readonly string[]; readonly at: number }>()
  let place = 0
  const runOf = (handler: string, orderingKey: string) => JSON.stringify([handler, orderingKey])

  function toWrite(row: Row): StoredWrite {
    const accounted = readNames(row['accounted'])
    if (accounted === undefined)
      onUnreadable(`own_write ${Number(row['key'])} of ${String(row['handler'])}: its echo runs the handler`)
    return toStoredWrite(row, accounted)
  }

  const read = ({ handler, orderingKeys, at }: About): Known => ({
    writes: orderingKeys.flatMap((one) => sql.of.all(one, at - lifetimeMs).map(toWrite)),
    busy: [...open.values()].flatMap((request) => request.orderingKeys),
    lastRuns: new Map(orderingKeys.map((one) => [one, lastRuns.get(runOf(handler, one))?.place ?? -1])),
  })

  const store: OwnChangeStore = {
    begin(orderingKeys, at) {
      dropOld(open, at, lifetimeMs)
      if (orderingKeys.length > 0) open.set(place, { orderingKeys, at })
      return place++
    },
    end(request, about, plan) {
      open.delete(request)
      inTransaction(db, () => {
        sql.forget.run(about.at - lifetimeMs, about.at + maxRequestMs)
        for (const { event = null, isCertain, ...write } of plan(read(about)))
          sql.add.run(bare({ ...write, event, certain: Number(isCertain) }))
      })
    },
    read,
    decide(about, subscription, judge) {
      const judgement = judge(read(about))
      const keys = JSON.stringify(judgement.accounted.map(({ key }) => key))
      if (judgement.accounted.length > 0) sql.account.run(bare({ subscription, keys }))
      if (judgement.verdict === 'run')
        for (const orderingKey of about.orderingKeys) {
          const run = runOf(about.handler, orderingKey)
          lastRuns.delete(run)
          lastRuns.set(run, { place: place++, at: about.at })
        }
      dropOld(lastRuns, about.at, maxRequestMs)
      return judgement
    },
    close() {
      if (db.isOpen) db.close()
    },
  }
  return createOwnChanges(store, now)
}

/** The clock may have been put back. */
function dropOld<K>(all: Map<K, { readonly at: number }>, now: number, ms: number): void {
  for (const [key, { at }] of all) {
    if (Math.abs(now - at) < ms) break
    all.delete(key)
  }
}
