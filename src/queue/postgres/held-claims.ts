import type { Logger } from 'pino'
import type { Row } from '../delivery-row.ts'
import { monitorInterval } from './database.ts'
import type { Job, Jobs } from './jobs.ts'
import type { Database, Transaction } from './session.ts'

export interface ClaimsDeps {
  readonly database: Database
  readonly jobs: Jobs
  /** The id of this process. */
  readonly worker: string
  /** Milliseconds without a heartbeat after which a process counts as dead. */
  readonly heartbeat: number
  readonly log: Logger
}

/** A claim, and whether its delivery runs in isolation. */
export interface Claim extends Job {
  readonly quarantined: boolean
}

/** Milliseconds. */
const beatInterval = 2_000

/**
 * How many heartbeats in a row must succeed before this process declares another one dead. They show that the database
 * was there for all processes.
 */
const certainBeats = 3

/** The claims of this process, and their heartbeat. */
export function createClaims({ database, jobs, worker, heartbeat, log }: ClaimsDeps) {
  const held = new Map<number, Claim>()
  let timer: NodeJS.Timeout | undefined
  let beats = 0
  let checkedAt = 0

  async function beat(onChecked: () => void): Promise<void> {
    try {
      await jobs.beat([...held.values()])
      // After a start of the database, the other processes need time for a heartbeat.
      const [server] = await database.query(
        "SELECT pg_postmaster_start_time() < now() - $1 * interval '1 millisecond' AS is_up",
        [heartbeat],
      )
      beats++
      const now = performance.now()
      if (beats < certainBeats || server?.['is_up'] !== true || now - checkedAt < monitorInterval) return
      checkedAt = now
      await jobs.lapse()
      onChecked()
    } catch (error) {
      // Calls that need the database report the error themselves. The next heartbeat follows soon.
      beats = 0
      log.debug({ err: error }, 'no heartbeat')
    }
  }

  /** The running deliveries of a dead process. */
  const runningOf = (transaction: Transaction, dead: string) =>
    transaction.query(
      `SELECT key, handler, job, coalesced, attempts, event, first_run_at FROM b24_receiver.delivery
       WHERE worker = $1 AND state = 'running' AND key <> ALL($2::bigint[]) ORDER BY key FOR UPDATE`,
      [dead, dead === worker ? [...held.keys()] : []],
    )

  /** Makes the deliveries ready again, and does not count their attempts. */
  async function giveBack(transaction: Transaction, rows: readonly Row[], quarantined: boolean): Promise<void> {
    const ready = await transaction.query(
      `UPDATE b24_receiver.delivery
       SET state = 'ready', attempts = attempts - 1, quarantined = $2, worker = NULL, job = gen_random_uuid()
       WHERE key = ANY($1::bigint[]) RETURNING handler, key, job, quarantined`,
      [rows.map(({ key }) => key), quarantined],
    )
    await jobs.remove(
      transaction,
      rows.map((row) => jobs.addressOf(String(row['handler']), String(row['job']))),
    )
    await jobs.issue(transaction, ready)
  }

  async function adopt(transaction: Transaction, row: Row, job: Job): Promise<Row | undefined> {
    const [mine] = await transaction.query(
      `UPDATE b24_receiver.delivery SET worker = $2, job = $3 WHERE key = $1
       RETURNING key, handler, event, attempts, coalesced, quarantined, job, spent_ms`,
      [row['key'], worker, job.id],
    )
    held.set(job.key, { ...job, quarantined: true })
    return mine
  }

  return {
    held,
    /** Starts the heartbeat and the search for dead processes. Calls back after each search. */
    start(onChecked: () => void): void {
      let last = Promise.resolve()
      timer = setInterval(() => {
        last = last.then(() => beat(onChecked))
      }, beatInterval)
    },
    /**
     * Takes over the deliveries of a dead process. If the process ran only one, this process claims and returns it. If
     * it ran several, each is ready again and quarantined. Returns `undefined` if no other process died.
     */
    async takeOver(transaction: Transaction): Promise<Row | undefined> {
      // Running deliveries with our name that we do not know of belong to the previous process of this name.
      const before = await runningOf(transaction, worker)
      const [only] = before
      if (only && before.length === 1) {
        const address = jobs.addressOf(String(only['handler']), String(only['job']))
        return adopt(transaction, only, { ...address, retryCount: 0, key: Number(only['key']) })
      }
      if (before.length > 1) await giveBack(transaction, before, true)
      for (;;) {
        const job = await jobs.takeLapsed(transaction)
        if (job === undefined) return undefined
        await jobs.remove(transaction, [job.lapsed])
        const [row] = await transaction.query(
          // The row has `job.id` if another process took the delivery over with this job and then died too.
          `SELECT worker FROM b24_receiver.delivery WHERE key = $1 AND job IN ($2, $3) AND state = 'running'`,
          [job.key, job.lapsed.id, job.id],
        )
        const dead = row?.['worker']
        const ours = held.get(job.key)
        if (typeof dead !== 'string') await jobs.remove(transaction, [job])
        else if (dead === worker && ours) {
          // Others took this process for dead, but the delivery still runs here.
          await adopt(transaction, { key: job.key }, job)
          held.set(job.key, { ...job, quarantined: ours.quarantined })
        } else {
          const all = await runningOf(transaction, dead)
          const others = all.filter(({ key }) => Number(key) !== job.key)
          const beating = others.map((one) => jobs.addressOf(String(one['handler']), String(one['job'])))
          if (await jobs.areActive(transaction, beating)) {
            // The heartbeats of a dead process stop within a few seconds of each other. A live process releases the
            // deliveries that it does not know of.
            await jobs.putBack(transaction, job)
            return undefined
          }
          log.warn({ worker: dead, running: all.length }, 'a worker is gone; others run what it ran')
          const [one] = all
          if (one && all.length === 1) return adopt(transaction, one, job)
          await giveBack(transaction, all, dead !== worker)
          await jobs.remove(transaction, [job])
        }
      }
    },
    /** Releases claims that this process does not know of because the answer was lost. */
    async reconcile(transaction: Transaction): Promise<void> {
      const unknown = await runningOf(transaction, worker)
      if (unknown.length > 0) await giveBack(transaction, unknown, false)
    },
    stop(): void {
      clearInterval(timer)
    },
  }
}
