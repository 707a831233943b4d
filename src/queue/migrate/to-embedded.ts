import { existsSync, renameSync, rmSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { lockDataDir } from '../../journal/lock.ts'
import type { Row } from '../delivery-row.ts'
import { readIdentity } from '../identity.ts'
import { readPosition } from '../postgres/schema.ts'
import type { Transaction } from '../postgres/session.ts'
import { openSqliteQueue, queuePath } from '../sqlite/queue.ts'
import { insertRows, inTransaction, isCurrent, readPosition as readSqlitePosition } from '../sqlite/schema.ts'
import { columns, type MoveDeps, type Moved, openNow, pendingStates } from './migrate.ts'

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
      for (const table of [...copied, 'own_request', 'own_run', 'position'])
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

/** The tables that both engines have. A failure belongs to a delivery. */
const copied = ['delivery', 'failure', 'handler', 'snapshot', 'own_write'] as const

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
  const deliveries = await transaction.query(
    `SELECT key, ${columns}, receiver FROM b24_receiver.delivery
     WHERE receiver = $1 OR state NOT IN ('done', 'coalesced') ORDER BY key`,
    [receiver],
  )
  const known = new Set(deliveries.map(({ key }) => key))
  const failures = await transaction.query('SELECT * FROM b24_receiver.failure ORDER BY at')
  const tables: Record<(typeof copied)[number], readonly Row[]> = {
    delivery: deliveries.map(({ receiver: owner, ...row }) => ({ ...row, ...(owner !== receiver && { segment }) })),
    failure: failures.filter(({ delivery }) => known.has(delivery)),
    handler: await transaction.query('SELECT * FROM b24_receiver.handler'),
    snapshot: await transaction.query('SELECT * FROM b24_receiver.snapshot'),
    own_write: await transaction.query(
      `SELECT ordering_key, handler, webhook_user AS "user", event, sent_at, first, last, certain, content,
         array_to_json(accounted)::text AS accounted FROM b24_receiver.own_write ORDER BY key`,
    ),
  }
  inTransaction(db, () => {
    for (const table of copied) insertRows(db, table, tables[table])
  })
  const pending = deliveries.filter(({ state }) => pendingStates.includes(String(state))).length
  return { deliveries: deliveries.length, pending }
}
