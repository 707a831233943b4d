import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { boundError, maxFailures } from '../../lib/error-text.ts'
import type { Delivery, SnapshotFields } from '../queue.ts'
import type { Job, Jobs } from './jobs.ts'
import { textOf } from './ordering.ts'
import type { Database, Transaction } from './session.ts'
import { keepSnapshots } from './snapshots.ts'

/** The result of a run. */
interface End {
  readonly delivery: Delivery
  /** The job of the claim. The end counts only if the delivery still has this job. */
  readonly job: string
  readonly how: 'done' | 'dead' | 'retry' | 'postponed' | 'released'
  /** Milliseconds until the delivery is due, if it waits. */
  readonly delay?: number
  readonly error?: string
  /** See `Retry`. */
  readonly spentMs?: number
  readonly alone?: boolean
  /** See `Queue`. */
  readonly snapshot?: SnapshotFields | null | undefined
}

export interface EnderDeps {
  readonly database: Database
  readonly jobs: Jobs
  /** The claims of this process. A claim is removed when its run ends. */
  readonly held: Map<number, Job>
  readonly worker: string
  readonly at: () => number | null
  readonly log: Logger
}

export interface Ender {
  end(delivery: Delivery, how: Omit<End, 'delivery' | 'job'>): Promise<void>
  /** Resolves when all ends are written. */
  idle(): Promise<void>
}

/** Ends per transaction. Each takes the lock of its ordering key. */
const most = 256

/** Ends that arrive during a write go into the next write. */
export function createEnder({ database, jobs, held, worker, at, log }: EnderDeps): Ender {
  let writing: Promise<void> | undefined
  let pending: (End & { readonly deferred: PromiseWithResolvers<void> })[] = []

  async function write(): Promise<void> {
    while (pending.length > 0) {
      // Ends of the same event loop turn share a transaction.
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
        for (const { delivery, deferred } of ends) {
          const { key, handler, event } = delivery
          held.delete(key)
          if (!ours.has(key))
            log.warn({ handler, id: event.id }, 'another worker has this delivery: this run does not count')
          deferred.resolve()
        }
      } catch (error) {
        for (const { deferred } of ends) deferred.reject(error)
      }
    }
    writing = undefined
  }

  return {
    end(delivery, how) {
      const claim = held.get(delivery.key)
      if (claim === undefined) return Promise.resolve()
      const deferred = Promise.withResolvers<void>()
      pending.push({ delivery, job: claim.id, ...how, deferred })
      writing ??= write()
      return deferred.promise
    },
    idle: async () => writing,
  }
}

interface EndDeps {
  readonly ends: readonly End[]
  readonly jobs: Jobs
  readonly worker: string
  readonly at: number | null
}

/** Ends runs, and unblocks the deliveries behind them. Returns the keys of the runs that were still ours. */
async function endRuns(transaction: Transaction, { ends, jobs, worker, at }: EndDeps): Promise<ReadonlySet<number>> {
  const rows = ends.map(({ delivery, job, how, delay = null, error, alone = false }) => ({
    key: delivery.key,
    job,
    how,
    delay,
    alone,
    error: error === undefined ? null : textOf(boundError(error)),
    attempt: delivery.attempt,
    handler: textOf(delivery.handler),
    ordering_key: orderingKeyOf(delivery.event),
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
  await keepSnapshots(
    transaction,
    ends.flatMap(({ delivery, snapshot }) =>
      ours.has(delivery.key) && snapshot !== undefined ? [{ about: delivery, snapshot }] : [],
    ),
  )
  await jobs.issue(
    transaction,
    changed.filter(({ job }) => job !== null),
  )
  return ours
}

/**
 * Does what `end_runs` cannot: workers of an older version call that function too. Few runs fail, so the extra
 * statements are rare.
 */
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
  const many = ends.filter(({ delivery, error }) => error !== undefined && delivery.attempt > maxFailures)
  if (many.length > 0)
    await transaction.query(
      `DELETE FROM b24_receiver.failure AS one USING unnest($1::bigint[], $2::integer[]) AS told (key, last)
       WHERE one.delivery = told.key AND one.attempt <= told.last`,
      [many.map(({ delivery }) => delivery.key), many.map(({ delivery }) => delivery.attempt - maxFailures)],
    )
}
