import type { ErasureTarget } from '../journal/erase.ts'
import type { JournalledEvent, Position } from '../journal/follow.ts'
import type { Awaitable, NewDelivery, QueueState } from './queue.ts'

/** A delivery as an operator sees it. Times are Unix milliseconds. */
export interface DeliveryRecord {
  readonly key: number
  readonly handler: string
  /** The event's id. */
  readonly event: string
  /** The event's name. */
  readonly name: string
  readonly object: string | undefined
  /** 1, and more for a replay or a retry of a dead one. */
  readonly run: number
  readonly state: 'blocked' | 'ready' | 'running' | 'waiting' | 'done' | 'coalesced' | 'dead'
  /** It waits for something to come back, not for its turn. */
  readonly postponed: boolean
  readonly attempts: number
  readonly createdAt: number
  readonly firstRunAt: number | undefined
  /** Until when it waits. */
  readonly due: number | undefined
  readonly endedAt: number | undefined
  /** Why it failed last, or waits. */
  readonly error: string | undefined
  /** The key of the delivery that was run for it. */
  readonly coalescedInto: number | undefined
  /** Why the event that is kept for it cannot be read. */
  readonly unreadable: string | undefined
}

/** A run that failed. */
export interface FailureRecord {
  readonly attempt: number
  /** Unix milliseconds. */
  readonly at: number
  readonly error: string
}

/** A handler as the dispatcher last loaded it, and what it is owed. What an older version wrote down is `undefined`. */
export interface HandlerRecord {
  readonly name: string
  readonly events: readonly string[] | undefined
  readonly order: 'object' | 'none' | undefined
  /** Milliseconds. */
  readonly settle: number | undefined
  /** Unix milliseconds. */
  readonly loadedAt: number | undefined
  readonly owed: number
  readonly dead: number
}

/** Which of the dead are meant; all of what is given must fit. */
export interface DeadSelection {
  readonly handler?: string | undefined
  /** Ids of events. */
  readonly events?: readonly string[] | undefined
  readonly object?: string | undefined
}

/** The deliveries about one object. */
export interface ObjectSelection extends ErasureTarget {
  /** Ids of its events, as far as they are known: a delivery without order does not say its object once it is done. */
  readonly events: readonly string[]
}

/** What runs has the event in memory. */
export class RunNotEnded extends Error {
  override readonly name = 'RunNotEnded'
  constructor({ handler, event }: { readonly handler: string; readonly event: string }) {
    super(`${handler} is running for event ${event}: wait until it has ended, or stop the receiver`)
  }
}

/**
 * What an operator sees of the deliveries, and may do to them while a dispatcher is at work or none is. What is changed
 * keeps the promises of the queue: a delivery that is added goes behind what waits for its object.
 */
export interface Deliveries {
  /** How far the journal was followed. */
  position(): Awaitable<Position | undefined>
  state(): Awaitable<QueueState>
  handlers(): Awaitable<readonly HandlerRecord[]>
  /** Of one event, the oldest first. */
  ofEvent(id: string): Awaitable<readonly DeliveryRecord[]>
  /** Such as the one that was run for another. */
  ofKey(key: number): Awaitable<DeliveryRecord | undefined>
  /** The event itself, while a delivery of it is owed or dead, whether the journal has it or not. */
  keptEvent(id: string): Awaitable<JournalledEvent | undefined>
  /** The bytes that are kept for it, whether they are an event or not. */
  keptBytes(id: string): Awaitable<Uint8Array | undefined>
  failures(delivery: DeliveryRecord): Awaitable<readonly FailureRecord[]>
  /** The oldest first. */
  dead(selection: DeadSelection): Awaitable<readonly DeliveryRecord[]>
  /** Each that is still dead is replayed, with all its attempts, where its event can be read. The number of those that were. */
  retry(dead: readonly DeliveryRecord[]): Awaitable<number>
  /** The number of those that were dead. */
  drop(dead: readonly DeliveryRecord[]): Awaitable<number>
  /** Another run for each, whatever ran before, behind what waits for its object. It is coalesced with none. */
  replay(deliveries: readonly NewDelivery[]): Awaitable<void>
  /**
   * The handler, and what it is owed, is no more. The number of deliveries that were dropped.
   *
   * @throws while a run of it has not ended
   */
  forget(handler: string): Awaitable<number>
  /** All deliveries about an object, whatever became of them. */
  ofObject(about: ObjectSelection): Awaitable<readonly DeliveryRecord[]>
  /**
   * What is pending or dead about an object is dropped; of what was done, the texts of its failures are; and so is what is
   * kept of the object itself. Of the embedded engine no byte of it is left in the file.
   *
   * @param isAbandoned no dispatcher is at work: what seems to run does not
   * @returns the number of deliveries that were dropped
   * @throws {RunNotEnded}
   */
  erase(about: ObjectSelection, isAbandoned: boolean): Awaitable<number>
  close(): Awaitable<void>
}
