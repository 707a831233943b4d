import { pino } from 'pino'
import type { Deliveries } from '../deliveries.ts'
import { isSelected, keptBytesOf, keptEventOf, toFailure, toRecord, toRedelivery } from '../delivery-row.ts'
import type { NewDelivery } from '../queue.ts'
import { createDatabase } from './database.ts'
import { erasePg, rowsAbout } from './erase.ts'
import { createJobs } from './jobs.ts'
import { addDeliveries } from './ordering.ts'
import { channel } from './queue.ts'
import { readHandlers, readPosition, readState } from './schema.ts'
import type { Transaction } from './session.ts'

export interface PgDeliveriesDeps {
  readonly url: string
  /** `read` creates and migrates nothing, and works with a standby. */
  readonly mode: 'read' | 'write'
  /** The id of this data directory, for its position, and for its journal in a replay. */
  readonly receiver: string
  /** See postgres/queue.ts. */
  readonly heartbeat: number
  /** Unix milliseconds; for tests. */
  readonly now?: () => number
}

/** Deliveries per statement. */
const maxPerStatement = 1_000

/**
 * The deliveries in Postgres, for tools. Receivers and workers may run meanwhile.
 *
 * @throws at once if the database is not there
 */
export async function openPgDeliveries({ url, mode, receiver, heartbeat, now }: PgDeliveriesDeps): Promise<Deliveries> {
  const database = createDatabase({ url, log: pino({ level: 'silent' }) })
  database.failFast()
  try {
    await database.persist(() => (mode === 'read' ? database.startAsIs() : database.start()))
  } catch (error) {
    await database.close()
    throw error
  }
  const jobs = createJobs(database, heartbeat)
  const at = () => now?.() ?? null

  async function add(transaction: Transaction, deliveries: readonly (NewDelivery & { run: number })[]): Promise<void> {
    await jobs.issue(transaction, await addDeliveries(transaction, { deliveries, receiver, at: at() }))
    await transaction.query(`NOTIFY ${channel}`)
  }

  /**
   * Adds a free run number to each delivery. Run 1 is reserved for the event when it is followed. Another caller waits
   * until this transaction ends.
   */
  async function withRuns<T extends NewDelivery>(
    transaction: Transaction,
    deliveries: readonly T[],
  ): Promise<(T & { run: number })[]> {
    await transaction.query('LOCK TABLE b24_receiver.handler IN SHARE ROW EXCLUSIVE MODE')
    const rows = await transaction.query(
      `SELECT wanted.place, coalesce(max(run), 1) AS last
       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (event, handler, place)
       LEFT JOIN b24_receiver.delivery AS one ON one.event_id = wanted.event AND one.handler = wanted.handler
       GROUP BY wanted.place ORDER BY wanted.place`,
      [deliveries.map(({ event }) => event.id), deliveries.map(({ handler }) => handler)],
    )
    const more = new Map<string, number>()
    return deliveries.map((delivery, index) => {
      const key = JSON.stringify([delivery.handler, delivery.event.id])
      const before = more.get(key) ?? 0
      more.set(key, before + 1)
      return { ...delivery, run: Number(rows[index]?.['last']) + 1 + before }
    })
  }

  /**
   * Deletes the jobs as well, which would otherwise be taken before jobs that are added later.
   *
   * @returns whether some deliveries may be left
   */
  const forgetSome = (handler: string) =>
    database.transaction(async (transaction) => {
      // `Queue.add` locks this row for a handler that is not loaded, and adds nothing once the row is gone.
      await transaction.query('SELECT FROM b24_receiver.handler WHERE name = $1 FOR UPDATE', [handler])
      const gone = await transaction.query(
        `DELETE FROM b24_receiver.delivery WHERE key IN (
           SELECT key FROM b24_receiver.delivery WHERE handler = $1 AND state <> 'running' ORDER BY key LIMIT ${maxPerStatement})
         AND state <> 'running' RETURNING job`,
        [handler],
      )
      const [running] = await transaction.query(
        "SELECT FROM b24_receiver.delivery WHERE handler = $1 AND state = 'running' LIMIT 1",
        [handler],
      )
      // The run would go on, and the next delivery of its object would start beside it.
      if (running) throw new Error(`a run of ${handler} has not ended: reload the handlers without its file first`)
      const leases = gone.filter(({ job }) => job !== null)
      await jobs.remove(
        transaction,
        leases.map(({ job }) => jobs.addressOf(handler, String(job))),
      )
      if (gone.length === maxPerStatement) return true
      for (const table of ['own_write', 'own_run', 'snapshot'])
        await transaction.query(`DELETE FROM b24_receiver.${table} WHERE handler = $1`, [handler])
      await transaction.query('DELETE FROM b24_receiver.handler WHERE name = $1', [handler])
      return false
    })

  const keptOf = (id: string) =>
    database.query(
      "SELECT *, convert_to(event, 'UTF8') AS bytes FROM b24_receiver.delivery WHERE event_id = $1 AND event IS NOT NULL ORDER BY key",
      [id],
    )

  const deliveriesWhere = (condition: string, values?: readonly unknown[]) =>
    database.query(`SELECT * FROM b24_receiver.delivery WHERE ${condition}`, values)

  return {
    position: () => readPosition(database, receiver),
    state: () => readState(database),
    handlers: () => readHandlers(database),
    ofEvent: async (id) => (await deliveriesWhere('event_id = $1 ORDER BY key', [id])).map(toRecord),
    ofKey: async (key) => (await deliveriesWhere('key = $1', [key])).map(toRecord)[0],
    keptEvent: async (id) => keptEventOf(await keptOf(id)),
    keptBytes: async (id) => keptBytesOf(await keptOf(id)),
    async failures({ key }) {
      const rows = await database.query('SELECT * FROM b24_receiver.failure WHERE delivery = $1 ORDER BY at, attempt', [
        key,
      ])
      return rows.map(toFailure)
    },
    dead: async (selection) =>
      (await deliveriesWhere("state = 'dead' ORDER BY key")).map(toRecord).filter(isSelected(selection)),
    retry: (dead) =>
      database.transaction(async (transaction) => {
        const rows = await transaction.query(
          "SELECT * FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) AND state = 'dead' AND event IS NOT NULL ORDER BY key FOR UPDATE",
          [dead.map(({ key }) => key)],
        )
        const again = await withRuns(
          transaction,
          rows.flatMap((row) => {
            const delivery = toRedelivery(row)
            return delivery === undefined ? [] : [{ ...delivery, key: Number(row['key']) }]
          }),
        )
        await add(transaction, again)
        // The dead deliveries keep their failures.
        await transaction.query(
          `UPDATE b24_receiver.delivery AS old SET state = 'coalesced', coalesced_into = new.key, event = NULL
           FROM unnest($1::bigint[], $2::integer[]) AS again (key, run), b24_receiver.delivery AS new
           WHERE old.key = again.key AND new.event_id = old.event_id AND new.handler = old.handler AND new.run = again.run`,
          [again.map(({ key }) => key), again.map(({ run }) => run)],
        )
        return again.length
      }),
    async drop(dead) {
      const rows = await database.query(
        "DELETE FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) AND state = 'dead' RETURNING key",
        [dead.map(({ key }) => key)],
      )
      return rows.length
    },
    replay: (deliveries) =>
      database.transaction(async (transaction) => add(transaction, await withRuns(transaction, deliveries))),
    async forget(handler) {
      const [row] = await database.query(
        `SELECT count(*) AS pending FROM b24_receiver.delivery
         WHERE handler = $1 AND state IN ('blocked', 'ready', 'running', 'waiting', 'dead')`,
        [handler],
      )
      while (await forgetSome(handler));
      return Number(row?.['pending'])
    },
    ofObject: async (about) => (await rowsAbout(database, about)).map(toRecord),
    erase: (about) => erasePg({ database, jobs, about, at: at() }),
    close: () => database.close(),
  }
}
