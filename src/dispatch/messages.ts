import type { DamagedLine, Dead, Throttled } from '../alerts/incidents.ts'
import type { Event } from '../events/event.ts'
import type { QueueState } from '../queue/queue.ts'

/** A message from a dispatcher to its receiver. */
export type FromDispatcher =
  | { readonly type: 'alive' }
  /** Every handler is loaded: the previous dispatcher may stop. */
  | { readonly type: 'loaded' }
  /** The dispatcher follows the journal. */
  | { readonly type: 'following' }
  /** Why the dispatcher does not follow the journal: an operator has to fix something. */
  | { readonly type: 'trouble'; readonly reason: string }
  /** Something is wrong that stops no handler. Without `text`, it is fixed. */
  | { readonly type: 'warning'; readonly subject: 'retention'; readonly text?: string }
  /** Why each handler is not loaded, by its name. The list is complete. */
  | { readonly type: 'absent'; readonly reasons: Readonly<Record<string, string>> }
  /** An incoming webhook went down. Without `trouble`, it is up again. */
  | { readonly type: 'incoming_webhook'; readonly label: string; readonly trouble?: string }
  | { readonly type: 'worked' }
  | { readonly type: 'dead'; readonly dead: Dead }
  | { readonly type: 'damaged'; readonly line: DamagedLine }
  /** Something that a run started failed after the run had ended well. */
  | { readonly type: 'late'; readonly late: Dead }
  | { readonly type: 'throttled'; readonly throttled: Throttled }
  /** Events to journal. The receiver answers with `appended` and the same number. */
  | { readonly type: 'append'; readonly request: number; readonly events: readonly Event[] }
  /** The changes missed while the receiver was down are journalled. */
  | { readonly type: 'backfilled' }
  /** The number of pending deliveries has changed. */
  | { readonly type: 'state'; readonly state: QueueState }
  /** The answer to `metrics`, in Prometheus' text format. */
  | { readonly type: 'metrics'; readonly text: string }

/** A message from the receiver to its dispatcher. */
export type ToDispatcher =
  /** Stop within `grace` milliseconds. */
  | { readonly type: 'stop'; readonly grace: number }
  /** The events of that request are on disk, or `error` says why not. */
  | { readonly type: 'appended'; readonly request: number; readonly error?: string }
  | { readonly type: 'metrics' }
