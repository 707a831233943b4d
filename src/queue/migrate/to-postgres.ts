import { existsSync, renameSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { lockDataDir } from '../../journal/lock.ts'
import { markKnown, settleIdentity } from '../identity.ts'
import { inserted, type Moved, type MoveParts, openNow, owedStates } from './migrate.ts'
import type { Row, Transaction } from '../postgres/database.ts'
import { createJobs } from '../postgres/jobs.ts'
import { queuePath } from '../sqlite/queue.ts'
import { isCurrent, readPosition as readSqlitePosition } from '../sqlite/schema.ts'
import { readNames } from '../stored.ts'

const atOnce = 500

/**
 * From `dispatch.db` into Postgres, where others may be at work already. Doing it again adds nothing.
 *
 * @throws when a dispatcher is at work here, or the database cannot be used
 */
export async function moveToPostgres({ dataDir, url, heartbeat }: MoveParts): Promise<Moved> {
  const path = queuePath(dataDir)
  if (!existsSync(path)) throw new Error(`${path} is not there: there is nothing to move`)
  const lock = lockDataDir(dataDir, 'dispatcher')
  const db = new DatabaseSync(path)
  const database = await openNow(url)
  try {
    if (!isCurrent(db)) throw new Error(`${path} was written by another version of the receiver: start this one once`)
    const position = readSqlitePosition(db)
    if (position === undefined) throw new Error(`${path} does not say how far the journal was followed`)
    const identity = settleIdentity(dataDir, false)
    const jobs = createJobs(database, heartbeat)
    const moved = await database.transaction(async (transaction) => {
      // Whoever is at work there waits a moment.
      await transaction.query('LOCK TABLE b24_receiver.delivery IN SHARE ROW EXCLUSIVE MODE')
      const keys = new Map<number, number>()
      let owed = 0
      const rows = db.prepare(`SELECT key, ${inserted} FROM delivery ORDER BY key`).all()
      for (let from = 0; from < rows.length; from += atOnce) {
        const some = rows.slice(from, from + atOnce).map((row) => ({
          ...row,
          ...interrupted(row['state'] === 'running', Number(row['attempts'])),
          postponed: row['postponed'] === 1,
          ...(row['state'] !== 'running' && { suspect: row['suspect'] === 1 }),
        }))
        const added = await insertInto(transaction, some, identity.id)
        for (const row of added) keys.set(Number(row['old']), Number(row['key']))
        owed += added.filter(({ state }) => owedStates.includes(String(state))).length
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
      return { deliveries: keys.size, owed }
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

/** Where its process died it is tried again, alone: nobody knows what killed it. */
function interrupted(isRunning: boolean, attempts: number): object {
  return isRunning ? { state: 'ready', attempts: attempts - 1, suspect: true } : {}
}

async function insertInto(
  transaction: Transaction,
  rows: readonly object[],
  receiver: string,
): Promise<readonly Row[]> {
  // Whose object somebody else's delivery is about already waits behind it.
  return transaction.query(
    `WITH old AS (
       SELECT * FROM json_to_recordset($1::text::json) AS old (key bigint, event_id text, handler text, run integer,
         lane text, name text, event text, segment bigint, state text, attempts integer, suspect boolean,
         coalesced integer, coalesced_into bigint, postponed boolean, settle bigint, created_at bigint,
         first_run_at bigint, since bigint, due bigint, ended_at bigint, error text, spent_ms bigint)
     ),
     placed AS (
       SELECT *, state IN ('ready', 'waiting') AND EXISTS (
         SELECT FROM b24_receiver.delivery AS head WHERE head.handler = old.handler AND head.lane = old.lane
           AND head.state IN ('ready', 'running', 'waiting')) AS is_behind
       FROM old
     ),
     added AS (
       INSERT INTO b24_receiver.delivery (${inserted}, receiver, job)
       SELECT event_id, handler, run, lane, name, event, segment, CASE WHEN is_behind THEN 'blocked' ELSE state END,
         attempts, suspect, coalesced, NULL, postponed, settle, created_at, first_run_at, since, due, ended_at, error,
         spent_ms, $2, CASE WHEN state = 'ready' AND NOT is_behind THEN gen_random_uuid() END
       FROM placed ORDER BY key
       ON CONFLICT (event_id, handler, run) DO NOTHING
       RETURNING key, event_id, handler, run, state, job, suspect
     )
     SELECT added.*, old.key AS old FROM added JOIN old USING (event_id, handler, run) ORDER BY added.key`,
    [JSON.stringify(rows), receiver],
  )
}

async function moveTheRest(transaction: Transaction, db: DatabaseSync, keys: ReadonlyMap<number, number>) {
  const of = (table: string) => db.prepare(`SELECT * FROM ${table}`).all()
  const merged = db.prepare('SELECT key, coalesced_into AS "into" FROM delivery WHERE coalesced_into IS NOT NULL').all()
  const insert = async (sql: string, rows: readonly object[]) => {
    for (let from = 0; from < rows.length; from += atOnce)
      await transaction.query(sql, [JSON.stringify(rows.slice(from, from + atOnce))])
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
    `INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
     SELECT * FROM json_to_recordset($1::text::json) AS old (delivery bigint, attempt integer, at bigint, error text)`,
    of('failure').flatMap((row) => {
      const delivery = keys.get(Number(row['delivery']))
      return delivery === undefined ? [] : [{ ...row, delivery }]
    }),
  )
  await insert(
    `INSERT INTO b24_receiver.handler (name, events, ordered, settle, loaded_at)
     SELECT name, coalesce(events, '[]'), coalesce(ordered, 'object'), coalesce(settle, 0), coalesce(loaded_at, 0)
     FROM json_to_recordset($1::text::json) AS old (name text, events text, ordered text, settle bigint, loaded_at bigint)
     ON CONFLICT DO NOTHING`,
    of('handler').map(({ events, ...row }) => ({ ...row, events: readNames(events) ? events : null })),
  )
  await insert(
    `INSERT INTO b24_receiver.seen (handler, lane, fields, doubt)
     SELECT handler, lane, fields, doubt = 1
     FROM json_to_recordset($1::text::json) AS old (handler text, lane text, fields text, doubt integer)
     ON CONFLICT DO NOTHING`,
    of('seen'),
  )
  await insert(
    `INSERT INTO b24_receiver.own_write (lane, handler, hook_user, event, sent_at, first, last, certain, content, accounted)
     SELECT lane, handler, "user", event, sent_at, first, last, certain = 1, content,
       ARRAY(SELECT json_array_elements_text(accounted::json))
     FROM json_to_recordset($1::text::json) AS old (lane text, handler text, "user" text, event text, sent_at bigint,
       first bigint, last bigint, certain integer, content text, accounted text)`,
    // Of one whose subscriptions cannot be read, an echo runs its handler.
    of('own_write').filter(({ accounted }) => readNames(accounted)),
  )
}
