import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import { boundError, mostFailures } from '../../lib/error-text.ts'
import { laneOf } from '../../events/ordering-key.ts'
import type { Database, Transaction } from './database.ts'
import type { Job, Jobs } from './jobs.ts'
import { textOf } from './ordering.ts'
import { keepSeen } from './snapshots.ts'
import type { Delivery, SeenFields } from '../queue.ts'

/** What became of a run. */
interface End {
  readonly delivery: Delivery
  /** The job by which it was claimed; the end counts only if it still is. */
  readonly job: string
  readonly how: 'done' | 'dead' | 'retry' | 'postponed' | 'released'
  /** Milliseconds until it is due, where it waits. */
  readonly delay?: number
  readonly error?: string
  /** See `Retry`. */
  readonly spentMs?: number
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
    error: error === undefined ? null : textOf(boundError(error)),
    attempt: delivery.attempt,
    handler: textOf(delivery.handler),
    lane: laneOf(delivery.event),
  }))
  const changed = await transaction.query('SELECT * FROM b24_receiver.end_runs($1, $2, $3)', [
    JSON.stringify(rows),
    worker,
    at,
  ])
  const ours = new Set(changed.filter(({ ended }) => ended === true).map(({ key }) => Number(key)))
  await noteFailures(
    transaction,
    ends.filter(({ delivery }) => ours.has(delivery.key)),
  )
  await keepSeen(
    transaction,
    ends.flatMap(({ delivery, seen }) =>
      ours.has(delivery.key) && seen !== undefined ? [{ about: delivery, seen }] : [],
    ),
  )
  await jobs.issue(
    transaction,
    changed.filter(({ job }) => job !== null),
  )
  return ours
}

/** What `end_runs` does not: few runs fail, and those of an older version call it, too. */
async function noteFailures(transaction: Transaction, ends: readonly End[]): Promise<void> {
  const spent = ends.flatMap(({ delivery: { key }, how, spentMs = how === 'postponed' ? 0 : undefined }) =>
    spentMs === undefined ? [] : [{ key, spentMs }],
  )
  if (spent.length > 0)
    await transaction.query(
      `UPDATE b24_receiver.delivery AS one SET spent_ms = told.spent
       FROM unnest($1::bigint[], $2::bigint[]) AS told (key, spent) WHERE one.key = told.key`,
      [spent.map(({ key }) => key), spent.map(({ spentMs }) => spentMs)],
    )
  const many = ends.filter(({ delivery, error }) => error !== undefined && delivery.attempt > mostFailures)
  if (many.length > 0)
    await transaction.query(
      `DELETE FROM b24_receiver.failure AS one USING unnest($1::bigint[], $2::integer[]) AS told (key, last)
       WHERE one.delivery = told.key AND one.attempt <= told.last`,
      [many.map(({ delivery }) => delivery.key), many.map(({ delivery }) => delivery.attempt - mostFailures)],
    )
}
