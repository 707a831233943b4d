import { forgiven, heldUntil, type LoopBreaker, unwatched, type Watched, watchRun } from '../loop-breaker.ts'
import type { Database, Row } from './database.ts'
import { lockLanes, textOf } from './ordering.ts'

/** Counts where all workers do. */
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
          await lockLanes(transaction, [{ handler: 'loop', lane: key }])
          const at = now()
          const [row] = await transaction.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)])
          const { watched, hold } = watchRun(toWatched(row), at)
          await transaction.query(
            `INSERT INTO b24_receiver.loop (key, runs, level, held_at, until, seen_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (key) DO UPDATE SET runs = excluded.runs, level = excluded.level,
               held_at = excluded.held_at, until = excluded.until, seen_at = excluded.seen_at`,
            [textOf(key), watched.runs, watched.level, watched.heldAt, watched.until, at],
          )
          await transaction.query('DELETE FROM b24_receiver.loop WHERE seen_at < $1 AND until < $1', [at - forgiven])
          return hold
        }),
      ),
    async heldUntil(key) {
      const [row] = await database.persist(() =>
        database.query('SELECT * FROM b24_receiver.loop WHERE key = $1', [textOf(key)]),
      )
      return row && heldUntil(toWatched(row), now())
    },
  }
}

function toWatched(row: Row | undefined): Watched {
  if (row === undefined) return unwatched
  return {
    runs: Array.isArray(row['runs']) ? row['runs'].map(Number) : [],
    level: Number(row['level']),
    heldAt: Number(row['held_at']),
    until: Number(row['until']),
  }
}
