import type { Event } from '../intake/event.ts'
import type { Position } from '../journal/follow.ts'

/** One event owed to one handler. */
export interface NewDelivery {
  readonly handler: string
  readonly event: Event
}

export interface Delivery extends NewDelivery {
  readonly key: number
  /** The run about to start, from 1. */
  readonly attempt: number
  /** Unix milliseconds. */
  readonly createdAt: number
}

/** A remote engine answers later, an embedded one at once. */
type Awaitable<T> = T | Promise<T>

/**
 * What an engine of deliveries promises.
 *
 * For one handler, portal and object, deliveries are claimed in the order in which they were added, never two at a time:
 * while one runs or waits for its retry the later ones wait behind it. Deliveries of events without an object have no
 * order.
 */
export interface Queue {
  /** Where to follow on from; `undefined` before the first `add`. */
  position(): Awaitable<Position | undefined>
  /** Keeps the deliveries and the position after them, both or neither. Adding an event twice adds nothing. */
  add(deliveries: readonly NewDelivery[], position: Position): Awaitable<void>
  /** Takes up to `limit` deliveries of these handlers that may run now. */
  claim(handlers: readonly string[], limit: number): Awaitable<Delivery[]>
  done(delivery: Delivery): Awaitable<void>
  /** @param due Unix milliseconds */
  retry(delivery: Delivery, due: number, error: string): Awaitable<void>
  dead(delivery: Delivery, error: string): Awaitable<void>
  /** When the first of those that wait for a retry is due, in Unix milliseconds. */
  nextDue(): Awaitable<number | undefined>
  close(): Awaitable<void>
}
