/** Runs of one handler about one object that wrote to that object. */
export interface LoopBreaker {
  /**
   * A run that wrote to its object has ended. Gives what to say when the object is held from now on.
   *
   * @param key of handler, portal and object
   */
  wrote(key: string): Hold | undefined
  /** Until when the next run for it has to wait, in Unix milliseconds; `undefined` when it may begin. */
  heldUntil(key: string): number | undefined
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
const forgiven = 3_600_000

interface Watched {
  /** When its last runs ended, the oldest first. */
  readonly runs: number[]
  level: number
  heldAt: number
  until: number
}

/**
 * Slows down what may be a loop: a handler changes its object, the change fires the event, the handler runs again.
 * Nothing is dropped, because it may as well be an object that is changed often.
 */
export function createLoopBreaker({ now = Date.now, most = 10_000 }: LoopBreakerParts = {}): LoopBreaker {
  const all = new Map<string, Watched>()

  /** The one that was asked for last stands last. */
  function watch(key: string): Watched {
    const watched = all.get(key) ?? { runs: [], level: 0, heldAt: 0, until: 0 }
    all.delete(key)
    all.set(key, watched)
    const [quietest] = all.keys()
    if (all.size > most && quietest !== undefined) all.delete(quietest)
    return watched
  }

  return {
    wrote(key) {
      const at = now()
      const watched = watch(key)
      // What ended in the future did so before the clock was put back.
      const recent = [...watched.runs, at].filter((ended) => ended <= at && ended > at - window)
      watched.runs.splice(0, watched.runs.length, ...recent)
      if (recent.length <= mostRuns) return undefined
      watched.runs.length = 0
      if (Math.abs(at - watched.until) > forgiven) watched.level = 0
      const ms = holds[Math.min(watched.level++, holds.length - 1)] ?? 0
      watched.heldAt = at
      watched.until = at + ms
      return {
        until: watched.until,
        reason: `ran ${recent.length} times within a minute and wrote to the object each time: perhaps its own changes make it run again`,
      }
    },
    heldUntil(key) {
      const watched = all.get(key)
      const at = now()
      return watched && watched.heldAt <= at && at < watched.until ? watched.until : undefined
    },
  }
}
