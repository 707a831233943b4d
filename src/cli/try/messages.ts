import type { Outcome } from '../../dispatch/outcome.ts'
import type { JournalledEvent } from '../../events/event.ts'
import type { unknownEvents } from '../../handler/unknown-events.ts'
import type { TracedRequest } from './rest-trace.ts'

export interface Ended {
  readonly type: 'ended'
  readonly outcome: Outcome['outcome']
  readonly ms: number
  /** Milliseconds until the next run. */
  readonly dueIn?: number
  /** The thrown value, with its stack. */
  readonly error?: string
  readonly returned?: unknown
}

/** A handler is loaded. `unknown` has the events that the documentation does not know. */
export interface LoadedMessage {
  readonly type: 'loaded'
  readonly name: string
  readonly events: readonly string[]
  readonly unknown: ReturnType<typeof unknownEvents>
}

/** The messages of the process that runs a handler for `try`. */
export type FromTry =
  | { readonly type: 'alive' }
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | LoadedMessage
  /** A line of JSON that the handler has logged. */
  | { readonly type: 'log'; readonly line: string }
  | { readonly type: 'request'; readonly request: TracedRequest | string }
  | Ended

export type ToTry =
  | { readonly type: 'run'; readonly event: JournalledEvent; readonly isDry: boolean }
  | { readonly type: 'interrupt' }
