import type { Event } from './event.ts'

/**
 * Returns the key of portal and object within which a handler's events keep their order. Objects are numbered per
 * portal: `deal:662` exists on each. `null` means no order.
 */
export function orderingKeyOf({ object, auth }: Pick<Event, 'object' | 'auth'>): string | null {
  return object === undefined ? null : JSON.stringify([auth?.['member_id'] ?? auth?.['domain'] ?? null, object])
}
