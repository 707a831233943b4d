import type { Awaitable } from './queue.ts'

/** Counts the runs of one handler about one object that wrote to that object. */
export interface LoopBreaker {
  /**
   * Records the end of a run that wrote to its object. Returns the throttling if it starts now.
   *
   * @param key of handler, portal and object
   */
  wrote(key: string): Awaitable<Hold | undefined>
  /** When the next run may begin, in Unix milliseconds; `undefined` if it may begin now. */
  throttledUntil(key: string): Awaitable<number | undefined>
}

export interface Hold {
  /** Unix milliseconds. */
  readonly until: number
  readonly reason: string
}

export interface LoopBreakerDeps {
  /** Unix milliseconds. */
  readonly now?: () => number
  /** The maximum number of watched objects. The object that was quiet the longest makes room for a new one. */
  readonly maxWatched?: number
}

const windowMs = 60_000
/** The maximum number of changes that people and imports make to an object within the window. */
const maxRuns = 20
/**
 * Milliseconds of throttling, longer each time. A loop goes on after each of these, and is throttled once for every 21
 * runs.
 */
const holdsMs = [60_000, 120_000, 300_000, 600_000, 900_000]
/**
 * Milliseconds. An object that was not throttled for this long after its last throttling starts at the first step
 * again.
 */
export const forgivenMs = 3_600_000

/** What is known about an object. Times are Unix milliseconds. */
export interface Watched {
  /** When the last runs ended, the oldest first. */
  readonly runs: readonly number[]
  readonly level: number
  readonly throttledAt: number
  readonly until: number
}

export const unwatched: Watched = { runs: [], level: 0, throttledAt: 0, until: 0 }

/** Records another run that wrote. Returns the new state, and the throttling if the run exceeded the limit. */
export function watchRun(watched: Watched, at: number): { readonly watched: Watched; readonly hold: Hold | undefined } {
  // A run that ended in the future ended before the clock was put back.
  const runs = [...watched.runs, at].filter((ended) => ended <= at && ended > at - windowMs)
  if (runs.length <= maxRuns) return { watched: { ...watched, runs }, hold: undefined }
  const level = Math.abs(at - watched.until) > forgivenMs ? 0 : watched.level
  const until = at + (holdsMs[Math.min(level, holdsMs.length - 1)] ?? 0)
  return {
    watched: { runs: [], level: level + 1, throttledAt: at, until },
    hold: {
      until,
      reason: `ran ${runs.length} times within a minute and wrote to the object each time: perhaps its own changes make it run again`,
    },
  }
}

export function throttledUntil({ throttledAt, until }: Watched, at: number): number | undefined {
  return throttledAt <= at && at < until ? until : undefined
}

/**
 * Slows down a possible loop: a handler changes its object, the change fires the event, and the handler runs again. It
 * drops nothing, because the object may simply be changed often.
 */
export function createLoopBreaker({ now = Date.now, maxWatched = 10_000 }: LoopBreakerDeps = {}) {
  /** The least recently used key comes first. */
  const all = new Map<string, Watched>()

  return {
    wrote(key: string) {
      const { watched, hold } = watchRun(all.get(key) ?? unwatched, now())
      all.delete(key)
      all.set(key, watched)
      const [quietest] = all.keys()
      if (all.size > maxWatched && quietest !== undefined) all.delete(quietest)
      return hold
    },
    throttledUntil(key: string) {
      const watched = all.get(key)
      return watched && throttledUntil(watched, now())
    },
  } satisfies LoopBreaker
}
