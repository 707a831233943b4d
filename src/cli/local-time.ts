/** For people: `2026-11-23 08:11:20` in the time zone of this machine, as `tail` shows it. */
export function localTime(time: number | string): string {
  const date = new Date(time)
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000)
  return shifted.toISOString().slice(0, 19).replace('T', ' ')
}
