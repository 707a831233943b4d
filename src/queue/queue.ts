import type { JournalledEvent, Position } from '../journal/follow.ts'

/** One event owed to one handler. */
export interface NewDelivery {
  readonly handler: string
  readonly event: JournalledEvent
  /** Of the journal, where the event stands: what was done is forgotten with it. */
  readonly segment: number
  /** `none`: it may run beside others of its object. */
  readonly order: 'object' | 'none'
  /** Milliseconds of quiet about the object before the run; 0 for none. */
  readonly settle: number
  /** It is kept for a handler that is not loaded: added only while that one is not forgotten. */
  readonly isAbsent?: boolean
}

/** A delivery that was claimed. */
export interface Delivery {
  readonly key: number
  readonly handler: string
  readonly event: JournalledEvent
  /** The run about to start, from 1. */
  readonly attempt: number
  /** How many deliveries this run stands for, itself included. */
  readonly coalesced: number
  /** Why the event that was kept for it cannot be read: `event` is only what the delivery's other columns say of it. */
  readonly unreadable?: string
  /** Milliseconds of its `RETRY_FOR` that earlier runs have used up, see retry.ts. */
  readonly spentMs: number
}

/** What a handler with `onChange` saw of an object: field → text, see on-change.ts. */
export type SeenFields = Readonly<Record<string, string>>

export interface Seen {
  readonly fields: SeenFields
  /** A run has begun since then, and none was done: nobody knows how far it got. */
  readonly isInDoubt: boolean
}

/** What a handler would take now. */
export interface Wanted {
  readonly handler: string
  readonly limit: number
  /**
   * Whether waiting deliveries of one object become one run: of one event name (`true`), of any (`'object'`); that of a
   * deletion never goes into a later one.
   */
  readonly coalesce: boolean | 'object'
}

/** A handler as its file defines it, for those who do not load it. */
export interface KnownHandler {
  readonly name: string
  /** Names and patterns, upper case. */
  readonly events: readonly string[]
  readonly order: 'object' | 'none'
  /** Milliseconds. */
  readonly settle: number
  /** Whether it has the option of that name. */
  readonly onChange: boolean
}

/** What was written down of a handler when it was last loaded. */
export interface RememberedHandler extends Pick<KnownHandler, 'name' | 'order' | 'settle'> {
  /** `undefined` where an older version wrote it down. */
  readonly events: readonly string[] | undefined
}

/** How many deliveries are in each state. What is blocked waits behind another of its object. */
export interface QueueState {
  readonly ready: number
  readonly running: number
  readonly waiting: number
  readonly blocked: number
  readonly dead: number
  /** When the oldest that is owed came, in Unix milliseconds. */
  readonly oldestAt: number | undefined
}

/** A remote engine answers later, an embedded one at once. */
export type Awaitable<T> = T | Promise<T>

/**
 * What an engine of deliveries promises.
 *
 * For one handler, portal and object, deliveries are claimed in the order in which they were added, never two at a time:
 * while one runs or waits for its retry the later ones wait behind it; when it is done or dead the next may go.
 * Deliveries of events without an object have no order.
 */
export interface Queue {
  /** Where to follow on from; `undefined` when nobody settled it. */
  position(): Awaitable<Position | undefined>
  /**
   * Keeps the deliveries and the position after them, both or neither. Adding an event twice adds nothing.
   *
   * @param unseen what is kept of these objects for these handlers is dropped
   */
  add(
    deliveries: readonly NewDelivery[],
    position: Position,
    unseen?: readonly Pick<NewDelivery, 'handler' | 'event'>[],
  ): Awaitable<void>
  /** Takes up to `limit` deliveries that may run now. A suspect (see `recover`) is given alone. */
  claim(wanted: readonly Wanted[], limit: number): Awaitable<Delivery[]>
  /** @param seen is kept for its handler, portal and object, and `null` drops what is kept: with the end of it or not at all */
  done(delivery: Delivery, seen?: SeenFields | null): Awaitable<void>
  /** What is kept for its handler, portal and object. */
  seen(delivery: Delivery): Awaitable<Seen | undefined>
  /** Its handler is about to run: what is kept is in doubt until `done` keeps something. On disk when it resolves. */
  doubt(delivery: Delivery): Awaitable<void>
  retry(delivery: Delivery, again: Retry): Awaitable<void>
  dead(delivery: Delivery, error: string): Awaitable<void>
  /** A failure that came after the end of the run. */
  noteFailure(delivery: Delivery, error: string): Awaitable<void>
  /** Keeps the event, which somebody else had, in the place of one that cannot be read. */
  restore(delivery: Delivery, event: JournalledEvent): Awaitable<void>
  /**
   * It was not run to its end and that is not its fault: it is ready again and the attempt is not counted. One that has
   * ended meanwhile stays as it is.
   */
  release(delivery: Delivery): Awaitable<void>
  /**
   * What it needs is not there, and that is not its fault: it waits like a retry, but the attempt is not counted, and the
   * next run is taken for its first when its time is counted.
   */
  postpone(delivery: Delivery, until: Postponement): Awaitable<void>
  /** What was postponed is due now. */
  resume(): Awaitable<void>
  /**
   * What a process that died was running, to be called before the first claim and again when the watcher is told that one
   * has `died`, until it gives nothing. Of several only one can have killed it: all are ready again, uncharged, as
   * suspects, who run alone. One that ran alone is returned, still claimed.
   */
  recover(): Awaitable<Delivery | undefined>
  /** When the first of those that wait is due, in Unix milliseconds. */
  nextDue(): Awaitable<number | undefined>
  /** Handlers that were ever loaded, and how many deliveries each is owed. */
  handlers(): Awaitable<ReadonlyMap<string, number>>
  /** Those, as they were last loaded. */
  remembered(): Awaitable<readonly RememberedHandler[]>
  /** What is kept for one that has no `onChange` (any more) is dropped: of what it completes with nothing is kept now. */
  remember(handlers: readonly KnownHandler[]): Awaitable<void>
  state(): Awaitable<QueueState>
  watch(watcher: Watcher): void
  /** Nothing waits any more for an engine that is not there: what cannot be done at once fails. */
  hurry(): void
  /** Forgets what was done in segments up to this one. The position is on disk when it resolves. */
  prune(segment: number): Awaitable<void>
  close(): Awaitable<void>
}

export interface Watcher {
  /** Within a second or so after somebody else, such as a tool or another worker, has changed what is owed. */
  readonly changed: () => void
  /** Of those that share the engine one may have died. */
  readonly died: () => void
}

export interface Postponement {
  /** Unix milliseconds. */
  readonly due: number
  /** What it waits for. */
  readonly error: string
}

export interface Retry {
  /** Unix milliseconds. */
  readonly due: number
  readonly error: string
  /** Of its `RETRY_FOR`, with the wait for this retry; without it as much as before. */
  readonly spentMs?: number
  /** It killed its process once: run it alone. */
  readonly alone?: boolean
}
