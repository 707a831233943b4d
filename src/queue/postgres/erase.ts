import type { ObjectSelection } from '../deliveries.ts'
import { planErasure, type Row } from '../delivery-row.ts'
import { isAbout, isOrderingKeyOf, needlesOf } from '../stored.ts'
import type { Jobs } from './jobs.ts'
import { lockOrderingKeys } from './ordering.ts'
import { channel } from './queue.ts'
import type { Database, Session } from './session.ts'

export interface ErasePgDeps {
  readonly database: Database
  readonly jobs: Jobs
  readonly about: ObjectSelection
  readonly at: number | null
}

export async function rowsAbout(session: Session, about: ObjectSelection): Promise<readonly Row[]> {
  const { inOrderingKey, inEvent } = needlesOf(about.object)
  const rows = await session.query(
    `SELECT * FROM b24_receiver.delivery
     WHERE strpos(ordering_key, $1) > 0 OR strpos(event, $2) > 0 OR event_id = ANY($3) ORDER BY key`,
    [inOrderingKey, inEvent, about.events],
  )
  return rows.filter((row) => isAbout(row, about))
}

/**
 * @returns how many deliveries were dropped
 * @throws {RunNotEnded}
 */
export async function erasePg({ database, jobs, about, at }: ErasePgDeps): Promise<number> {
  const count = await database.transaction(async (transaction) => {
    await lockOrderingKeys(
      transaction,
      (await rowsAbout(transaction, about)).map((row) => ({
        handler: String(row['handler']),
        orderingKey: typeof row['ordering_key'] === 'string' ? row['ordering_key'] : null,
      })),
    )
    const keys = (await rowsAbout(transaction, about)).map(({ key }) => key)
    const rows = await transaction.query(
      'SELECT * FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) ORDER BY key FOR UPDATE',
      [keys],
    )
    const { kept, dropped } = planErasure(rows, false)
    const keysOf = (some: readonly Row[]) => some.map(({ key }) => key)
    await transaction.query('DELETE FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])', [keysOf(dropped)])
    await jobs.remove(
      transaction,
      dropped.filter(({ job }) => job !== null).map(({ handler, job }) => jobs.addressOf(String(handler), String(job))),
    )
    await transaction.query('DELETE FROM b24_receiver.failure WHERE delivery = ANY($1::bigint[])', [keysOf(kept)])
    await transaction.query('UPDATE b24_receiver.delivery SET error = NULL WHERE key = ANY($1::bigint[])', [
      keysOf(kept),
    ])
    for (const table of ['snapshot', 'own_write']) {
      const found = await transaction.query(
        `SELECT DISTINCT ordering_key FROM b24_receiver.${table} WHERE strpos(ordering_key, $1) > 0`,
        [needlesOf(about.object).inOrderingKey],
      )
      const orderingKeys = found
        .map(({ ordering_key }) => ordering_key)
        .filter((orderingKey) => isOrderingKeyOf(orderingKey, about))
      await transaction.query(`DELETE FROM b24_receiver.${table} WHERE ordering_key = ANY($1)`, [orderingKeys])
    }
    // Later deliveries may wait behind a deleted one.
    const freed = dropped.filter(({ ordering_key }) => ordering_key !== null)
    const ready = await transaction.query('SELECT * FROM b24_receiver.promote($1, $2, $3)', [
      freed.map(({ handler }) => handler),
      freed.map(({ ordering_key }) => ordering_key),
      at,
    ])
    await jobs.issue(transaction, ready)
    await transaction.query(`NOTIFY ${channel}`)
    return dropped.length
  })
  // The table's file keeps the text of deleted rows until a VACUUM.
  for (const table of ['delivery', 'failure', 'snapshot', 'own_write'])
    await database.query(`VACUUM b24_receiver.${table}`)
  return count
}
