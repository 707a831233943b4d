import type { Row } from '../delivery-row.ts'
import { forgivenMs, type LoopBreaker, throttledUntil, unwatched, type Watched, watchRun } from '../loop-breaker.ts'
import { textOf } from '../stored.ts'
import { lockOrderingKeys } from './ordering.ts'
import type { Database } from './session.ts'

export interface PgLoopBreakerDeps {
  readonly database: Pick<Database, 'persistent'>
  readonly now?: () => number
}

/** A loop breaker that counts the runs of all workers. */
export function openPgLoopBreaker({ database: { persistent }, now = Date.now }: PgLoopBreakerDeps): LoopBreaker {
  return {
    wrote: (key) =>
      persistent.transaction(async (transaction) => {
        await lockOrderingKeys(transaction, [{ handler: 'loop', orderingKey: key }])
        const at = now()
        const [row] = await transaction.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)])
        const { watched, hold } = watchRun(row ? toWatched(row) : unwatched, at)
        await transaction.query(
          `INSERT INTO b24_receiver.loop (key, runs, level, throttled_at, until, seen_at) VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (key) DO UPDATE SET runs = excluded.runs, level = excluded.level,
             throttled_at = excluded.throttled_at, until = excluded.until, seen_at = excluded.seen_at`,
          [textOf(key), watched.runs, watched.level, watched.throttledAt, watched.until, at],
        )
        await transaction.query('DELETE FROM b24_receiver.loop WHERE seen_at < $1 AND until < $1', [at - forgivenMs])
        return hold
      }),
    async throttledUntil(key) {
      const [row] = await persistent.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)])
      return row && throttledUntil(toWatched(row), now())
    },
  }
}

function toWatched({ runs, level, throttled_at: throttledAt, until }: Row): Watched {
  return {
    runs: Array.isArray(runs) ? runs.map(Number) : [],
    level: Number(level),
    throttledAt: Number(throttledAt),
    until: Number(until),
  }
}
