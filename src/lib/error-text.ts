import { inspect } from 'node:util'

/**
 * The maximum number of characters that a queue keeps of each attempt's error: some handlers throw a complete
 * response as the message.
 */
const longest = 4_000

/** The maximum number of characters that the receiver adds to it. */
const addition = 500

/** A queue keeps only the last errors of a delivery, this many: with `RetryAfter` it may have 100,000 attempts. */
export const mostFailures = 100

/** Returns the message of an error; any other thrown value becomes a text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Formats a run's error for a queue: name and message, without causes and stack, which are in the log. */
export function errorText(error: unknown): string {
  try {
    return shorten(error instanceof Error ? String(error) : inspect(error), longest)
  } catch {
    return 'what the handler threw cannot be made a text'
  }
}

/** Both engines limit every error text with this function. */
export function boundError(text: string): string {
  return shorten(text, longest + addition)
}

function shorten(text: string, most: number): string {
  if (text.length <= most) return text
  return `${text.slice(0, longest).toWellFormed()}… (${text.length} characters)`
}
