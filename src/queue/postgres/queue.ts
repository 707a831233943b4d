import type { Logger } from 'pino'
import { boundError } from '../../lib/error-text.ts'
import { planRuns, startRuns, wakeDue } from './claim.ts'
import { createClaims } from './held-claims.ts'
import type { Database, Row, Session, Transaction } from './database.ts'
import { createEnder } from './ends.ts'
import { createJobs } from './jobs.ts'
import { addDeliveries, textOf } from './ordering.ts'
import { readPosition, readState } from './schema.ts'
import { doubtSeen, keepSeen, readSeen } from './snapshots.ts'
import type { Delivery, NewDelivery, Queue, Wanted } from '../queue.ts'
import { eventIn, readNames, readStoredEvent, standInFor } from '../stored.ts'

export interface PgBossQueueParts {
  readonly database: Database
  /** Whose journal it follows; the name of its position. */
  readonly receiver: string
  /** This process: what one of the same name ran before is dead. */
  readonly worker: string
  /** Milliseconds without a sign after which a process counts as dead; more than an event loop may be blocked. */
  readonly heartbeat: number
  readonly log: Logger
  /** Unix milliseconds. Without it, as is meant, the database tells the time. */
  readonly now?: () => number
}

/** So many at once: each holds locks, of which Postgres has some thousands for all. */
const longestAdd = 256

/** Milliseconds between two looks for what others have made ready, or left behind. */
const watchInterval = 1_000

/** Where whoever adds something speaks. */
export const channel = 'b24_receiver'

/**
 * The distributed engine: any number of receivers add, any number of workers claim.
 *
 * What waits for what is in our tables (pg-lanes.ts); what may run is a job of pg-boss (pg-jobs.ts). Both change in one
 * transaction. Every call waits for the database as long as it takes.
 */
export function openPgBossQueue({ database, receiver, worker, heartbeat, log, now }: PgBossQueueParts): Queue {
  const jobs = createJobs(database, heartbeat)
  const claims = createClaims({ database, jobs, worker, heartbeat, log })
  const { held } = claims
  const at = () => now?.() ?? null
  const ender = createEnder({ database, jobs, held, worker, at, log })
  /** In the clock of this process. */
  const local = now ?? Date.now
  let isInDoubt = false
  let watching: NodeJS.Timeout | undefined

  const inTransaction = <T>(work: (transaction: Transaction) => Promise<T>) =>
    database.persist(() => database.transaction(work))

  /** What a transaction has claimed counts when it is committed; whether it is, is not known when that fails. */
  async function claiming<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return database.persist(async () => {
      const before = new Set(held.keys())
      try {
        const result = await database.transaction(async (transaction) => {
          if (isInDoubt) await claims.reconcile(transaction)
          return work(transaction)
        })
        isInDoubt = false
        return result
      } catch (error) {
        for (const key of held.keys()) if (!before.has(key)) held.delete(key)
        isInDoubt = true
        throw error
      }
    })
  }

  const plan = (wanted: readonly Wanted[], limit: number) =>
    database.persist(() => planRuns(database, { wanted, limit, at: at() }))

  async function claim(wanted: readonly Wanted[], limit: number): Promise<Delivery[]> {
    let planned = await plan(wanted, limit)
    if (planned.isDue) {
      await inTransaction(async (transaction) => jobs.issue(transaction, await wakeDue(transaction, at())))
      planned = await plan(wanted, limit)
    }
    const { suspect, counts } = planned
    const isAlone = [...held.values()].some((one) => one.suspect)
    if (suspect !== undefined || isAlone) {
      if (suspect === undefined || held.size > 0) return []
      return start([{ handler: suspect, count: 1, suspect: true }], wanted)
    }
    return counts.length > 0 && limit > 0 ? start(counts, wanted) : []
  }

  async function start(
    counts: readonly { readonly handler: string; readonly count: number; readonly suspect?: boolean }[],
    wanted: readonly Wanted[],
  ): Promise<Delivery[]> {
    const coalesce = new Map(wanted.map((one) => [one.handler, one.coalesce]))
    return claiming(async (transaction) => {
      const taken = []
      for (const one of counts) taken.push(...(await jobs.take(transaction, one)))
      const rows = await startRuns(transaction, { jobs: taken, coalesce, worker, at: at() })
      const byId = new Map(taken.map((job) => [job.id, job]))
      for (const row of rows) {
        const job = byId.get(String(row['job']))
        if (job) held.set(Number(row['key']), { ...job, key: Number(row['key']), suspect: row['suspect'] === true })
        byId.delete(String(row['job']))
      }
      // Of deliveries that are no more, such as those that an operator dropped.
      await jobs.remove(transaction, [...byId.values()])
      return toDeliveries(transaction, rows)
    })
  }

  /** What was claimed does not say what it is about. That is asked only where an event cannot be read: each claim would pay. */
  async function toDeliveries(session: Session, rows: readonly Row[]): Promise<Delivery[]> {
    const read = rows.map((row) => ({ row, value: eventIn(row['event']) }))
    const damaged = read.filter(({ value }) => value === undefined).map(({ row }) => row['key'])
    const about = new Map(
      (damaged.length === 0
        ? []
        : await session.query(
            'SELECT key, event_id, name, lane, event, created_at FROM b24_receiver.delivery WHERE key = ANY($1::bigint[])',
            [damaged],
          )
      ).map((row) => [Number(row['key']), row]),
    )
    return read.map(({ row, value }) => ({
      key: Number(row['key']),
      handler: String(row['handler']),
      attempt: Number(row['attempts']),
      coalesced: Number(row['coalesced']),
      spentMs: Number(row['spent_ms'] ?? 0),
      ...(value ? { event: value } : whatIsKnown(about.get(Number(row['key'])) ?? row)),
    }))
  }

  const until = (due: number) => Math.round(due - local())

  return {
    position: () => database.persist(() => readPosition(database, receiver)),
    async add(deliveries, position, unseen = []) {
      for (let from = 0; from === 0 || from < deliveries.length; from += longestAdd) {
        const chunk = deliveries.slice(from, from + longestAdd)
        const isLast = from + longestAdd >= deliveries.length
        await inTransaction(async (transaction) => {
          const some = await withoutForgotten(transaction, chunk)
          const ready =
            some.length > 0 ? await addDeliveries(transaction, { deliveries: some, receiver, at: at() }) : []
          await jobs.issue(transaction, ready)
          if (ready.length > 0) await transaction.query(`NOTIFY ${channel}`)
          if (!isLast) return
          await keepSeen(
            transaction,
            unseen.map((about) => ({ about, seen: null })),
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
    done: (delivery, seen) => ender.end(delivery, { how: 'done', seen }),
    seen: (delivery) => database.persist(() => readSeen(database, delivery)),
    doubt: (delivery) => database.persist(() => doubtSeen(database, delivery)),
    dead: (delivery, error) => ender.end(delivery, { how: 'dead', error }),
    async noteFailure({ key, attempt }, error) {
      await database.persist(() =>
        database.query(
          `INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
           SELECT key, $2, b24_receiver.at($4), $3 FROM b24_receiver.delivery WHERE key = $1`,
          [key, attempt, textOf(boundError(error)), at()],
        ),
      )
    },
    async restore({ key }, event) {
      await database.persist(() =>
        database.query('UPDATE b24_receiver.delivery SET event = $2 WHERE key = $1', [key, JSON.stringify(event)]),
      )
    },
    retry: (delivery, { due, alone = false, ...more }) =>
      ender.end(delivery, { how: 'retry', delay: until(due), alone, ...more }),
    postpone: (delivery, { due, error }) => ender.end(delivery, { how: 'postponed', delay: until(due), error }),
    release: (delivery) => ender.end(delivery, { how: 'released' }),
    async resume() {
      await inTransaction(async (transaction) => {
        const ready = await transaction.query(
          `UPDATE b24_receiver.delivery SET state = 'ready', since = NULL, due = NULL, job = gen_random_uuid()
           WHERE state = 'waiting' AND postponed RETURNING handler, key, job, suspect`,
        )
        await jobs.issue(transaction, ready)
      })
    },
    async recover() {
      return claiming(async (transaction) => {
        const row = await claims.takeOver(transaction)
        return row && (await toDeliveries(transaction, [row]))[0]
      })
    },
    async nextDue() {
      const [row] = await database.persist(() => database.query('SELECT b24_receiver.next_due($1) AS delay', [at()]))
      const delay = row?.['delay'] ?? null
      return delay === null ? undefined : local() + Number(delay)
    },
    async handlers() {
      const rows = await database.persist(() =>
        database.query(
          `SELECT known.name,
             (SELECT count(*) FROM b24_receiver.delivery
              WHERE handler = known.name AND state IN ('blocked', 'ready', 'running', 'waiting')) AS owed
           FROM b24_receiver.handler AS known ORDER BY known.name COLLATE "C"`,
        ),
      )
      return new Map(rows.map((row) => [String(row['name']), Number(row['owed'])]))
    },
    async remembered() {
      const rows = await database.persist(() =>
        database.query('SELECT name, events, ordered, settle FROM b24_receiver.handler ORDER BY name COLLATE "C"'),
      )
      return rows.map((row) => ({
        name: String(row['name']),
        events: readNames(row['events']),
        order: row['ordered'] === 'none' ? 'none' : 'object',
        settle: Number(row['settle']),
      }))
    },
    async remember(handlers) {
      await inTransaction(async (transaction) => {
        await transaction.query(
          `INSERT INTO b24_receiver.handler (name, events, ordered, settle, loaded_at)
           SELECT name, events, ordered, settle, b24_receiver.at($2)
           FROM json_to_recordset($1::text::json) AS known (name text, events text, ordered text, settle bigint)
           ORDER BY name
           ON CONFLICT (name) DO UPDATE SET events = excluded.events, ordered = excluded.ordered,
             settle = excluded.settle, loaded_at = excluded.loaded_at`,
          [
            JSON.stringify(
              handlers.map(({ name, events, order, settle }) => ({
                name,
                events: JSON.stringify(events),
                ordered: order,
                settle,
              })),
            ),
            at(),
          ],
        )
        await transaction.query('DELETE FROM b24_receiver.seen WHERE handler = ANY($1)', [
          handlers.filter(({ onChange }) => !onChange).map(({ name }) => name),
        ])
      })
    },
    state: () => readState(database),
    watch({ changed, died }) {
      claims.start(died)
      watching = setInterval(changed, watchInterval)
      // Without it everything comes as well, up to a second later.
      database.listen(channel, changed)
    },
    hurry: () => database.hurry(),
    async prune(segment) {
      await database.persist(() =>
        database.query(
          `DELETE FROM b24_receiver.delivery
           WHERE receiver = $1 AND segment <= $2 AND state IN ('done', 'coalesced')`,
          [receiver, segment],
        ),
      )
    },
    async close() {
      clearInterval(watching)
      claims.stop()
      await ender.idle()
    },
  }
}

/** Of those for handlers that are not loaded only what is not forgotten, which nobody can forget before this is over. */
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

function whatIsKnown(row: Row): Pick<Delivery, 'event' | 'unreadable'> {
  const about = {
    id: String(row['event_id']),
    name: String(row['name']),
    lane: typeof row['lane'] === 'string' ? row['lane'] : null,
  }
  const stored = readStoredEvent(row['event'], about)
  return {
    unreadable: 'unreadable' in stored ? stored.unreadable : 'it was not a moment ago',
    event: standInFor(about, Number(row['created_at'])),
  }
}
