import type { Database, Row, Transaction } from './database.ts'

/** In pg-boss. */
interface Address {
  readonly queue: string
  readonly id: string
}

/** A claim on a delivery: a job of pg-boss that is ours until we end it, or our heart stops beating. */
export interface Job extends Address {
  /** pg-boss counts the fetches of a job: the next one's is not ours. */
  readonly retryCount: number
  /** The delivery's. */
  readonly key: number
}

/** A job whose heart stopped beating. */
export interface LapsedJob extends Job {
  /** Where it was before, and under which id. */
  readonly lapsed: Address
}

/**
 * Jobs are tickets: one for each delivery that may run, in a queue for each handler. pg-boss gives each to one process
 * alone, and takes it away when that is dead; what waits behind another, for its retry or for quiet has none.
 */
export interface Jobs {
  /** @param ready of a statement that made them so: `handler`, `key`, `job` and `suspect` */
  issue(transaction: Transaction, ready: readonly Row[]): Promise<void>
  take(transaction: Transaction, wanted: { handler: string; count: number; suspect?: boolean }): Promise<Job[]>
  takeLapsed(transaction: Transaction): Promise<LapsedJob | undefined>
  /** It is there again, for whoever takes it next. */
  putBack(transaction: Transaction, job: LapsedJob): Promise<void>
  /** Some process has them, and was not found dead. */
  areActive(transaction: Transaction, jobs: readonly Address[]): Promise<boolean>
  remove(transaction: Transaction, jobs: readonly Address[]): Promise<void>
  /** Where the job of a delivery is that is ready or runs. */
  addressOf(handler: string, id: string): Address
  /** They are not lapsed. */
  beat(jobs: readonly Job[]): Promise<void>
  /** Takes away the jobs of those that do not beat. */
  lapse(): Promise<void>
}

/** Where pg-boss puts what it takes away. No file is called so: it would begin with a dot. */
const lapsedQueue = '.lapsed'

/** Seconds. For pg-boss everything ends some day; for us a run ends by its own time, and what is owed is never dropped. */
const tenYears = 315_360_000

/** A job that was given back because its process died is not lost when the next one dies with it. */
const countless = 1_000_000

/**
 * The oldest first, however often it was ready before; suspects above 0, the others not. A priority has 32 bits, so that
 * once in a thousand million deliveries new ones go before old ones, of other objects.
 */
function priorityOf(key: number, isSuspect: boolean): number {
  const rank = key % 2 ** 30
  return isSuspect ? 2 ** 30 - rank : -rank
}

/** @param heartbeat milliseconds without a sign after which a process counts as dead */
export function createJobs({ boss }: Database, heartbeat: number): Jobs {
  const known = new Map<string, Promise<unknown>>()

  /** A handler may be called anything, a queue of pg-boss not. */
  const nameOf = (handler: string) =>
    handler.replaceAll(/[^\w.-]/gu, (character) => `/${character.codePointAt(0)?.toString(16)}/`)

  /** A queue exists when it is told so; the first answer is kept. */
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
    async issue(transaction, ready) {
      for (const [handler, rows] of Map.groupBy(ready, ({ handler }) => String(handler))) {
        const queue = await ensure(nameOf(handler))
        const jobs = rows.map(({ key, job, suspect }) => ({
          id: String(job),
          data: { key: Number(key) },
          priority: priorityOf(Number(key), suspect === true),
          // It is not pg-boss that tries again.
          retryLimit: 0,
          deadLetter: lapsedQueue,
          heartbeatSeconds: Math.ceil(heartbeat / 1_000),
          expireInSeconds: tenYears,
          retentionSeconds: tenYears,
        }))
        await boss.insert(queue, jobs, { db: transaction.db })
      }
    },
    async take(transaction, { handler, count, suspect = false }) {
      const queue = await ensure(nameOf(handler))
      const which = suspect ? { minPriority: 1 } : { maxPriority: 0 }
      const jobs = await boss.fetch<{ key: number }>(queue, { ...which, batchSize: count, db: transaction.db })
      return jobs.map(({ id, retryCount, data }) => ({ queue, id, retryCount, key: data.key }))
    },
    async takeLapsed(transaction) {
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
    async putBack(transaction, { queue, id, retryCount }) {
      await boss.fail(queue, { id, retryCount }, null, { db: transaction.db })
    },
    async areActive(transaction, jobs) {
      for (const { queue, id } of jobs) {
        const [job] = await boss.findJobs(await ensure(queue), { id, db: transaction.db })
        if (job?.state === 'active') return true
      }
      return false
    },
    async remove(transaction, jobs) {
      for (const [queue, ofQueue] of Map.groupBy(jobs, ({ queue }) => queue))
        await boss.deleteJob(
          await ensure(queue),
          ofQueue.map(({ id }) => id),
          { db: transaction.db },
        )
    },
    addressOf: (handler, id) => ({ queue: nameOf(handler), id }),
    async beat(jobs) {
      for (const [queue, ofQueue] of Map.groupBy(jobs, ({ queue }) => queue))
        await boss.touch(
          queue,
          ofQueue.map(({ id, retryCount }) => ({ id, retryCount })),
        )
    },
    lapse: () => boss.supervise(),
  }
}
