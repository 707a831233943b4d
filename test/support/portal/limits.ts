/** `settings/performance/limits.md` of the documentation: a leaky bucket for each source address. */
export interface RateLimit {
  /** What leaks away in a second. */
  readonly rate: number
  readonly burst: number
}

export function createBuckets({ rate, burst }: RateLimit, now: () => number) {
  const levels = new Map<string, { level: number; at: number }>()
  return {
    /** Whether a request from there is let in. */
    enter(address: string): boolean {
      const at = now()
      const before = levels.get(address) ?? { level: 0, at }
      const level = Math.max(0, before.level - ((at - before.at) / 1000) * rate)
      const isIn = level + 1 <= burst
      levels.set(address, { level: isIn ? level + 1 : level, at })
      return isIn
    },
  }
}

const minute = 60_000
const minutesCounted = 10

/** The time of each method, summed over ten buckets of a minute. */
export function createOperatingTime(limitSeconds: number, now: () => number) {
  const spent = new Map<string, Map<number, number>>()

  function buckets(method: string): Map<number, number> {
    const all = spent.get(method) ?? new Map<number, number>()
    spent.set(method, all)
    const oldest = Math.floor(now() / minute) - minutesCounted
    for (const bucket of all.keys()) if (bucket <= oldest) all.delete(bucket)
    return all
  }

  const sum = (method: string) => [...buckets(method).values()].reduce((total, seconds) => total + seconds, 0)

  return {
    isBlocked: (method: string) => sum(method) >= limitSeconds,
    spend(method: string, seconds: number): void {
      const all = buckets(method)
      const bucket = Math.floor(now() / minute)
      all.set(bucket, (all.get(bucket) ?? 0) + seconds)
    },
    /** As in an answer's `time`: Unix seconds of when the oldest bucket goes. */
    count(method: string) {
      const oldest = Math.min(...buckets(method).keys(), Math.floor(now() / minute))
      return { operating: sum(method), operating_reset_at: ((oldest + minutesCounted) * minute) / 1000 }
    },
  }
}
