import { type Clock, orAborted } from '../lib/clock.ts'

/** The limit of a portal: 2 and 50, on the Enterprise plan 5 and 250 (https://apidocs.bitrix24.com/limits.html). */
export interface Rate {
  /** Sustained requests per second. */
  readonly rate: number
  /** Requests that may come at once before that limit applies. */
  readonly burst: number
}

export interface Budget {
  /** Resolves when the caller may send one request, in the order of the calls. Rejects with the signal's reason. */
  readonly take: (signal?: AbortSignal) => Promise<void>
  /** After a refusal by the portal, no request is sent for this many milliseconds, and then the burst is used up. */
  readonly penalise: (ms: number) => void
  /** The number of waiting callers. */
  readonly waiting: number
}

export interface BudgetDeps extends Rate {
  readonly clock: Clock
}

/** @param deps `portal` is its host */
export type OpenBudget = (deps: BudgetDeps & { readonly portal: string }) => Budget

/**
 * The same leaky bucket as Bitrix24's. There is one for each portal and process, because Bitrix24 counts by portal
 * and source address, for all incoming webhooks and handlers together. For processes that share Postgres see
 * src/queue/postgres/budget.ts.
 */
export function createBudget({ rate, burst, clock }: BudgetDeps): Budget {
  let level = 0
  let leakedAt = clock.now()
  let closedUntil = leakedAt
  let waiting = 0
  /** Resolves when all earlier callers have had their turn. */
  let last: Promise<void> = Promise.resolve()

  function msUntilTurn(): number {
    const now = clock.now()
    if (now > leakedAt) {
      level = Math.max(0, level - ((now - leakedAt) / 1000) * rate)
      leakedAt = now
    }
    const ms = Math.max(closedUntil - now, ((level + 1 - burst) / rate) * 1000)
    // A timer has whole milliseconds, and less than a thousandth of one is a rounding error.
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
      // The capacity that leaks until then belongs to other callers from this address: otherwise the portal would not
      // have refused.
      leakedAt = closedUntil
    },
    get waiting() {
      return waiting
    },
  }
}
