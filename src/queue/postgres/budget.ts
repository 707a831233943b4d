import type { Logger } from 'pino'
import { type Budget, type BudgetDeps, createBudget } from '../../bitrix24/budget.ts'
import { orAborted } from '../../lib/clock.ts'
import type { Row } from '../delivery-row.ts'
import type { Database } from './session.ts'

export interface PgBudgetDeps extends BudgetDeps {
  readonly database: Database
  /** The portal's host. */
  readonly portal: string
  readonly log: Logger
  /** Unix milliseconds, for tests. By default the database supplies the time. */
  readonly now?: () => number
}

/** Requests that may be sent in `ms` milliseconds. */
interface Turns {
  readonly count: number
  readonly ms: number
}

/** Milliseconds to wait for the database, and then to go without it. */
const databaseTimeoutMs = 5_000

/** Milliseconds. A bucket that is closed for longer was closed before the clock was put back. */
const maxPenaltyMs = 10_000

/**
 * One leaky bucket in Postgres for each portal and all workers, see docs/decisions/0016-one-limit-for-all-workers.md.
 * One statement asks for the turns of all requests that wait in this process. If no turn is free, the statement
 * reserves a later one. So no process asks twice, and workers take turns.
 *
 * A request with a turn also passes the bucket of this process, which is never fuller than the shared one. It is the
 * only limit while the database cannot be asked.
 */
export function openPgBudget({ database, portal, log, now, ...own }: PgBudgetDeps): Budget {
  const { rate, burst, clock } = own
  const local = createBudget(own)
  const at = () => now?.() ?? null
  const waiting: PromiseWithResolvers<void>[] = []
  let isServing = false
  let isAlone = false
  let aloneUntil = clock.now()

  async function serve(): Promise<void> {
    isServing = true
    while (waiting.length > 0) {
      const { count, ms } = await takeTurns(waiting.length)
      if (ms > 0) await clock.sleep(ms, undefined)
      for (const turn of waiting.splice(0, count)) turn.resolve()
    }
    isServing = false
  }

  async function takeTurns(count: number): Promise<Turns> {
    if (clock.now() < aloneUntil) return { count, ms: 0 }
    try {
      const turns = await orAborted(askForTurns(count), AbortSignal.timeout(databaseTimeoutMs))
      isAlone = false
      return turns
    } catch (error) {
      if (!isAlone) {
        log.warn({ portal, err: error }, 'the limit of all workers cannot be kept; this one keeps to one of its own')
        // The share of the burst that other workers have used is unknown.
        local.penalise(0)
      }
      isAlone = true
      aloneUntil = clock.now() + databaseTimeoutMs
      return { count, ms: 0 }
    }
  }

  async function askForTurns(count: number): Promise<Turns> {
    const update = () =>
      database.query(
        `WITH found AS (
           SELECT level, least(leaked_at, asked_at + $6) AS leaked_at, asked_at
           FROM b24_receiver.budget CROSS JOIN b24_receiver.at($5) AS asked_at
           WHERE portal = $1 FOR UPDATE OF budget
         ),
         leaked AS (
           SELECT greatest(0, level - greatest(0, asked_at - leaked_at) * $3::double precision / 1000) AS level,
             greatest(leaked_at, asked_at) AS leaked_at, asked_at
           FROM found
         ),
         given AS (SELECT *, least($2, greatest(1, floor($4 - level))) AS count FROM leaked)
         UPDATE b24_receiver.budget AS budget
         SET level = given.level + given.count, leaked_at = given.leaked_at
         FROM given WHERE portal = $1
         RETURNING given.count,
           greatest(0, budget.level - $4) * 1000 / $3::double precision + budget.leaked_at - given.asked_at AS ms`,
        [portal, count, rate, burst, at(), maxPenaltyMs],
      )
    const turns = readTurns(await update())
    if (turns) return turns
    await database.query(
      'INSERT INTO b24_receiver.budget (portal, level, leaked_at) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING',
      [portal],
    )
    return readTurns(await update()) ?? { count, ms: 0 }
  }

  async function penaliseAll(ms: number): Promise<void> {
    if (clock.now() < aloneUntil) return
    await database.query(
      `UPDATE b24_receiver.budget SET level = greatest(level, $2),
         leaked_at = greatest(leaked_at, b24_receiver.at($3) + $4) WHERE portal = $1`,
      [portal, burst, at(), ms],
    )
  }

  return {
    async take(signal) {
      signal?.throwIfAborted()
      const turn = Promise.withResolvers<void>()
      waiting.push(turn)
      if (!isServing) void serve()
      try {
        await orAborted(turn.promise, signal)
      } finally {
        // Another request gets the turn of a cancelled one.
        if (waiting.includes(turn)) waiting.splice(waiting.indexOf(turn), 1)
      }
      await local.take(signal)
    },
    penalise(ms) {
      local.penalise(ms)
      // The portal will refuse the other workers too.
      penaliseAll(ms).catch((error: unknown) =>
        log.debug({ portal, err: error }, 'the others do not know of the penalty'),
      )
    },
    get waiting() {
      return waiting.length + local.waiting
    },
  }
}

function readTurns([row]: readonly Row[]): Turns | undefined {
  // A timer has whole milliseconds, and less than a thousandth of one is a rounding error.
  return row && { count: Number(row['count']), ms: Math.ceil(Number(row['ms']) - 0.001) }
}
