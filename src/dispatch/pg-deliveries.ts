import { pino } from 'pino'
import type { Deliveries, DeliveryRecord } from './deliveries.ts'
import { channel } from './pg-boss-queue.ts'
import { createDatabase, type Row, type Transaction } from './pg-database.ts'
import { createJobs } from './pg-jobs.ts'
import { addDeliveries } from './pg-lanes.ts'
import { readPosition, readState } from './pg-schema.ts'
import type { NewDelivery } from './queue.ts'

export interface PgDeliveriesParts {
  readonly url: string
  /** Of this data directory; its position, and its journal for a replay. */
  readonly receiver: string
  /** See pg-boss-queue.ts. */
  readonly heartbeat: number
  /** Unix milliseconds; for tests. */
  readonly now?: () => number
}

/**
 * The deliveries in Postgres, for tools, whatever receivers and workers do meanwhile.
 *
 * @throws when the database is not there, at once
 */
export async function openPgDeliveries({ url, receiver, heartbeat, now }: PgDeliveriesParts): Promise<Deliveries> {
  const database = createDatabase({ url, log: pino({ level: 'silent' }) })
  database.hurry()
  await database.start()
  const jobs = createJobs(database, heartbeat)
  const at = () => now?.() ?? null

  async function add(transaction: Transaction, deliveries: readonly (NewDelivery & { run: number })[]): Promise<void> {
    await jobs.issue(transaction, await addDeliveries(transaction, { deliveries, receiver, at: at() }))
    await transaction.query(`NOTIFY ${channel}`)
  }

  /** The number of the run that is free, for each. Whoever else looks for one waits until this transaction is over. */
  async function withRuns<T extends NewDelivery>(
    transaction: Transaction,
    deliveries: readonly T[],
  ): Promise<(T & { run: number })[]> {
    await transaction.query('LOCK TABLE b24_receiver.handler IN SHARE ROW EXCLUSIVE MODE')
    const rows = await transaction.query(
      `SELECT wanted.place, coalesce(max(run), 0) AS last
       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (event, handler, place)
       LEFT JOIN b24_receiver.delivery AS one ON one.event_id = wanted.event AND one.handler = wanted.handler
       GROUP BY wanted.place`,
      [deliveries.map(({ event }) => event.id), deliveries.map(({ handler }) => handler)],
    )
    const last = new Map(rows.map((row) => [Number(row['place']), Number(row['last'])]))
    return deliveries.map((delivery, index) => ({ ...delivery, run: (last.get(index + 1) ?? 0) + 1 }))
  }

  return {
    position: () => readPosition(database, receiver),
    state: () => readState(database),
    async handlers() {
      const rows = await database.query(`
        SELECT known.*,
          (SELECT count(*) FROM b24_receiver.delivery
           WHERE handler = known.name AND state IN ('blocked', 'ready', 'running', 'waiting')) AS owed,
          (SELECT count(*) FROM b24_receiver.delivery WHERE handler = known.name AND state = 'dead') AS dead
        FROM b24_receiver.handler AS known ORDER BY known.name COLLATE "C"`)
      return rows.map((row) => {
        const events: unknown = JSON.parse(String(row['events']))
        return {
          name: String(row['name']),
          events: Array.isArray(events) ? events.map(String) : [],
          order: row['ordered'] === 'none' ? ('none' as const) : ('object' as const),
          settle: Number(row['settle']),
          loadedAt: Number(row['loaded_at']),
          owed: Number(row['owed']),
          dead: Number(row['dead']),
        }
      })
    },
    // With Postgres the log of each process says it.
    broken: () => [],
    async ofEvent(id) {
      const rows = await database.query('SELECT * FROM b24_receiver.delivery WHERE event_id = $1 ORDER BY key', [id])
      return rows.map(toRecord)
    },
    async failures({ key }) {
      const rows = await database.query(
        'SELECT attempt, at, error FROM b24_receiver.failure WHERE delivery = $1 ORDER BY at, attempt',
        [key],
      )
      return rows.map((row) => ({
        attempt: Number(row['attempt']),
        at: Number(row['at']),
        error: String(row['error']),
      }))
    },
    async dead({ handler, events, object }) {
      const rows = await database.query(
        `SELECT * FROM b24_receiver.delivery
         WHERE state = 'dead' AND ($1::text IS NULL OR handler = $1) AND ($2::text[] IS NULL OR event_id = ANY($2))
         ORDER BY key`,
        [handler ?? null, events ?? null],
      )
      return rows.map(toRecord).filter((one) => object === undefined || one.object === object)
    },
    retry: (dead) =>
      database.transaction(async (transaction) => {
        const rows = await transaction.query(
          "SELECT * FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) AND state = 'dead' ORDER BY key FOR UPDATE",
          [dead.map(({ key }) => key)],
        )
        const again = await withRuns(
          transaction,
          rows.map((row) => ({
            key: Number(row['key']),
            handler: String(row['handler']),
            event: JSON.parse(String(row['event'])),
            segment: Number(row['segment']),
            order: row['lane'] === null ? ('none' as const) : ('object' as const),
            settle: 0,
          })),
        )
        await add(transaction, again)
        // They went into the later ones: what they failed of stays with them.
        await transaction.query(
          `UPDATE b24_receiver.delivery AS old SET state = 'coalesced', coalesced_into = new.key, event = NULL
           FROM unnest($1::bigint[], $2::integer[]) AS again (key, run), b24_receiver.delivery AS new
           WHERE old.key = again.key AND new.event_id = old.event_id AND new.handler = old.handler AND new.run = again.run`,
          [again.map(({ key }) => key), again.map(({ run }) => run)],
        )
        return rows.length
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
    forget: (handler) =>
      database.transaction(async (transaction) => {
        const [row] = await transaction.query(
          `SELECT count(*) AS owed FROM b24_receiver.delivery
           WHERE handler = $1 AND state IN ('blocked', 'ready', 'running', 'waiting', 'dead')`,
          [handler],
        )
        // A worker that takes a job of one that is gone drops the job.
        for (const table of ['delivery', 'own_write', 'own_run', 'seen'])
          await transaction.query(`DELETE FROM b24_receiver.${table} WHERE handler = $1`, [handler])
        await transaction.query('DELETE FROM b24_receiver.handler WHERE name = $1', [handler])
        return Number(row?.['owed'])
      }),
    close: () => database.close(),
  }
}

function toRecord(row: Row): DeliveryRecord {
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    event: String(row['event_id']),
    name: String(row['name']),
    object: objectOf(row),
    run: Number(row['run']),
    state: row['state'] as DeliveryRecord['state'],
    postponed: row['postponed'] === true,
    attempts: Number(row['attempts']),
    createdAt: Number(row['created_at']),
    firstRunAt: numberOf(row['first_run_at']),
    due: numberOf(row['due']),
    endedAt: numberOf(row['ended_at']),
    error: typeof row['error'] === 'string' ? row['error'] : undefined,
    coalescedInto: numberOf(row['coalesced_into']),
  }
}

/** From the event, while it is kept; else from its lane, which is none where the handler wants no order. */
function objectOf({ event, lane }: Row): string | undefined {
  const kept: { object?: string } | undefined = typeof event === 'string' ? JSON.parse(event) : undefined
  if (kept !== undefined) return kept.object
  const [, object]: string[] = typeof lane === 'string' ? JSON.parse(lane) : []
  return object
}

function numberOf(value: unknown): number | undefined {
  return value === null || value === undefined ? undefined : Number(value)
}
