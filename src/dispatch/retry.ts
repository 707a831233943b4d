import { chosenDelay, isFinal } from '../handler/handler.ts'

/**
 * Milliseconds. It also limits a delay that the handler chose: `RetryAfter('0s')` would run thousands of times a second.
 */
const minDelayMs = 1_000
const maxDelayMs = 3_600_000

export interface Failure {
  readonly error: unknown
  /** The run that failed, from 1. */
  readonly attempt: number
  /** Milliseconds of `retryFor` that are used up: the time of the runs plus the chosen delay before each retry. */
  readonly spentMs: number
  /** Milliseconds during which the delivery is retried. */
  readonly retryFor: number
  /** 0 ≤ random < 1. */
  readonly random: number
}

export interface NextTry {
  /** Milliseconds until the delivery is due again; `undefined` if it is dead. */
  readonly delayMs: number | undefined
  /** The handler chose a longer delay than is left of `retryFor`. The retry comes as if the handler had chosen none. */
  readonly refused?: { readonly chosenMs: number; readonly leftMs: number }
}

/**
 * Returns when a failed delivery is due again. The backoff is exponential with full jitter, because the handlers of a
 * burst fail together and must not retry together.
 *
 * The time spent is added up, not read from a clock: a clock that jumps ahead, or a machine that is off for a week, would
 * use up attempts that were never made.
 */
export function nextTry({ error, attempt, spentMs, retryFor, random }: Failure): NextTry {
  if (isFinal(error)) return { delayMs: undefined }
  const leftMs = Math.max(0, retryFor - spentMs)
  const cap = Math.min(maxDelayMs, minDelayMs * 2 ** attempt)
  const usual = minDelayMs + Math.floor(random * (cap - minDelayMs))
  const chosenMs = chosenDelay(error)
  const isRefused = chosenMs !== undefined && chosenMs > leftMs
  const delayMs = chosenMs === undefined || isRefused ? usual : Math.max(minDelayMs, chosenMs)
  return {
    delayMs: delayMs <= leftMs ? delayMs : undefined,
    ...(isRefused && { refused: { chosenMs, leftMs } }),
  }
}
