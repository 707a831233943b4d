import { existsSync, renameSync, rmSync } from 'node:fs'
import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import { lockDataDir } from '../../journal/lock.ts'
import { readIdentity } from '../identity.ts'
import { readPosition } from '../postgres/schema.ts'
import type { Transaction } from '../postgres/session.ts'
import { openSqliteQueue, queuePath } from '../sqlite/queue.ts'
import { inTransaction, isCurrent, readPosition as readSqlitePosition } from '../sqlite/schema.ts'
import { columns, inserted, type MoveDeps, type Moved, openNow, pendingStates } from './migrate.ts'

/**
 * Copies everything from Postgres into a new `dispatch.db`, the deliveries of all receivers included, because this
 * machine will be the only one.
 *
 * @throws if a delivery still runs, or if there is a `dispatch.db`
 */
export async function moveToEmbedded({ dataDir, url }: MoveDeps): Promise<Moved> {
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
      // The tables of pg-boss stay: pg-boss finds nothing to run.
      for (const table of [
        'failure',
        'delivery',
        'handler',
        'snapshot',
        'own_write',
        'own_request',
        'own_run',
        'position',
      ])
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

/** A file without a position was made by a receiver that started without DATABASE_URL before the migration. */
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
  // This machine never reads another receiver's journal again, so it does not need the finished deliveries of that
  // journal.
  const rows = await transaction.query(
    `SELECT key, receiver, ${inserted} FROM b24_receiver.delivery
     WHERE receiver = $1 OR state NOT IN ('done', 'coalesced') ORDER BY key`,
    [receiver],
  )
  const others = {
    failure: await transaction.query('SELECT * FROM b24_receiver.failure ORDER BY at'),
    handler: await transaction.query('SELECT * FROM b24_receiver.handler'),
    snapshot: await transaction.query('SELECT * FROM b24_receiver.snapshot'),
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
      'INSERT INTO handler (name, events, ordered, debounce, loaded_at) VALUES (?, ?, ?, ?, ?)',
    )
    for (const { name, events, ordered, debounce, loaded_at } of others.handler)
      addHandler.run(...[name, events, ordered, debounce, loaded_at].map(toValue))
    const addSnapshot = db.prepare('INSERT INTO snapshot (handler, ordering_key, fields, dirty) VALUES (?, ?, ?, ?)')
    for (const { handler, ordering_key, fields, dirty } of others.snapshot)
      addSnapshot.run(...[handler, ordering_key, fields, dirty].map(toValue))
    const addWrite = db.prepare(`
      INSERT INTO own_write (ordering_key, handler, user, event, sent_at, first, last, certain, content, accounted)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    for (const one of others.own_write)
      addWrite.run(
        ...[
          one['ordering_key'],
          one['handler'],
          one['webhook_user'],
          one['event'],
          one['sent_at'],
          one['first'],
          one['last'],
        ].map(toValue),
        ...[one['certain'], one['content'], JSON.stringify(one['accounted'])].map(toValue),
      )
  })
  return { deliveries: rows.length, pending: rows.filter(({ state }) => pendingStates.includes(String(state))).length }
}

/** Postgres returns `bigint` as text, and SQLite accepts no `boolean`. */
function toValue(value: unknown): SQLInputValue {
  if (value === null || value === undefined) return null
  if (typeof value === 'boolean') return Number(value)
  return typeof value === 'number' || typeof value === 'string' ? value : JSON.stringify(value)
}
