import { inspect } from 'node:util'

/** Characters of an error that a queue keeps, of each attempt: handlers throw whole answers of others as their message. */
const longest = 4_000

/** What we may add to it. */
const addition = 500

/** Of one delivery a queue keeps the errors of so many attempts, the last: with `RetryAfter` it may have 100,000. */
export const mostFailures = 100

/** An error of a run as a queue keeps it: its name and message, without its causes and its stack, which are in the log. */
export function errorText(error: unknown): string {
  try {
    return shorten(error instanceof Error ? String(error) : inspect(error), longest)
  } catch {
    return 'what the handler threw cannot be made a text'
  }
}

/** Both engines bound whatever they are given. */
export function boundError(text: string): string {
  return shorten(text, longest + addition)
}

function shorten(text: string, most: number): string {
  if (text.length <= most) return text
  return `${text.slice(0, longest).toWellFormed()}… (${text.length} characters)`
}
