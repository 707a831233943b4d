import type { Outcome } from '../../dispatch/runner.ts'
import type { JournalledEvent } from '../../journal/follow.ts'
import type { TracedRequest } from './rest-trace.ts'

export interface Ended {
  readonly type: 'ended'
  readonly outcome: Outcome['outcome']
  readonly ms: number
  /** Milliseconds until the next run. */
  readonly dueIn?: number
  /** What was thrown, with its stack. */
  readonly error?: string
  readonly returned?: unknown
}

/** What the process that runs a handler for `try` tells. */
export type FromTry =
  /** Its event loop turns. */
  | { readonly type: 'alive' }
  | { readonly type: 'broken'; readonly at: string; readonly error: string }
  | {
      readonly type: 'loaded'
      readonly name: string
      readonly events: readonly string[]
      readonly unknown: readonly { readonly event: string; readonly nearest: string | undefined }[]
    }
  /** A line of JSON that the handler has logged. */
  | { readonly type: 'log'; readonly line: string }
  | { readonly type: 'request'; readonly request: TracedRequest | string }
  | Ended

export type ToTry =
  | { readonly type: 'run'; readonly event: JournalledEvent; readonly isDry: boolean }
  | { readonly type: 'interrupt' }
