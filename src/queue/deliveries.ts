import type { JournalledEvent } from '../events/event.ts'
import type { ErasureTarget } from '../journal/erase.ts'
import type { Position } from '../journal/position.ts'
import type { Awaitable, HandlerRecord, NewDelivery, QueueState } from './queue.ts'

/** A delivery as an operator sees it. Times are Unix milliseconds. */
export interface DeliveryRecord {
  readonly key: number
  readonly handler: string
  /** The event's id. */
  readonly event: string
  /** The event's name. */
  readonly name: string
  readonly object: string | undefined
  /** 1 for the first run. A replay, or a retry of a dead delivery, gets the next number. */
  readonly run: number
  readonly state: 'blocked' | 'ready' | 'running' | 'waiting' | 'done' | 'coalesced' | 'dead'
  /** The delivery waits for something to come back, not for its turn. */
  readonly postponed: boolean
  readonly attempts: number
  readonly createdAt: number
  readonly firstRunAt: number | undefined
  /** When the wait ends. */
  readonly due: number | undefined
  readonly endedAt: number | undefined
  /** Why the last run failed, or why the delivery waits. */
  readonly error: string | undefined
  /** The key of the delivery that ran instead of this one. */
  readonly coalescedInto: number | undefined
  /** Why the stored event cannot be read. */
  readonly unreadable: string | undefined
}

/** A run that failed. */
export interface FailureRecord {
  readonly attempt: number
  /** Unix milliseconds. */
  readonly at: number
  readonly error: string
}

/** Selects dead deliveries. A delivery must match every given field. */
export interface DeadSelection {
  readonly handler?: string | undefined
  /** Ids of events. */
  readonly events?: readonly string[] | undefined
  readonly object?: string | undefined
}

/** The deliveries about one object. */
export interface ObjectSelection extends ErasureTarget {
  /** Ids of the object's known events. A delivery without order no longer names its object once it is done. */
  readonly events: readonly string[]
}

/** The delivery is still running, and the run has the event in memory. */
export class RunNotEnded extends Error {
  override readonly name = 'RunNotEnded'
  constructor({ handler, event }: { readonly handler: string; readonly event: string }) {
    super(`${handler} is running for event ${event}: wait until it has ended, or stop the receiver`)
  }
}

/**
 * What an operator can read and change, with or without a running dispatcher. Every change keeps the promises of the
 * queue: an added delivery goes behind the deliveries that wait for its object.
 */
export interface Deliveries {
  /** How far the journal was followed. */
  position(): Awaitable<Position | undefined>
  state(): Awaitable<QueueState>
  handlers(): Awaitable<readonly HandlerRecord[]>
  /** The deliveries of one event, the oldest first. */
  ofEvent(id: string): Awaitable<readonly DeliveryRecord[]>
  /** For example the delivery that ran instead of another. */
  ofKey(key: number): Awaitable<DeliveryRecord | undefined>
  /** The stored event, while one of its deliveries is pending or dead, even if the journal no longer has it. */
  keptEvent(id: string): Awaitable<JournalledEvent | undefined>
  /** The stored bytes of an event, even if they are not a readable event. */
  keptBytes(id: string): Awaitable<Uint8Array | undefined>
  failures(delivery: DeliveryRecord): Awaitable<readonly FailureRecord[]>
  /** The oldest first. */
  dead(selection: DeadSelection): Awaitable<readonly DeliveryRecord[]>
  /**
   * Replays each delivery that is still dead and whose event can be read, with a full set of attempts.
   *
   * @returns the number of replayed deliveries
   */
  retry(dead: readonly DeliveryRecord[]): Awaitable<number>
  /** @returns the number of dropped deliveries: those that were still dead */
  drop(dead: readonly DeliveryRecord[]): Awaitable<number>
  /**
   * Adds another run for each delivery, whatever ran before, behind the deliveries that wait for its object. A replay
   * is never coalesced.
   */
  replay(deliveries: readonly NewDelivery[]): Awaitable<void>
  /**
   * Removes the handler and its pending deliveries.
   *
   * @returns the number of dropped deliveries
   * @throws while a run of the handler has not ended
   */
  forget(handler: string): Awaitable<number>
  /** All deliveries about an object, in any state. */
  ofObject(about: ObjectSelection): Awaitable<readonly DeliveryRecord[]>
  /**
   * Drops the pending and dead deliveries about an object, the failure texts of its finished deliveries, and the stored
   * data of the object itself. The embedded engine leaves no byte of it in the file.
   *
   * @param isAbandoned no dispatcher is running, so a delivery marked as running is not
   * @returns the number of dropped deliveries
   * @throws {RunNotEnded}
   */
  erase(about: ObjectSelection, isAbandoned: boolean): Awaitable<number>
  close(): Awaitable<void>
}
