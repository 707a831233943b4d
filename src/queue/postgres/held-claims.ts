import type { Logger } from 'pino'
import { type Database, monitorInterval, type Row, type Transaction } from './database.ts'
import type { Job, Jobs } from './jobs.ts'

export interface ClaimsParts {
  readonly database: Database
  readonly jobs: Jobs
  /** This process. */
  readonly worker: string
  /** Milliseconds without a sign after which a process counts as dead. */
  readonly heartbeat: number
  readonly log: Logger
}

/** A claim, and whether it is of one that runs alone. */
export interface Claim extends Job {
  readonly suspect: boolean
}

/** What this process has claimed, and the heart that beats for it. */
export interface Claims {
  readonly held: Map<number, Claim>
  /** Begins to beat, and to look whether others do; then it calls back. */
  start(looked: () => void): void
  /**
   * One that a process ran alone when it died is given, claimed by us; of several each is ready again, as a suspect.
   * `undefined` when nobody died, or nobody else.
   */
  takeOver(transaction: Transaction): Promise<Row | undefined>
  /** Gives back what we were given and do not know of, because the answer was lost. */
  reconcile(transaction: Transaction): Promise<void>
  stop(): void
}

/** Milliseconds. */
const beatInterval = 2_000

/** So often must our own heart have been heard before we say of another that it was not: the database was there for all. */
const certainBeats = 3

export function createClaims({ database, jobs, worker, heartbeat, log }: ClaimsParts): Claims {
  const held = new Map<number, Claim>()
  let timer: NodeJS.Timeout | undefined
  let beats = 0
  let lookedAt = 0

  async function beat(looked: () => void): Promise<void> {
    try {
      await jobs.beat([...held.values()])
      // After its own start, too, nobody has had time to say that he is alive.
      const [database_] = await database.query(
        "SELECT pg_postmaster_start_time() < now() - $1 * interval '1 millisecond' AS settled",
        [heartbeat],
      )
      beats++
      const now = performance.now()
      if (beats < certainBeats || database_?.['settled'] !== true || now - lookedAt < monitorInterval) return
      lookedAt = now
      await jobs.lapse()
      looked()
    } catch (error) {
      // Whoever needs the database now says so; what could not be said now is said in a moment.
      beats = 0
      log.debug({ err: error }, 'no heartbeat')
    }
  }

  /** Of a process that is dead. */
  const runningOf = (transaction: Transaction, dead: string) =>
    transaction.query(
      `SELECT key, handler, job, coalesced, attempts, event, first_run_at FROM b24_receiver.delivery
       WHERE worker = $1 AND state = 'running' AND key <> ALL($2::bigint[]) ORDER BY key FOR UPDATE`,
      [dead, dead === worker ? [...held.keys()] : []],
    )

  /** They are ready again, and their attempts were none. */
  async function giveBack(transaction: Transaction, rows: readonly Row[], suspect: boolean): Promise<void> {
    const ready = await transaction.query(
      `UPDATE b24_receiver.delivery
       SET state = 'ready', attempts = attempts - 1, suspect = $2, worker = NULL, job = gen_random_uuid()
       WHERE key = ANY($1::bigint[]) RETURNING handler, key, job, suspect`,
      [rows.map(({ key }) => key), suspect],
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
       RETURNING key, handler, event, attempts, coalesced, suspect, job, spent_ms`,
      [row['key'], worker, job.id],
    )
    held.set(job.key, { ...job, suspect: true })
    return mine
  }

  return {
    held,
    start(looked) {
      let last = Promise.resolve()
      timer = setInterval(() => {
        last = last.then(() => beat(looked))
      }, beatInterval)
    },
    async takeOver(transaction) {
      // Ours by name, and we do not know of them: the process before this one was called the same.
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
          // By its own id where it was taken over by this job, and whoever took it died, too.
          `SELECT worker FROM b24_receiver.delivery WHERE key = $1 AND job IN ($2, $3) AND state = 'running'`,
          [job.key, job.lapsed.id, job.id],
        )
        const dead = row?.['worker']
        const ours = held.get(job.key)
        if (typeof dead !== 'string') await jobs.remove(transaction, [job])
        else if (dead === worker && ours) {
          // We were taken for dead, and it still runs here.
          await adopt(transaction, { key: job.key }, job)
          held.set(job.key, { ...job, suspect: ours.suspect })
        } else {
          const all = await runningOf(transaction, dead)
          const others = all.filter(({ key }) => Number(key) !== job.key)
          const beating = others.map((one) => jobs.addressOf(String(one['handler']), String(one['job'])))
          if (await jobs.areActive(transaction, beating)) {
            // All of a dead process stop together, within a few seconds. One that lives gives back what it does not know of.
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
    async reconcile(transaction) {
      const unknown = await runningOf(transaction, worker)
      if (unknown.length > 0) await giveBack(transaction, unknown, false)
    },
    stop() {
      clearInterval(timer)
    },
  }
}
