import type { Event } from '../intake/event.ts'
import type { QueueState } from '../queue/queue.ts'

/** A delivery that was given up. */
export interface Dead {
  readonly handler: string
  /** The event's. */
  readonly id: string
  readonly event: string
  readonly object: string | undefined
  readonly reason: string
}

/** A line of the journal that it could not read, see journal/damage.ts. */
export interface DamagedLine {
  readonly segment: number
  readonly offset: number
  readonly events: readonly string[]
}

/** A handler that may be in a loop with its own changes of an object: it waits. */
export interface Throttled {
  readonly handler: string
  /** Of the last event that it ran for. */
  readonly id: string
  readonly event: string
  readonly object: string | undefined
  readonly reason: string
  /** Unix milliseconds. */
  readonly until: number
}

/** What a dispatcher tells its receiver. */
export type FromDispatcher =
  /** Its event loop turns. */
  | { readonly type: 'alive' }
  /** Every handler is loaded; the dispatcher before it may go. */
  | { readonly type: 'loaded' }
  /** It follows the journal. */
  | { readonly type: 'following' }
  /** It does not follow, and why; what it waits for is mended by hand. */
  | { readonly type: 'trouble'; readonly reason: string }
  /** Something that stops no handler is wrong, or, without text, is not any more. */
  | { readonly type: 'warning'; readonly about: 'retention'; readonly text?: string }
  /** Of each handler that is not loaded, by its name, why: all of them. */
  | { readonly type: 'absent'; readonly reasons: Readonly<Record<string, string>> }
  /** A hook went down, or, without trouble, is up again. */
  | { readonly type: 'hook'; readonly label: string; readonly trouble?: string }
  /** A run ended. */
  | { readonly type: 'worked' }
  | { readonly type: 'dead'; readonly dead: Dead }
  | { readonly type: 'damaged'; readonly line: DamagedLine }
  /** Something that a run has started failed after the run had ended well. */
  | { readonly type: 'late'; readonly late: Dead }
  | { readonly type: 'throttled'; readonly throttled: Throttled }
  /** To be journalled; answered with `appended` and the same number. */
  | { readonly type: 'append'; readonly request: number; readonly events: readonly Event[] }
  /** What was missed while the receiver was down is journalled. */
  | { readonly type: 'backfilled' }
  /** How much is owed has changed. */
  | { readonly type: 'state'; readonly state: QueueState }
  /** What it was asked for, in Prometheus' text format. */
  | { readonly type: 'metrics'; readonly text: string }

/** What the receiver tells its dispatcher. */
export type ToDispatcher =
  /** End within so many milliseconds. */
  | { readonly type: 'stop'; readonly grace: number }
  /** The events of that request are on disk, or why they are not. */
  | { readonly type: 'appended'; readonly request: number; readonly error?: string }
  /** Tell the metrics. */
  | { readonly type: 'metrics' }
