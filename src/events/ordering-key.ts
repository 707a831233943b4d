import type { Event } from '../intake/event.ts'

/** The unit of order of a handler, portal and object: objects are numbered per portal, `deal:662` exists on each. `null` is none. */
export function laneOf({ object, auth }: Pick<Event, 'object' | 'auth'>): string | null {
  return object === undefined ? null : JSON.stringify([auth?.['member_id'] ?? auth?.['domain'] ?? null, object])
}
