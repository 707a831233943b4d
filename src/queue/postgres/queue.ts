import type { Logger } from 'pino'
import { boundError } from '../../lib/error-text.ts'
import { type Row, storedOf, toDelivery } from '../delivery-row.ts'
import { endings } from '../end.ts'
import type { Delivery, NewDelivery, Queue, Wanted } from '../queue.ts'
import { eventIn, textOf } from '../stored.ts'
import { planRuns, startRuns, wakeDue } from './claim.ts'
import { createEnder } from './ends.ts'
import { createClaims } from './held-claims.ts'
import { createJobs, type Take } from './jobs.ts'
import { addDeliveries } from './ordering.ts'
import { readHandlers, readPosition, readState } from './schema.ts'
import type { Database, Session, Transaction } from './session.ts'
import { keepSnapshots, markDirty, readSnapshot } from './snapshots.ts'

export interface PgBossQueueDeps {
  readonly database: Database
  /** The receiver whose journal is followed, which is the name of the position. */
  readonly receiver: string
  /** The id of this process. Runs of a previous process with this id are dead. */
  readonly worker: string
  /**
   * Milliseconds without a heartbeat after which a process counts as dead. It must exceed the time for which an event
   * loop may be blocked.
   */
  readonly heartbeat: number
  readonly log: Logger
  /** Unix milliseconds, for tests. By default the database supplies the time. */
  readonly now?: () => number
}

/** Deliveries per transaction. Each takes locks, and Postgres has some thousands of them for all connections. */
const maxPerTransaction = 256

/** Milliseconds between two checks for deliveries that other processes made ready or left behind. */
const watchInterval = 1_000

/** The channel on which additions are notified. */
export const channel = 'b24_receiver'

/**
 * The distributed engine: any number of receivers add, any number of workers claim.
 *
 * Our tables keep what waits for what (ordering.ts). Each delivery that may run has a job of pg-boss (jobs.ts). Both
 * change in one transaction. Every call waits for the database for as long as it takes.
 */
export function openPgBossQueue({ database, receiver, worker, heartbeat, log, now }: PgBossQueueDeps): Queue {
  const { persistent } = database
  const jobs = createJobs(database, heartbeat)
  const claims = createClaims({ database, jobs, worker, heartbeat, log })
  const { held } = claims
  const at = () => now?.() ?? null
  /** The clock of this process. */
  const local = now ?? Date.now
  const ender = createEnder({ database, jobs, held, worker, at, local, log })
  let isDirty = false
  let watching: NodeJS.Timeout | undefined

  /** The claims of a transaction count once it is committed. After a failure it is unknown whether it was. */
  async function claiming<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return database.persist(async () => {
      const before = new Set(held.keys())
      try {
        const result = await database.transaction(async (transaction) => {
          if (isDirty) await claims.reconcile(transaction)
          return work(transaction)
        })
        isDirty = false
        return result
      } catch (error) {
        for (const key of held.keys()) if (!before.has(key)) held.delete(key)
        isDirty = true
        throw error
      }
    })
  }

  async function claim(wanted: readonly Wanted[], limit: number): Promise<Delivery[]> {
    let planned = await planRuns(persistent, wanted, limit, at())
    if (planned.isDue) {
      await persistent.transaction(async (transaction) => jobs.issue(transaction, await wakeDue(transaction, at())))
      planned = await planRuns(persistent, wanted, limit, at())
    }
    const { quarantined, counts } = planned
    const isAlone = [...held.values()].some((one) => one.quarantined)
    if (quarantined !== undefined || isAlone) {
      if (quarantined === undefined || held.size > 0) return []
      return start([{ handler: quarantined, count: 1, quarantined: true }], wanted)
    }
    return counts.length > 0 && limit > 0 ? start(counts, wanted) : []
  }

  async function start(counts: readonly Take[], wanted: readonly Wanted[]): Promise<Delivery[]> {
    return claiming(async (transaction) => {
      const taken = []
      for (const one of counts) taken.push(...(await jobs.take(transaction, one)))
      const rows = await startRuns(transaction, { jobs: taken, wanted, worker, at: at() })
      const byId = new Map(taken.map((job) => [job.id, job]))
      for (const row of rows) {
        const job = byId.get(String(row['job']))
        if (job)
          held.set(Number(row['key']), { ...job, key: Number(row['key']), quarantined: row['quarantined'] === true })
        byId.delete(String(row['job']))
      }
      // These jobs belong to deliveries that no longer exist, such as those that an operator dropped.
      await jobs.remove(transaction, [...byId.values()])
      return toDeliveries(transaction, rows)
    })
  }

  /**
   * The rows of a claim lack the columns that describe the event. A second query reads them only for unreadable events,
   * so that normal claims do not pay for it.
   */
  async function toDeliveries(session: Session, rows: readonly Row[]): Promise<Delivery[]> {
    const read = rows.map((row) => ({ row, event: eventIn(row['event']) }))
    const damaged = read.filter(({ event }) => event === undefined).map(({ row }) => row['key'])
    const found =
      damaged.length === 0
        ? []
        : await session.query(
            'SELECT key, event_id, name, ordering_key, event, created_at FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])',
            [damaged],
          )
    const about = new Map(found.map((row) => [row['key'], row]))
    return read.map(({ row, event }) => {
      if (event) return toDelivery(row, { event })
      const whole = { ...row, ...about.get(row['key']) }
      return toDelivery(whole, storedOf(whole))
    })
  }

  return {
    position: () => readPosition(persistent, receiver),
    async add(deliveries, position, droppedSnapshots = []) {
      for (let from = 0; from === 0 || from < deliveries.length; from += maxPerTransaction) {
        const chunk = deliveries.slice(from, from + maxPerTransaction)
        const isLast = from + maxPerTransaction >= deliveries.length
        await persistent.transaction(async (transaction) => {
          const some = await withoutForgotten(transaction, chunk)
          const ready =
            some.length > 0 ? await addDeliveries(transaction, { deliveries: some, receiver, at: at() }) : []
          await jobs.issue(transaction, ready)
          if (ready.length > 0) await transaction.query(`NOTIFY ${channel}`)
          if (!isLast) return
          await keepSnapshots(
            transaction,
            droppedSnapshots.map((about) => ({ about, snapshot: null })),
          )
          await transaction.query(
            `INSERT INTO b24_receiver.position (receiver, segment, "offset", first) VALUES ($1, $2, $3, $4)
               ON CONFLICT (receiver) DO UPDATE
               SET segment = excluded.segment, "offset" = excluded."offset", first = excluded.first`,
            [receiver, position.segment, position.offset, position.first ?? null],
          )
        })
      }
    },
    claim,
    ...endings((delivery, end) => ender.end(delivery, end)),
    snapshot: (delivery) => readSnapshot(persistent, delivery),
    markDirty: (delivery) => markDirty(persistent, delivery),
    async noteFailure({ key, attempt }, error) {
      await persistent.query(
        `INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
         SELECT key, $2, b24_receiver.at($4), $3 FROM b24_receiver.delivery WHERE key = $1`,
        [key, attempt, textOf(boundError(error)), at()],
      )
    },
    async restore({ key }, event) {
      await persistent.query('UPDATE b24_receiver.delivery SET event = $2 WHERE key = $1', [key, JSON.stringify(event)])
    },
    async resumePostponed() {
      await persistent.transaction(async (transaction) => {
        const ready = await transaction.query(
          `UPDATE b24_receiver.delivery SET state = 'ready', since = NULL, due = NULL, job = gen_random_uuid()
           WHERE state = 'waiting' AND postponed RETURNING handler, key, job, quarantined`,
        )
        await jobs.issue(transaction, ready)
      })
    },
    async reclaim() {
      return claiming(async (transaction) => {
        const row = await claims.takeOver(transaction)
        return row && (await toDeliveries(transaction, [row]))[0]
      })
    },
    async nextDue() {
      const [row] = await persistent.query('SELECT b24_receiver.next_due($1) AS delay', [at()])
      const delay = row?.['delay'] ?? null
      return delay === null ? undefined : local() + Number(delay)
    },
    handlers: () => readHandlers(persistent),
    async registerHandlers(handlers) {
      const rows = handlers.map(({ events, order: ordered, ...more }) => ({
        ...more,
        events: JSON.stringify(events),
        ordered,
      }))
      await persistent.transaction(async (transaction) => {
        await transaction.query(
          `INSERT INTO b24_receiver.handler (name, events, ordered, debounce, loaded_at)
           SELECT name, events, ordered, debounce, b24_receiver.at($2)
           FROM json_to_recordset($1::text::json) AS known (name text, events text, ordered text, debounce bigint)
           ORDER BY name
           ON CONFLICT (name) DO UPDATE SET events = excluded.events, ordered = excluded.ordered,
             debounce = excluded.debounce, loaded_at = excluded.loaded_at`,
          [JSON.stringify(rows), at()],
        )
        await transaction.query('DELETE FROM b24_receiver.snapshot WHERE handler = ANY($1)', [
          handlers.filter(({ onChange }) => !onChange).map(({ name }) => name),
        ])
      })
    },
    state: () => readState(database),
    watch({ changed, died }) {
      claims.start(died)
      watching = setInterval(changed, watchInterval)
      // Without notifications, changes are noticed up to a second later.
      database.listen(channel, changed)
    },
    failFast: () => database.failFast(),
    async prune(segment) {
      await persistent.query(
        `DELETE FROM b24_receiver.delivery WHERE receiver = $1 AND segment <= $2 AND state IN ('done', 'coalesced')`,
        [receiver, segment],
      )
    },
    async close() {
      clearInterval(watching)
      claims.stop()
      await ender.idle()
    },
  }
}

/**
 * Removes the deliveries whose handler is neither loaded nor registered. A handler cannot be forgotten until this
 * transaction ends.
 */
async function withoutForgotten(
  transaction: Transaction,
  deliveries: readonly NewDelivery[],
): Promise<readonly NewDelivery[]> {
  const absent = new Set(deliveries.filter(({ isAbsent }) => isAbsent).map(({ handler }) => handler))
  if (absent.size === 0) return deliveries
  const rows = await transaction.query(
    'SELECT name FROM b24_receiver.handler WHERE name = ANY($1) ORDER BY name FOR SHARE',
    [[...absent]],
  )
  const known = new Set(rows.map(({ name }) => String(name)))
  return deliveries.filter(({ handler, isAbsent }) => !isAbsent || known.has(handler))
}
