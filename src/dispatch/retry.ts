import { chosenDelay, isFinal } from './handler.ts'

const shortest = 1_000
const longest = 3_600_000

export interface Failure {
  readonly error: unknown
  /** The run that failed, from 1. */
  readonly attempt: number
  /** When its first run began, in Unix milliseconds: however long it waited before, it gets its time. */
  readonly firstRunAt: number
  readonly now: number
  /** Milliseconds after `firstRunAt` during which it is tried again. */
  readonly retryFor: number
  /** 0 ≤ random < 1. */
  readonly random: number
}

/**
 * When a failed delivery is due again, in Unix milliseconds; `undefined` when it is dead. Exponential backoff with full
 * jitter, because the handlers of a burst fail together and must not come back together.
 */
export function nextTry({ error, attempt, firstRunAt, now, retryFor, random }: Failure): number | undefined {
  if (isFinal(error)) return undefined
  const cap = Math.min(longest, shortest * 2 ** attempt)
  const due = now + (chosenDelay(error) ?? shortest + Math.floor(random * (cap - shortest)))
  return due <= firstRunAt + retryFor ? due : undefined
}
