import { chosenDelay, isFinal } from '../handler/handler.ts'

/** Also of a delay that the handler chose: `RetryAfter('0s')` would run it thousands of times a second. */
const shortest = 1_000
const longest = 3_600_000

export interface Failure {
  readonly error: unknown
  /** The run that failed, from 1. */
  readonly attempt: number
  /** Milliseconds of `retryFor` that are used up: how long its runs took, and how long it was to wait for each retry. */
  readonly spentMs: number
  /** Milliseconds during which it is tried again. */
  readonly retryFor: number
  /** 0 ≤ random < 1. */
  readonly random: number
}

export interface NextTry {
  /** Milliseconds until it is due again; `undefined` when it is dead. */
  readonly delayMs: number | undefined
  /** The handler chose a longer delay than is left; then it is tried as if it had chosen none. */
  readonly refused?: { readonly chosenMs: number; readonly leftMs: number }
}

/**
 * When a failed delivery is due again. Exponential backoff with full jitter, because the handlers of a burst fail together
 * and must not come back together.
 *
 * No clock is asked how long it has been tried: one that jumps ahead, or a machine that is off for a week, would take the
 * tries that it never had.
 */
export function nextTry({ error, attempt, spentMs, retryFor, random }: Failure): NextTry {
  if (isFinal(error)) return { delayMs: undefined }
  const leftMs = Math.max(0, retryFor - spentMs)
  const cap = Math.min(longest, shortest * 2 ** attempt)
  const usual = shortest + Math.floor(random * (cap - shortest))
  const chosenMs = chosenDelay(error)
  const isRefused = chosenMs !== undefined && chosenMs > leftMs
  const delayMs = chosenMs === undefined || isRefused ? usual : Math.max(shortest, chosenMs)
  return {
    delayMs: delayMs <= leftMs ? delayMs : undefined,
    ...(isRefused && { refused: { chosenMs, leftMs } }),
  }
}
