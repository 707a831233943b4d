import { setImmediate as tick } from 'node:timers/promises'
import type { Logger } from 'pino'
import { orderingKeyOf } from '../../events/ordering-key.ts'
import { maxFailures } from '../../lib/error-text.ts'
import type { End } from '../end.ts'
import type { Delivery } from '../queue.ts'
import { textOf } from '../stored.ts'
import type { Job, Jobs } from './jobs.ts'
import type { Database, Transaction } from './session.ts'
import { keepSnapshots } from './snapshots.ts'

interface RunEnd extends End {
  readonly delivery: Delivery
  /** The job of the claim. The end counts only if the delivery still has this job. */
  readonly job: string
  /** Milliseconds until the delivery is due, if it waits. */
  readonly delay: number | null
  readonly deferred: PromiseWithResolvers<void>
}

export interface EnderDeps {
  readonly database: Database
  readonly jobs: Jobs
  /** The claims of this process. A claim is removed when its run ends. */
  readonly held: Map<number, Job>
  readonly worker: string
  readonly at: () => number | null
  /** The clock of this process. */
  readonly local: () => number
  readonly log: Logger
}

/** Ends per transaction. Each takes the lock of its ordering key. */
const maxPerTransaction = 256

/** Ends that arrive during a write go into the next write. */
export function createEnder(deps: EnderDeps) {
  const { database, jobs, held, local, log } = deps
  let writing: Promise<void> | undefined
  let pending: RunEnd[] = []

  async function write(): Promise<void> {
    while (pending.length > 0) {
      // Ends of the same event loop turn share a transaction.
      await tick()
      const ends = pending.slice(0, maxPerTransaction)
      pending = pending.slice(maxPerTransaction)
      const mine = ends.flatMap(({ delivery: { key } }) => held.get(key) ?? [])
      try {
        const ours = await database.persistent.transaction(async (transaction) => {
          const ended = await endRuns(transaction, ends, deps)
          await jobs.remove(
            transaction,
            mine.filter(({ key }) => ended.has(key)),
          )
          return ended
        })
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
    end(delivery: Delivery, end: End): Promise<void> {
      const claim = held.get(delivery.key)
      if (claim === undefined) return Promise.resolve()
      const deferred = Promise.withResolvers<void>()
      const delay = end.due === undefined ? null : Math.round(end.due - local())
      pending.push({ ...end, delivery, job: claim.id, delay, deferred })
      writing ??= write()
      return deferred.promise
    },
    /** Resolves when all ends are written. */
    idle: async (): Promise<void> => writing,
  }
}

/** Ends runs, and unblocks the deliveries behind them. Returns the keys of the runs that were still ours. */
async function endRuns(
  transaction: Transaction,
  ends: readonly RunEnd[],
  { jobs, worker, at }: EnderDeps,
): Promise<ReadonlySet<number>> {
  const rows = ends.map(({ delivery, job, how, delay, error, alone = false }) => ({
    key: delivery.key,
    job,
    how,
    delay,
    alone,
    error: error === undefined ? null : textOf(error),
    attempt: delivery.attempt,
    handler: textOf(delivery.handler),
    ordering_key: orderingKeyOf(delivery.event),
  }))
  const changed = await transaction.query('SELECT * FROM b24_receiver.end_runs($1, $2, $3)', [
    JSON.stringify(rows),
    worker,
    at(),
  ])
  const ours = new Set(changed.filter(({ ended }) => ended === true).map(({ key }) => Number(key)))
  const ended = ends.filter(({ delivery }) => ours.has(delivery.key))
  await noteFailures(transaction, ended)
  await keepSnapshots(
    transaction,
    ended.flatMap(({ delivery: about, snapshot }) => (snapshot === undefined ? [] : [{ about, snapshot }])),
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
async function noteFailures(transaction: Transaction, ends: readonly RunEnd[]): Promise<void> {
  const spent = ends.filter(({ spentMs }) => spentMs !== undefined)
  if (spent.length > 0)
    await transaction.query(
      `UPDATE b24_receiver.delivery AS one SET spent_ms = ended.spent
       FROM unnest($1::bigint[], $2::bigint[]) AS ended (key, spent) WHERE one.key = ended.key`,
      [spent.map(({ delivery }) => delivery.key), spent.map(({ spentMs }) => spentMs)],
    )
  const many = ends.filter(({ delivery, error }) => error !== undefined && delivery.attempt > maxFailures)
  if (many.length > 0)
    await transaction.query(
      `DELETE FROM b24_receiver.failure AS one USING unnest($1::bigint[], $2::integer[]) AS ended (key, last)
       WHERE one.delivery = ended.key AND one.attempt <= ended.last`,
      [many.map(({ delivery }) => delivery.key), many.map(({ delivery }) => delivery.attempt - maxFailures)],
    )
}
