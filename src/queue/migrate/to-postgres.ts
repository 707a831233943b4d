import { existsSync, renameSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { lockDataDir } from '../../journal/lock.ts'
import type { Row } from '../delivery-row.ts'
import { initIdentity, markKnown } from '../identity.ts'
import { createJobs } from '../postgres/jobs.ts'
import type { Transaction } from '../postgres/session.ts'
import { queuePath } from '../sqlite/queue.ts'
import { isCurrent, readPosition as readSqlitePosition } from '../sqlite/schema.ts'
import { readNames } from '../stored.ts'
import { columns, type MoveDeps, type Moved, openNow, pendingStates } from './migrate.ts'

const maxPerStatement = 500
const ownWriteColumns = 'ordering_key, handler, webhook_user, event, sent_at, first, last, certain, content, accounted'

/**
 * Copies `dispatch.db` into Postgres, which other workers may already use. A second run adds nothing.
 *
 * @throws if a dispatcher is running here, or the database cannot be used
 */
export async function moveToPostgres({ dataDir, url, heartbeat }: MoveDeps): Promise<Moved> {
  const path = queuePath(dataDir)
  if (!existsSync(path)) throw new Error(`${path} is not there: there is nothing to move`)
  const lock = lockDataDir(dataDir, 'dispatcher')
  const db = new DatabaseSync(path)
  const database = await openNow(url)
  try {
    if (!isCurrent(db)) throw new Error(`${path} was written by another version of the receiver: start this one once`)
    const position = readSqlitePosition(db)
    if (position === undefined) throw new Error(`${path} does not say how far the journal was followed`)
    const identity = initIdentity(dataDir, false)
    const jobs = createJobs(database, heartbeat)
    const moved = await database.transaction(async (transaction) => {
      // Other workers wait until this transaction ends.
      await transaction.query('LOCK TABLE b24_receiver.delivery IN SHARE ROW EXCLUSIVE MODE')
      const keys = new Map<number, number>()
      let pending = 0
      const rows = db.prepare(`SELECT key, ${columns} FROM delivery ORDER BY key`).all()
      for (let from = 0; from < rows.length; from += maxPerStatement) {
        const some = rows.slice(from, from + maxPerStatement).map((row) => ({
          ...row,
          // A delivery whose process died runs again, in isolation, because the cause of the death is unknown.
          ...(row['state'] === 'running' && { state: 'ready', attempts: Number(row['attempts']) - 1, quarantined: 1 }),
        }))
        const added = await insertInto(transaction, some, identity.id)
        for (const row of added) keys.set(Number(row['old']), Number(row['key']))
        pending += added.filter(({ state }) => pendingStates.includes(String(state))).length
        await jobs.issue(
          transaction,
          added.filter(({ job }) => job !== null),
        )
      }
      await moveTheRest(transaction, db, keys)
      await transaction.query(
        `INSERT INTO b24_receiver.position (receiver, segment, "offset", first) VALUES ($1, $2, $3, $4)
         ON CONFLICT (receiver) DO NOTHING`,
        [identity.id, position.segment, position.offset, position.first ?? null],
      )
      return { deliveries: keys.size, pending }
    })
    db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    db.close()
    markKnown(dataDir, identity)
    renameSync(path, `${path}.moved`)
    return moved
  } finally {
    if (db.isOpen) db.close()
    await database.close()
    lock.release()
  }
}

async function insertInto(
  transaction: Transaction,
  rows: readonly object[],
  receiver: string,
): Promise<readonly Row[]> {
  // A delivery goes behind another receiver's delivery that already has its ordering key.
  return transaction.query(
    `WITH old AS (
       SELECT * FROM json_populate_recordset(NULL::b24_receiver.delivery, $1::text::json)
     ),
     placed AS (
       SELECT *, state IN ('ready', 'waiting') AND EXISTS (
         SELECT FROM b24_receiver.delivery AS head WHERE head.handler = old.handler AND head.ordering_key = old.ordering_key
           AND head.state IN ('ready', 'running', 'waiting')) AS is_behind
       FROM old
     ),
     added AS (
       INSERT INTO b24_receiver.delivery (${columns}, receiver, job)
       SELECT event_id, handler, run, ordering_key, name, event, segment, CASE WHEN is_behind THEN 'blocked' ELSE state END,
         attempts, quarantined, coalesced, NULL, postponed, debounce, created_at, first_run_at, since, due, ended_at, error,
         spent_ms, $2, CASE WHEN state = 'ready' AND NOT is_behind THEN gen_random_uuid() END
       FROM placed ORDER BY key
       ON CONFLICT (event_id, handler, run) DO NOTHING
       RETURNING key, event_id, handler, run, state, job, quarantined
     )
     SELECT added.*, old.key AS old FROM added JOIN old USING (event_id, handler, run) ORDER BY added.key`,
    [JSON.stringify(rows), receiver],
  )
}

async function moveTheRest(transaction: Transaction, db: DatabaseSync, keys: ReadonlyMap<number, number>) {
  const of = (table: string) => db.prepare(`SELECT * FROM ${table}`).all()
  const merged = db.prepare('SELECT key, coalesced_into AS "into" FROM delivery WHERE coalesced_into IS NOT NULL').all()
  const insert = async (sql: string, rows: readonly object[]) => {
    for (let from = 0; from < rows.length; from += maxPerStatement)
      await transaction.query(sql, [JSON.stringify(rows.slice(from, from + maxPerStatement))])
  }
  await insert(
    `UPDATE b24_receiver.delivery AS one SET coalesced_into = merged.into
     FROM json_to_recordset($1::text::json) AS merged (key bigint, "into" bigint) WHERE one.key = merged.key`,
    merged.flatMap((row) => {
      const [key, into] = [keys.get(Number(row['key'])), keys.get(Number(row['into']))]
      return key === undefined || into === undefined ? [] : [{ key, into }]
    }),
  )
  await insert(
    `INSERT INTO b24_receiver.failure SELECT * FROM json_populate_recordset(NULL::b24_receiver.failure, $1::text::json)`,
    of('failure').flatMap((row) => {
      const delivery = keys.get(Number(row['delivery']))
      return delivery === undefined ? [] : [{ ...row, delivery }]
    }),
  )
  await insert(
    `INSERT INTO b24_receiver.handler
     SELECT * FROM json_populate_recordset(NULL::b24_receiver.handler, $1::text::json) ON CONFLICT DO NOTHING`,
    of('handler').map(({ name, events, ordered, debounce, loaded_at }) => ({
      name,
      events: readNames(events) ? events : '[]',
      ordered: ordered ?? 'object',
      debounce: debounce ?? 0,
      loaded_at: loaded_at ?? 0,
    })),
  )
  await insert(
    `INSERT INTO b24_receiver.snapshot
     SELECT * FROM json_populate_recordset(NULL::b24_receiver.snapshot, $1::text::json) ON CONFLICT DO NOTHING`,
    of('snapshot'),
  )
  await insert(
    `INSERT INTO b24_receiver.own_write (${ownWriteColumns})
     SELECT ${ownWriteColumns} FROM json_populate_recordset(NULL::b24_receiver.own_write, $1::text::json)`,
    // A write with unreadable subscriptions is left out, so its own change runs the handler.
    of('own_write').flatMap((row) => {
      const accounted = readNames(row['accounted'])
      return accounted === undefined ? [] : [{ ...row, webhook_user: row['user'], accounted }]
    }),
  )
}
