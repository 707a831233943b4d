import { forgiven, type LoopBreaker, throttledUntil, unwatched, type Watched, watchRun } from '../loop-breaker.ts'
import { lockOrderingKeys, textOf } from './ordering.ts'
import type { Database, Row } from './session.ts'

/** A loop breaker that counts the runs of all workers. */
export function openPgLoopBreaker({
  database,
  now = Date.now,
}: {
  readonly database: Database
  readonly now?: () => number
}): LoopBreaker {
  return {
    wrote: (key) =>
      database.persist(() =>
        database.transaction(async (transaction) => {
          await lockOrderingKeys(transaction, [{ handler: 'loop', orderingKey: key }])
          const at = now()
          const [row] = await transaction.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)])
          const { watched, hold } = watchRun(toWatched(row), at)
          await transaction.query(
            `INSERT INTO b24_receiver.loop (key, runs, level, throttled_at, until, seen_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (key) DO UPDATE SET runs = excluded.runs, level = excluded.level,
               throttled_at = excluded.throttled_at, until = excluded.until, seen_at = excluded.seen_at`,
            [textOf(key), watched.runs, watched.level, watched.throttledAt, watched.until, at],
          )
          await transaction.query('DELETE FROM b24_receiver.loop WHERE seen_at < $1 AND until < $1', [at - forgiven])
          return hold
        }),
      ),
    async throttledUntil(key) {
      const [row] = await database.persist(() =>
        database.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)]),
      )
      return row && throttledUntil(toWatched(row), now())
    },
  }
}

function toWatched(row: Row | undefined): Watched {
  if (row === undefined) return unwatched
  return {
    runs: Array.isArray(row['runs']) ? row['runs'].map(Number) : [],
    level: Number(row['level']),
    throttledAt: Number(row['throttled_at']),
    until: Number(row['until']),
  }
}
