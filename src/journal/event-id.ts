/**
 * Returns when an event's id was made, in Unix milliseconds. A UUIDv7 begins with this time, so the beginning of an
 * id is enough.
 */
export function timeOfId(id: string): number {
  return Number.parseInt(id.replaceAll('-', '').slice(0, 12).padEnd(12, '0'), 16)
}
