import { type Budget, type BudgetDeps, createBudget } from './budget.ts'

/** The limits of one portal, for the whole process. */
export interface Limits {
  /** Resolves when none of the methods is blocked for the time that it took. */
  readonly unblocked: (methods: readonly string[], signal: AbortSignal | undefined) => Promise<void>
  /** Resolves when one request that calls the methods may be sent. */
  readonly turn: (methods: readonly string[], signal: AbortSignal | undefined) => Promise<void>
  /** Learns how long a method took, as the answer reports it. A portal may omit this. */
  readonly learn: (method: string, time: unknown) => void
  /** Returns whether the answer is that of a limit. If so, the next turn is delayed. */
  readonly refuse: (method: string, code: string) => boolean
}

/** Milliseconds after a 503. Other callers filled the bucket, too, so it needs a while. */
const penaltyMs = 1_000
/**
 * Milliseconds. Bitrix24 counts a method's time in buckets of a minute. If it reported no time, the oldest bucket
 * expires within one.
 */
const bucketMs = 60_000

/**
 * Both limits of https://apidocs.bitrix24.com/limits.html: the requests per second, and the time that one method may
 * take in ten minutes. The second limit is only learnt from refusals: it differs between portals, and many portals
 * have none.
 */
export function createLimits(deps: BudgetDeps & { readonly budget?: Budget }): Limits {
  const { clock, budget = createBudget(deps) } = deps
  /** By method: when its oldest time expires, and until when it is blocked. */
  const resetAt = new Map<string, number>()
  const blockedUntil = new Map<string, number>()

  async function unblocked(methods: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      const ms = Math.max(...methods.map((method) => (blockedUntil.get(method) ?? 0) - clock.now()))
      if (ms <= 0) return
      await clock.sleep(Math.ceil(ms), signal)
    }
  }

  return {
    unblocked,
    async turn(methods, signal) {
      await unblocked(methods, signal)
      await budget.take(signal)
    },
    learn(method, time) {
      if (typeof time !== 'object' || time === null || !('operating_reset_at' in time) || !('finish' in time)) return
      // Both times are by the portal's clock, which differs from ours.
      const ms = (Number(time.operating_reset_at) - Number(time.finish)) * 1000
      if (ms > 0) resetAt.set(method, clock.now() + ms)
    },
    refuse(method, code) {
      if (code === 'QUERY_LIMIT_EXCEEDED') {
        budget.penalise(penaltyMs)
        return true
      }
      if (code !== 'OPERATION_TIME_LIMIT') return false
      const now = clock.now()
      const reset = resetAt.get(method) ?? 0
      blockedUntil.set(method, reset > now ? reset : now + bucketMs)
      return true
    },
  }
}
