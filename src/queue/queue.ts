import type { JournalledEvent } from '../events/event.ts'
import type { Position } from '../journal/position.ts'

/** One event for which one handler is to run. */
export interface NewDelivery {
  readonly handler: string
  readonly event: JournalledEvent
  /** The journal segment of the event. A finished delivery is deleted together with its segment. */
  readonly segment: number
  /** `none`: the delivery may run beside others of its object. */
  readonly order: 'object' | 'none'
  /** Milliseconds without an event of the object before the run; 0 to run at once. */
  readonly debounce: number
  /** The handler is not loaded. The delivery is added only if the handler is not forgotten. */
  readonly isAbsent?: boolean
}

/** A delivery that was claimed. */
export interface Delivery {
  readonly key: number
  readonly handler: string
  readonly event: JournalledEvent
  /** The number of the run that is about to start, from 1. */
  readonly attempt: number
  /** How many deliveries this run stands for, itself included. */
  readonly coalesced: number
  /** Why the stored event cannot be read. `event` then has only the data from the delivery's other columns. */
  readonly unreadable?: string
  /** Milliseconds of its `RETRY_FOR` that earlier runs have used up, see dispatch/retry.ts. */
  readonly spentMs: number
}

/** The fields of an object, field → text, as a handler with `onChange` last read them; see dispatch/on-change.ts. */
export type SnapshotFields = Readonly<Record<string, string>>

export interface Snapshot {
  readonly fields: SnapshotFields
  /** A run has begun since the snapshot, and none was done, so its progress is unknown. */
  readonly isDirty: boolean
}

/** What a handler can accept now. */
export interface Wanted {
  readonly handler: string
  readonly limit: number
  /**
   * Whether waiting deliveries of one object become one run: those of one event name (`true`) or of any (`'object'`). A
   * deletion is never coalesced into a later event.
   */
  readonly coalesce: boolean | 'object'
}

/** A handler as its file defines it, for processes that do not load the file. */
export interface KnownHandler {
  readonly name: string
  /** Names and patterns, upper case. */
  readonly events: readonly string[]
  readonly order: 'object' | 'none'
  /** Milliseconds. */
  readonly debounce: number
  /** Whether the handler has the option `onChange`. */
  readonly onChange: boolean
}

/**
 * A handler as the dispatcher last loaded it, and its pending deliveries. A field that an older version did not write
 * is `undefined`.
 */
export interface HandlerRecord {
  readonly name: string
  readonly events: readonly string[] | undefined
  readonly order: 'object' | 'none' | undefined
  /** Milliseconds. */
  readonly debounce: number | undefined
  /** Unix milliseconds. */
  readonly loadedAt: number | undefined
  readonly pending: number
  readonly dead: number
}

/** How many deliveries are in each state. A blocked delivery waits behind another of its object. */
export interface QueueState {
  readonly ready: number
  readonly running: number
  readonly waiting: number
  readonly blocked: number
  readonly dead: number
  /** When the oldest pending delivery came, in Unix milliseconds. */
  readonly oldestAt: number | undefined
}

/** A remote engine answers later, an embedded one at once. */
export type Awaitable<T> = T | Promise<T>

/**
 * The promises of an engine.
 *
 * For one handler, portal and object, deliveries are claimed in the order in which they were added, never two at a
 * time. While one runs or waits for its retry, the later ones wait behind it. When it is done or dead, the next one may
 * run. Deliveries of events without an object have no order.
 */
export interface Queue {
  /** Where to continue following the journal; `undefined` if no position is stored. */
  position(): Awaitable<Position | undefined>
  /**
   * Stores the deliveries and the position after them, both or neither. Adding an event twice adds nothing.
   *
   * @param droppedSnapshots the handlers and objects whose snapshots are dropped
   */
  add(
    deliveries: readonly NewDelivery[],
    position: Position,
    droppedSnapshots?: readonly Pick<NewDelivery, 'handler' | 'event'>[],
  ): Awaitable<void>
  /** Takes up to `limit` deliveries that may run now. A quarantined delivery (see `reclaim`) is returned alone. */
  claim(wanted: readonly Wanted[], limit: number): Awaitable<Delivery[]>
  /**
   * Ends the run, and stores the snapshot in the same transaction.
   *
   * @param snapshot is stored for the handler, portal and object; `null` drops the stored one
   */
  done(delivery: Delivery, snapshot?: SnapshotFields | null): Awaitable<void>
  /** The snapshot of the delivery's handler, portal and object. */
  snapshot(delivery: Delivery): Awaitable<Snapshot | undefined>
  /**
   * Call this before the handler runs. The snapshot is dirty until `done` stores a new one. The mark is on disk when
   * the call resolves.
   */
  markDirty(delivery: Delivery): Awaitable<void>
  retry(delivery: Delivery, again: Retry): Awaitable<void>
  dead(delivery: Delivery, error: string): Awaitable<void>
  /** Records a failure that came after the end of the run. */
  noteFailure(delivery: Delivery, error: string): Awaitable<void>
  /** Replaces an unreadable event by a copy from elsewhere. */
  restore(delivery: Delivery, event: JournalledEvent): Awaitable<void>
  /**
   * The delivery was not run to its end, through no fault of its own. It is ready again and the attempt is not counted.
   * A delivery that has ended meanwhile does not change.
   */
  release(delivery: Delivery): Awaitable<void>
  /**
   * The delivery needs something that is not there, through no fault of its own. It waits like a retry, but the attempt
   * is not counted, and its time is counted from the next run.
   */
  postpone(delivery: Delivery, until: Postponement): Awaitable<void>
  /** Makes all postponed deliveries due now. */
  resumePostponed(): Awaitable<void>
  /**
   * Handles the running deliveries of a process that died. Call it before the first claim, and again on each `died`,
   * until it returns nothing. If several deliveries ran, only one can have killed the process: all are ready again,
   * uncharged and quarantined, so each runs in isolation. A delivery that ran alone is returned, still claimed.
   */
  reclaim(): Awaitable<Delivery | undefined>
  /** When the first waiting delivery is due, in Unix milliseconds. */
  nextDue(): Awaitable<number | undefined>
  /** The handlers that were ever loaded and not forgotten, by name. */
  handlers(): Awaitable<readonly HandlerRecord[]>
  /** Drops the snapshots of a handler without `onChange`, because its runs no longer update them. */
  registerHandlers(handlers: readonly KnownHandler[]): Awaitable<void>
  state(): Awaitable<QueueState>
  watch(watcher: Watcher): void
  /** From now on no call waits for an engine that is not there: it succeeds at once or fails. */
  failFast(): void
  /** Deletes finished deliveries of segments up to this one. The position is on disk when the call resolves. */
  prune(segment: number): Awaitable<void>
  close(): Awaitable<void>
}

export interface Watcher {
  /** Called within a second or so after another process, such as a tool or a worker, changed the pending deliveries. */
  readonly changed: () => void
  /** Called when another process that shares the engine may have died. */
  readonly died: () => void
}

export interface Postponement {
  /** Unix milliseconds. */
  readonly due: number
  /** What the delivery waits for. */
  readonly error: string
}

export interface Retry extends Postponement {
  /** Milliseconds of its `RETRY_FOR`, the wait for this retry included. Unchanged if omitted. */
  readonly spentMs?: number
  /** The delivery killed its process once, so it must run in isolation. */
  readonly alone?: boolean
}
