import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import { laneOf } from './lane.ts'
import type { Database, Row, Transaction } from './pg-database.ts'
import type { Job, Jobs } from './pg-jobs.ts'
import { hasLane, lockLanes, promote, textOf } from './pg-lanes.ts'
import { keepSeen } from './pg-seen.ts'
import type { Delivery, SeenFields } from './queue.ts'

/** What became of a run. */
interface End {
  readonly delivery: Delivery
  /** The job by which it was claimed; the end counts only if it still is. */
  readonly job: string
  readonly how: 'done' | 'dead' | 'retry' | 'postponed' | 'released'
  /** Milliseconds until it is due, where it waits. */
  readonly delay?: number
  readonly error?: string
  readonly alone?: boolean
  /** See `Queue`. */
  readonly seen?: SeenFields | null | undefined
}

export interface EnderParts {
  readonly database: Database
  readonly jobs: Jobs
  /** What this process has claimed; what ended is taken out. */
  readonly held: Map<number, Job>
  readonly worker: string
  readonly at: () => number | null
  readonly log: Logger
}

export interface Ender {
  end(delivery: Delivery, how: Omit<End, 'delivery' | 'job'>): Promise<void>
  /** Resolves when nothing is being written down any more. */
  idle(): Promise<void>
}

/** So many at once: each holds the lock of its object. */
const most = 256

/** What ends while others are being written down is written down with the next. */
export function createEnder({ database, jobs, held, worker, at, log }: EnderParts): Ender {
  let writing: Promise<void> | undefined
  let pending: (End & { readonly settle: PromiseWithResolvers<void> })[] = []

  async function write(): Promise<void> {
    while (pending.length > 0) {
      // Those that end in the same turn go together.
      await tick()
      const ends = pending.slice(0, most)
      pending = pending.slice(most)
      const mine = ends.flatMap(({ delivery: { key } }) => held.get(key) ?? [])
      try {
        const ours = await database.persist(() =>
          database.transaction(async (transaction) => {
            const ended = await endRuns(transaction, { ends, jobs, worker, at: at() })
            await jobs.remove(
              transaction,
              mine.filter(({ key }) => ended.has(key)),
            )
            return ended
          }),
        )
        for (const { delivery, settle } of ends) {
          const { key, handler, event } = delivery
          held.delete(key)
          if (!ours.has(key))
            log.warn({ handler, id: event.id }, 'another worker has this delivery: this run does not count')
          settle.resolve()
        }
      } catch (error) {
        for (const { settle } of ends) settle.reject(error)
      }
    }
    writing = undefined
  }

  return {
    end(delivery, how) {
      const claim = held.get(delivery.key)
      if (claim === undefined) return Promise.resolve()
      const settle = Promise.withResolvers<void>()
      pending.push({ delivery, job: claim.id, ...how, settle })
      writing ??= write()
      return settle.promise
    },
    idle: async () => writing,
  }
}

interface EndParts {
  readonly ends: readonly End[]
  readonly jobs: Jobs
  readonly worker: string
  readonly at: number | null
}

/** Ends runs, and lets who waits behind them go. Gives the keys of those that were still ours. */
async function endRuns(transaction: Transaction, { ends, jobs, worker, at }: EndParts): Promise<ReadonlySet<number>> {
  const rows = ends.map(({ delivery, job, how, delay = null, error, alone = false }) => ({
    key: delivery.key,
    job,
    how,
    delay,
    alone,
    error: error === undefined ? null : textOf(error),
    attempt: delivery.attempt,
  }))
  await lockLanes(
    transaction,
    ends.flatMap(({ delivery: { handler, event }, how }) =>
      how === 'done' || how === 'dead' ? [{ handler, lane: laneOf(event) }] : [],
    ),
  )
  const ended = await transaction.query(
    `WITH clock AS (SELECT b24_receiver.at($2) AS at),
     told AS (
       SELECT * FROM json_to_recordset($1::text::json)
         AS told (key bigint, job uuid, how text, delay bigint, alone boolean, error text, attempt integer)
     ),
     ended AS (
       UPDATE b24_receiver.delivery AS one
       SET state = CASE how WHEN 'done' THEN 'done' WHEN 'dead' THEN 'dead' WHEN 'released' THEN 'ready' ELSE 'waiting' END,
         attempts = attempts - CASE WHEN how IN ('postponed', 'released') THEN 1 ELSE 0 END,
         suspect = CASE how WHEN 'postponed' THEN suspect ELSE told.alone END,
         postponed = how = 'postponed',
         first_run_at = CASE WHEN how <> 'postponed' THEN first_run_at END,
         since = CASE WHEN how IN ('retry', 'postponed') THEN at END,
         due = CASE WHEN how IN ('retry', 'postponed') THEN at + told.delay END,
         ended_at = CASE WHEN how IN ('done', 'dead') THEN at END,
         error = coalesce(told.error, one.error),
         event = CASE WHEN how <> 'done' THEN event END,
         job = CASE how WHEN 'released' THEN gen_random_uuid() END,
         worker = NULL
       FROM told, clock
       WHERE one.key = told.key AND one.job = told.job AND one.state = 'running' AND one.worker = $3
       RETURNING one.key, handler, lane, one.job, suspect, how, told.error, told.attempt
     ),
     failed AS (
       INSERT INTO b24_receiver.failure (delivery, attempt, at, error)
       SELECT key, attempt, at, error FROM ended, clock WHERE how IN ('retry', 'dead') AND error IS NOT NULL
     )
     SELECT key, handler, lane, job, suspect, how FROM ended`,
    [JSON.stringify(rows), at, worker],
  )
  const ours = new Set(ended.map(({ key }) => Number(key)))
  await keepSeen(
    transaction,
    ends.flatMap(({ delivery, seen }) =>
      ours.has(delivery.key) && seen !== undefined ? [{ about: delivery, seen }] : [],
    ),
  )
  const gone = ended.filter(({ how }) => how === 'done' || how === 'dead')
  const next = await promote(transaction, gone.filter(hasLane), at)
  const ready: Row[] = [...ended.filter(({ job }) => job !== null), ...next]
  await jobs.issue(transaction, ready)
  return ours
}
