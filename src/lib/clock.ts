import { setTimeout as wait } from 'node:timers/promises'

/** The clock, which a test may replace. */
export interface Clock {
  /** Milliseconds that never go back. */
  readonly now: () => number
  /** Rejects with the signal's reason when the signal aborts. */
  readonly sleep: (ms: number, signal: AbortSignal | undefined) => Promise<void>
}

/** Node fires longer timers at once. */
const maxTimerMs = 2 ** 31 - 1

export const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal) => orAborted(wait(Math.min(ms, maxTimerMs), undefined, signal ? { signal } : {}), signal),
}

/** Rejects with the signal's reason as soon as the signal aborts. The promise itself continues. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise
  signal.throwIfAborted()
  const aborted = Promise.withResolvers<never>()
  const abort = () => aborted.reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([aborted.promise, promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
