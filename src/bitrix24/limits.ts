import { type Budget, type BudgetParts, createBudget } from './budget.ts'

/** The limits of one portal, for the whole process. */
export interface Limits {
  /** Resolves when none of the methods is blocked for the time that it took. */
  readonly unblocked: (methods: readonly string[], signal: AbortSignal | undefined) => Promise<void>
  /** Resolves when one request may be sent that calls the methods. */
  readonly turn: (methods: readonly string[], signal: AbortSignal | undefined) => Promise<void>
  /** What an answer tells of the time that a method took; portals that tell nothing are fine. */
  readonly learn: (method: string, time: unknown) => void
  /** Whether the answer is that of a limit: then the next turn is later. */
  readonly refuse: (method: string, code: string) => boolean
}

/** After a 503; ours was not the only one, so the bucket needs a while. */
const penalty = 1_000
/** Bitrix24 counts a method's time in buckets of a minute: when it told no time, the oldest goes within one. */
const bucket = 60_000

/**
 * Both limits of https://apidocs.bitrix24.com/limits.html: how many requests a second, and how long one method may take
 * in ten minutes. The second is learnt from refusals only: what it is differs, and many portals have none.
 */
export function createLimits(parts: BudgetParts & { readonly budget?: Budget }): Limits {
  const { clock, budget = createBudget(parts) } = parts
  /** By method: when its oldest time is forgotten, and until when it is blocked. */
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
      // Both by the portal's clock, which is not ours.
      const ms = (Number(time.operating_reset_at) - Number(time.finish)) * 1000
      if (ms > 0) resetAt.set(method, clock.now() + ms)
    },
    refuse(method, code) {
      if (code === 'QUERY_LIMIT_EXCEEDED') {
        budget.penalise(penalty)
        return true
      }
      if (code !== 'OPERATION_TIME_LIMIT') return false
      const now = clock.now()
      const reset = resetAt.get(method) ?? 0
      blockedUntil.set(method, reset > now ? reset : now + bucket)
      return true
    },
  }
}
