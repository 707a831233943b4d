/**
 * Formats a time for a person, by this machine's clock, as `tail` shows it: `2026-11-23 11:11:20`. For programs times
 * are ISO 8601 in UTC.
 *
 * @param time ISO 8601, or Unix milliseconds
 */
export function localTime(time: string | number): string {
  const date = new Date(time)
  // A line that no receiver wrote may contain an invalid time.
  if (Number.isNaN(date.getTime())) return String(time)
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
  return local.toISOString().slice(0, 19).replace('T', ' ')
}
