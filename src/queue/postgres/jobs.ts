import type { Row } from '../delivery-row.ts'
import type { Database, Transaction } from './session.ts'

/** The place of a job in pg-boss. */
interface Address {
  readonly queue: string
  readonly id: string
}

/** A claim on a delivery: a job of pg-boss that is ours until we end it or our heartbeat stops. */
export interface Job extends Address {
  /** pg-boss counts the fetches of a job. A later fetch belongs to another claim. */
  readonly retryCount: number
  /** The delivery's key. */
  readonly key: number
}

/** A job whose heartbeat stopped. */
export interface LapsedJob extends Job {
  /** The job's former queue and id. */
  readonly lapsed: Address
}

/** How many jobs of a handler to take. */
export interface Take {
  readonly handler: string
  readonly count: number
  readonly quarantined?: boolean
}

export type Jobs = ReturnType<typeof createJobs>

/**
 * The queue into which pg-boss moves lapsed jobs. No handler's file can have this name, because it begins with a dot.
 */
const lapsedQueue = '.lapsed'

/**
 * Seconds. pg-boss lets every job expire. Here a run ends by its own timeout, and a pending delivery is never dropped.
 */
const tenYears = 315_360_000

/** A job of a dead process must not get lost if the next process dies with it. */
const countless = 1_000_000

/**
 * The oldest delivery comes first, even if it was ready before. Quarantined deliveries have a priority above 0, the
 * others do not. A priority has 32 bits, so once in a thousand million deliveries new ones go before old ones of other
 * objects.
 */
function priorityOf(key: number, isQuarantined: boolean): number {
  const rank = key % 2 ** 30
  return isQuarantined ? 2 ** 30 - rank : -rank
}

/**
 * Jobs are leases: one for each delivery that is ready or runs, in one queue per handler. pg-boss gives a job to
 * exactly one process, and takes it away when that process is dead. A delivery that waits behind another, for its retry
 * or for quiet has no job.
 *
 * @param heartbeat milliseconds without a heartbeat after which a process counts as dead
 */
export function createJobs({ boss }: Database, heartbeat: number) {
  const known = new Map<string, Promise<unknown>>()

  /** A handler may have any name, but a queue of pg-boss may not. */
  const nameOf = (handler: string) =>
    handler.replaceAll(/[^\w.-]/gu, (character) => `/${character.codePointAt(0)?.toString(16)}/`)

  /** Creates the queue once, and caches the result. */
  async function ensure(queue: string): Promise<string> {
    let made = known.get(queue)
    if (made === undefined) {
      made = make(queue)
      known.set(queue, made)
      made.catch(() => known.delete(queue))
    }
    await made
    return queue
  }

  async function make(queue: string): Promise<void> {
    if (queue === lapsedQueue)
      return boss.createQueue(queue, {
        policy: 'standard',
        retryLimit: countless,
        heartbeatSeconds: Math.max(10, Math.ceil(heartbeat / 1_000)),
        expireInSeconds: 86_400,
        retentionSeconds: tenYears,
      })
    await ensure(lapsedQueue)
    await boss.createQueue(queue, { policy: 'standard' })
  }

  return {
    /** @param ready rows of the statement that made the deliveries ready: `handler`, `key`, `job` and `quarantined` */
    async issue(transaction: Transaction, ready: readonly Row[]): Promise<void> {
      for (const [handler, rows] of Map.groupBy(ready, ({ handler }) => String(handler))) {
        const queue = await ensure(nameOf(handler))
        const jobs = rows.map(({ key, job, quarantined }) => ({
          id: String(job),
          data: { key: Number(key) },
          priority: priorityOf(Number(key), quarantined === true),
          // The queue retries deliveries itself, so pg-boss must not.
          retryLimit: 0,
          deadLetter: lapsedQueue,
          heartbeatSeconds: Math.ceil(heartbeat / 1_000),
          expireInSeconds: tenYears,
          retentionSeconds: tenYears,
        }))
        await boss.insert(queue, jobs, { db: transaction.db })
      }
    },
    async take(transaction: Transaction, { handler, count, quarantined = false }: Take): Promise<Job[]> {
      const queue = await ensure(nameOf(handler))
      const which = quarantined ? { minPriority: 1 } : { maxPriority: 0 }
      const jobs = await boss.fetch<{ key: number }>(queue, { ...which, batchSize: count, db: transaction.db })
      return jobs.map(({ id, retryCount, data }) => ({ queue, id, retryCount, key: data.key }))
    },
    async takeLapsed(transaction: Transaction): Promise<LapsedJob | undefined> {
      const queue = await ensure(lapsedQueue)
      const [job] = await boss.fetch<{ key: number }>(queue, { includeMetadata: true, db: transaction.db })
      if (job === undefined) return undefined
      const { id, retryCount, data, sourceName, sourceId } = job
      return {
        queue,
        id,
        retryCount,
        key: data.key,
        lapsed: { queue: String(sourceName), id: String(sourceId) },
      }
    },
    /** Makes the job available to the next process that asks. */
    async putBack(transaction: Transaction, { queue, id, retryCount }: LapsedJob): Promise<void> {
      await boss.fail(queue, { id, retryCount }, null, { db: transaction.db })
    },
    /** Whether a process that is not known to be dead has one of these jobs. */
    async areActive(transaction: Transaction, jobs: readonly Address[]): Promise<boolean> {
      for (const { queue, id } of jobs) {
        const [job] = await boss.findJobs(await ensure(queue), { id, db: transaction.db })
        if (job?.state === 'active') return true
      }
      return false
    },
    async remove(transaction: Transaction, jobs: readonly Address[]): Promise<void> {
      for (const [queue, ofQueue] of Map.groupBy(jobs, ({ queue }) => queue))
        await boss.deleteJob(
          await ensure(queue),
          ofQueue.map(({ id }) => id),
          { db: transaction.db },
        )
    },
    /** The place of the job of a delivery that is ready or runs. */
    addressOf: (handler: string, id: string): Address => ({ queue: nameOf(handler), id }),
    /** Keeps the jobs from lapsing. */
    async beat(jobs: readonly Job[]): Promise<void> {
      for (const [queue, ofQueue] of Map.groupBy(jobs, ({ queue }) => queue))
        await boss.touch(
          queue,
          ofQueue.map(({ id, retryCount }) => ({ id, retryCount })),
        )
    },
    /** Takes jobs away from processes without a heartbeat. */
    lapse: (): Promise<void> => boss.supervise(),
  }
}
