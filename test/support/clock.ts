import { type Clock, orAborted } from '../../src/lib/clock.ts'
import { until } from './receiver.ts'

/** A clock that stands until it is moved. */
export function createClock(start = 0) {
  let now = start
  const sleepers = new Set<{ readonly at: number; readonly wake: () => void }>()
  const clock: Clock = {
    now: () => now,
    async sleep(ms, signal) {
      const { promise, resolve } = Promise.withResolvers<void>()
      const sleeper = { at: now + ms, wake: resolve }
      sleepers.add(sleeper)
      try {
        await orAborted(promise, signal)
      } finally {
        sleepers.delete(sleeper)
      }
    },
  }
  /** Wakes every sleeper whose time has come. */
  const move = (ms: number) => {
    now += ms
    for (const { at, wake } of sleepers) if (at <= now) wake()
  }
  return {
    ...clock,
    move,
    /** Waits until somebody sleeps and moves to the first one's time; gives how far that was. */
    skip: async (): Promise<number> => {
      await until('somebody sleeps', () => sleepers.size > 0)
      const ms = Math.min(...[...sleepers].map(({ at }) => at)) - now
      move(ms)
      return ms
    },
    sleeping: () => sleepers.size,
  }
}
