import { pino } from 'pino'
import type { JournalledEvent } from '../../events/event.ts'
import type { Deliveries, DeliveryRecord } from '../deliveries.ts'
import type { NewDelivery } from '../queue.ts'
import { eventIn, readNames, readOrderingKey, readStoredEvent, type Stored } from '../stored.ts'
import { createDatabase } from './database.ts'
import { erasePg, rowsAbout } from './erase.ts'
import { createJobs } from './jobs.ts'
import { addDeliveries } from './ordering.ts'
import { channel } from './queue.ts'
import { readPosition, readState } from './schema.ts'
import type { Row, Transaction } from './session.ts'

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
const atOnce = 1_000

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
           SELECT key FROM b24_receiver.delivery WHERE handler = $1 AND state <> 'running' ORDER BY key LIMIT ${atOnce})
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
      if (gone.length === atOnce) return true
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

  return {
    position: () => readPosition(database, receiver),
    state: () => readState(database),
    async handlers() {
      const rows = await database.query(`
        SELECT known.*,
          (SELECT count(*) FROM b24_receiver.delivery
           WHERE handler = known.name AND state IN ('blocked', 'ready', 'running', 'waiting')) AS pending,
          (SELECT count(*) FROM b24_receiver.delivery WHERE handler = known.name AND state = 'dead') AS dead
        FROM b24_receiver.handler AS known ORDER BY known.name COLLATE "C"`)
      return rows.map((row) => {
        return {
          name: String(row['name']),
          events: readNames(row['events']),
          order: row['ordered'] === 'none' ? ('none' as const) : ('object' as const),
          debounce: Number(row['debounce']),
          loadedAt: Number(row['loaded_at']),
          pending: Number(row['pending']),
          dead: Number(row['dead']),
        }
      })
    },
    async ofEvent(id) {
      const rows = await database.query('SELECT * FROM b24_receiver.delivery WHERE event_id = $1 ORDER BY key', [id])
      return rows.map(toRecord)
    },
    async ofKey(key) {
      const [row] = await database.query('SELECT * FROM b24_receiver.delivery WHERE key = $1', [key])
      return row && toRecord(row)
    },
    async keptEvent(id) {
      const rows = await keptOf(id)
      return rows.flatMap((row) => readableOf(row) ?? [])[0]
    },
    async keptBytes(id) {
      const rows = await keptOf(id)
      // If there are several rows, the unreadable one is of interest.
      const row = rows.find((one) => readableOf(one) === undefined) ?? rows[0]
      return row?.['bytes'] instanceof Uint8Array ? row['bytes'] : undefined
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
          "SELECT * FROM b24_receiver.delivery WHERE key = ANY($1::bigint[]) AND state = 'dead' AND event IS NOT NULL ORDER BY key FOR UPDATE",
          [dead.map(({ key }) => key)],
        )
        const again = await withRuns(
          transaction,
          rows.flatMap((row) => {
            const event = readableOf(row)
            if (event === undefined) return []
            const order = row['ordering_key'] === null ? ('none' as const) : ('object' as const)
            const [key, segment] = [Number(row['key']), Number(row['segment'])]
            return [{ key, handler: String(row['handler']), event, segment, order, debounce: 0 }]
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

function toRecord(row: Row): DeliveryRecord {
  const stored = storedOf(row)
  return {
    key: Number(row['key']),
    handler: String(row['handler']),
    event: String(row['event_id']),
    name: String(row['name']),
    object: stored && 'event' in stored ? stored.event.object : readOrderingKey(row['ordering_key'])[1],
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
    unreadable: stored && 'unreadable' in stored ? stored.unreadable : undefined,
  }
}

/** Returns `undefined` if no event is stored, as for a finished delivery. */
function storedOf(row: Row): Stored | undefined {
  const { event = null } = row
  if (event === null) return undefined
  const orderingKey = typeof row['ordering_key'] === 'string' ? row['ordering_key'] : null
  const read = eventIn(event)
  if (read) return { event: read }
  return readStoredEvent(event, { id: String(row['event_id']), name: String(row['name']), orderingKey })
}

function readableOf(row: Row): JournalledEvent | undefined {
  const stored = storedOf(row)
  return stored && 'event' in stored ? stored.event : undefined
}

function numberOf(value: unknown): number | undefined {
  return value === null || value === undefined ? undefined : Number(value)
}
