import { type Clock, orAborted } from '../lib/clock.ts'

/** What a portal lets in: 2 and 50, on the Enterprise plan 5 and 250 (https://apidocs.bitrix24.com/limits.html). */
export interface Rate {
  /** Requests a second, for ever. */
  readonly rate: number
  /** And so many at once before that. */
  readonly burst: number
}

export interface Budget {
  /** Resolves when the caller may send one request, in the order of asking; rejects with the signal's reason. */
  readonly take: (signal?: AbortSignal) => Promise<void>
  /** The portal refused: nobody sends anything for so many milliseconds, and then the burst is used up. */
  readonly penalise: (ms: number) => void
  /** How many wait for their turn. */
  readonly waiting: number
}

export interface BudgetParts extends Rate {
  readonly clock: Clock
}

/** @param parts `portal` is its host */
export type OpenBudget = (parts: BudgetParts & { readonly portal: string }) => Budget

/**
 * The same leaky bucket as Bitrix24's. One for each portal and process: Bitrix24 counts by portal and source address,
 * whichever hook or handler it is. Of processes that share Postgres see pg-budget.ts.
 */
export function createBudget({ rate, burst, clock }: BudgetParts): Budget {
  let level = 0
  let leakedAt = clock.now()
  let closedUntil = leakedAt
  let waiting = 0
  /** Settles when everybody who came before has gone. */
  let last: Promise<void> = Promise.resolve()

  function msUntilTurn(): number {
    const now = clock.now()
    if (now > leakedAt) {
      level = Math.max(0, level - ((now - leakedAt) / 1000) * rate)
      leakedAt = now
    }
    const ms = Math.max(closedUntil - now, ((level + 1 - burst) / rate) * 1000)
    // A timer has whole milliseconds, and what is less than a thousandth of one is an error of the arithmetic.
    return Math.ceil(ms - 0.001)
  }

  return {
    async take(signal) {
      signal?.throwIfAborted()
      const before = last
      const gone = Promise.withResolvers<void>()
      last = before.then(() => gone.promise)
      waiting++
      try {
        await orAborted(before, signal)
        for (let ms = msUntilTurn(); ms > 0; ms = msUntilTurn()) await clock.sleep(ms, signal)
        level++
      } finally {
        waiting--
        gone.resolve()
      }
    },
    penalise(ms) {
      closedUntil = Math.max(closedUntil, clock.now() + ms)
      level = burst
      // What leaks away until then is not ours: others call from this address, or the portal would not have refused.
      leakedAt = closedUntil
    },
    get waiting() {
      return waiting
    },
  }
}
