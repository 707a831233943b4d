import type { Awaitable } from './queue.ts'

/** Runs of one handler about one object that wrote to that object. */
export interface LoopBreaker {
  /**
   * A run that wrote to its object has ended. Gives what to say when the object is held from now on.
   *
   * @param key of handler, portal and object
   */
  wrote(key: string): Awaitable<Hold | undefined>
  /** Until when the next run for it has to wait, in Unix milliseconds; `undefined` when it may begin. */
  heldUntil(key: string): Awaitable<number | undefined>
}

export interface Hold {
  /** Unix milliseconds. */
  readonly until: number
  readonly reason: string
}

export interface LoopBreakerParts {
  /** Unix milliseconds. */
  readonly now?: () => number
  /** So many objects are watched; the one that was quiet the longest is forgotten for another. */
  readonly most?: number
}

const window = 60_000
/** People and imports change an object that often at the very most. */
const mostRuns = 20
/** A loop goes on after the first of these, and then once for every 21 runs. */
const holds = [60_000, 120_000, 300_000, 600_000, 900_000]
/** An object that was not held for so long after its last hold begins anew. */
export const forgiven = 3_600_000

/** What is known of an object. Times are Unix milliseconds. */
export interface Watched {
  /** When its last runs ended, the oldest first. */
  readonly runs: readonly number[]
  readonly level: number
  readonly heldAt: number
  readonly until: number
}

export const unwatched: Watched = { runs: [], level: 0, heldAt: 0, until: 0 }

/** What is known after another run that wrote, and what to say when that was one too many. */
export function watchRun(watched: Watched, at: number): { readonly watched: Watched; readonly hold: Hold | undefined } {
  // What ended in the future did so before the clock was put back.
  const runs = [...watched.runs, at].filter((ended) => ended <= at && ended > at - window)
  if (runs.length <= mostRuns) return { watched: { ...watched, runs }, hold: undefined }
  const level = Math.abs(at - watched.until) > forgiven ? 0 : watched.level
  const until = at + (holds[Math.min(level, holds.length - 1)] ?? 0)
  return {
    watched: { runs: [], level: level + 1, heldAt: at, until },
    hold: {
      until,
      reason: `ran ${runs.length} times within a minute and wrote to the object each time: perhaps its own changes make it run again`,
    },
  }
}

export function heldUntil({ heldAt, until }: Watched, at: number): number | undefined {
  return heldAt <= at && at < until ? until : undefined
}

/**
 * Slows down what may be a loop: a handler changes its object, the change fires the event, the handler runs again.
 * Nothing is dropped, because it may as well be an object that is changed often.
 */
export function createLoopBreaker({ now = Date.now, most = 10_000 }: LoopBreakerParts = {}) {
  /** The one that was asked for last stands last. */
  const all = new Map<string, Watched>()

  return {
    wrote(key: string) {
      const { watched, hold } = watchRun(all.get(key) ?? unwatched, now())
      all.delete(key)
      all.set(key, watched)
      const [quietest] = all.keys()
      if (all.size > most && quietest !== undefined) all.delete(quietest)
      return hold
    },
    heldUntil(key: string) {
      const watched = all.get(key)
      return watched && heldUntil(watched, now())
    },
  } satisfies LoopBreaker
}
