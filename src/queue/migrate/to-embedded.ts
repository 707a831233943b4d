import { existsSync, renameSync, rmSync } from 'node:fs'
import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import { lockDataDir } from '../../journal/lock.ts'
import { readIdentity } from '../identity.ts'
import { columns, inserted, type Moved, type MoveParts, openNow, owedStates } from './migrate.ts'
import type { Transaction } from '../postgres/database.ts'
import { readPosition } from '../postgres/schema.ts'
import { openSqliteQueue, queuePath } from '../sqlite/queue.ts'
import { inTransaction, isCurrent, readPosition as readSqlitePosition } from '../sqlite/schema.ts'

/**
 * From Postgres into a new `dispatch.db`: of every receiver that forwarded there, for this machine is to be the only one.
 *
 * @throws when something still runs, and where there is a `dispatch.db`
 */
export async function moveToEmbedded({ dataDir, url }: MoveParts): Promise<Moved> {
  const path = queuePath(dataDir)
  if (existsSync(path) && isInUse(path)) throw new Error(`${path} is there already: it would be overwritten`)
  const identity = readIdentity(dataDir)
  if (identity === undefined) throw new Error(`${dataDir} was never a receiver's with DATABASE_URL`)
  const lock = lockDataDir(dataDir, 'dispatcher')
  const database = await openNow(url)
  const fresh = `${path}.new`
  try {
    for (const file of [fresh, `${fresh}-wal`, `${fresh}-shm`]) rmSync(file, { force: true })
    return await database.transaction(async (transaction) => {
      await transaction.query('LOCK TABLE b24_receiver.delivery IN ACCESS EXCLUSIVE MODE')
      const position = await readPosition(transaction, identity.id)
      if (position === undefined) throw new Error('the database does not say how far the journal was followed')
      const [running] = await transaction.query(
        "SELECT count(*) AS count FROM b24_receiver.delivery WHERE state = 'running'",
      )
      if (Number(running?.['count']) > 0)
        throw new Error(
          `${Number(running?.['count'])} deliveries run: stop every worker and receiver first; one that was killed has to be started and stopped once more`,
        )
      const queue = openSqliteQueue({ path: fresh })
      await queue.add([], position)
      await queue.close()
      const db = new DatabaseSync(fresh)
      const moved = await fill(db, transaction, { receiver: identity.id, segment: position.segment })
      db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
      db.close()
      // Everything but what pg-boss keeps, which finds nothing to run.
      for (const table of ['failure', 'delivery', 'handler', 'seen', 'own_write', 'own_request', 'own_run', 'position'])
        await transaction.query(`DELETE FROM b24_receiver.${table}`)
      for (const file of [`${path}-wal`, `${path}-shm`]) rmSync(file, { force: true })
      renameSync(fresh, path)
      return moved
    })
  } finally {
    await database.close()
    lock.release()
  }
}

/** One without a position is what a receiver made that was started without DATABASE_URL before the move. */
function isInUse(path: string): boolean {
  const db = new DatabaseSync(path)
  try {
    return !isCurrent(db) || readSqlitePosition(db) !== undefined
  } finally {
    db.close()
  }
}

async function fill(
  db: DatabaseSync,
  transaction: Transaction,
  { receiver, segment }: { readonly receiver: string; readonly segment: number },
): Promise<Moved> {
  // What is done of another's journal will not be read again here.
  const rows = await transaction.query(
    `SELECT key, receiver, ${inserted} FROM b24_receiver.delivery
     WHERE receiver = $1 OR state NOT IN ('done', 'coalesced') ORDER BY key`,
    [receiver],
  )
  const others = {
    failure: await transaction.query('SELECT * FROM b24_receiver.failure ORDER BY at'),
    handler: await transaction.query('SELECT * FROM b24_receiver.handler'),
    seen: await transaction.query('SELECT * FROM b24_receiver.seen'),
    own_write: await transaction.query('SELECT * FROM b24_receiver.own_write ORDER BY key'),
  }
  const known = new Set(rows.map(({ key }) => Number(key)))
  inTransaction(db, () => {
    const places = ['key', ...columns]
    const add = db.prepare(
      `INSERT INTO delivery (${places.join(', ')}) VALUES (${places.map((name) => `:${name}`).join(', ')})`,
    )
    for (const row of rows)
      add.run({
        ...Object.fromEntries(places.map((name) => [name, toValue(row[name])])),
        ...(row['receiver'] !== receiver && { segment }),
      })
    const addFailure = db.prepare('INSERT INTO failure (delivery, attempt, at, error) VALUES (?, ?, ?, ?)')
    for (const { delivery, attempt, at, error } of others.failure)
      if (known.has(Number(delivery))) addFailure.run(...[delivery, attempt, at, error].map(toValue))
    const addHandler = db.prepare(
      'INSERT INTO handler (name, events, ordered, settle, loaded_at) VALUES (?, ?, ?, ?, ?)',
    )
    for (const { name, events, ordered, settle, loaded_at } of others.handler)
      addHandler.run(...[name, events, ordered, settle, loaded_at].map(toValue))
    const addSeen = db.prepare('INSERT INTO seen (handler, lane, fields, doubt) VALUES (?, ?, ?, ?)')
    for (const { handler, lane, fields, doubt } of others.seen)
      addSeen.run(...[handler, lane, fields, doubt].map(toValue))
    const addWrite = db.prepare(`
      INSERT INTO own_write (lane, handler, user, event, sent_at, first, last, certain, content, accounted)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    for (const one of others.own_write)
      addWrite.run(
        ...[one['lane'], one['handler'], one['hook_user'], one['event'], one['sent_at'], one['first'], one['last']].map(
          toValue,
        ),
        ...[one['certain'], one['content'], JSON.stringify(one['accounted'])].map(toValue),
      )
  })
  return { deliveries: rows.length, owed: rows.filter(({ state }) => owedStates.includes(String(state))).length }
}

/** Postgres gives `bigint` as a text, and SQLite takes no `boolean`. */
function toValue(value: unknown): SQLInputValue {
  if (value === null || value === undefined) return null
  if (typeof value === 'boolean') return Number(value)
  return typeof value === 'number' || typeof value === 'string' ? value : JSON.stringify(value)
}
