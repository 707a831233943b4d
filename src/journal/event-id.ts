import { uuidVersion } from '../lib/uuid.ts'

/** Returns whether a text is the id of an event, as the receiver makes them: a UUIDv7 in lower case. */
export function isEventId(text: string): boolean {
  return uuidVersion(text) === 7
}

/**
 * Milliseconds by which the clock may have been set back between an id and its place in the journal: a search by the
 * time of an id begins so much earlier.
 */
export const clockSlackMs = 3_600_000

/**
 * Returns when an event's id was made, in Unix milliseconds. A UUIDv7 begins with this time, so the beginning of an
 * id is enough.
 */
export function timeOfId(id: string): number {
  return Number.parseInt(id.replaceAll('-', '').slice(0, 12).padEnd(12, '0'), 16)
}
