import { inspect } from 'node:util'

/**
 * The maximum number of characters that a queue keeps of each attempt's error: some handlers throw a complete
 * response as the message.
 */
const maxErrorLength = 4_000

/** The maximum number of characters that the receiver adds to it. */
const maxAddedLength = 500

/** A queue keeps only the last errors of a delivery, this many: with `RetryAfter` it may have 100,000 attempts. */
export const maxFailures = 100

/** Returns the message of an error; any other thrown value becomes a text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Returns the error itself; any other thrown value becomes the message of one. */
export function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

/** Returns the cause of an error, such as the system's error behind one of `fetch`. */
export function causeOf(error: unknown): unknown {
  return error instanceof Error ? error.cause : undefined
}

/** Formats a run's error for a queue: name and message, without causes and stack, which are in the log. */
export function errorText(error: unknown): string {
  try {
    return shorten(error instanceof Error ? String(error) : inspect(error), maxErrorLength)
  } catch {
    return 'what the handler threw cannot be made a text'
  }
}

/** Both engines limit every error text with this function. */
export function boundError(text: string): string {
  return shorten(text, maxErrorLength + maxAddedLength)
}

function shorten(text: string, most: number): string {
  if (text.length <= most) return text
  return `${text.slice(0, maxErrorLength).toWellFormed()}… (${text.length} characters)`
}
