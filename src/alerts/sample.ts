import type { Dead, Throttled } from './incidents.ts'

/** The state of a process. Fields that the process cannot know are absent. Counters start with the process and only grow. */
export interface Sample {
  /** Only a receiver has it. With it, the disk is checked, too. */
  readonly journal?: {
    /** Unix milliseconds. If the journal is empty, the receiver's start. */
    readonly lastEventAt: number
    /** Why posts are refused. */
    readonly trouble: string | undefined
    /** The number of refused posts. */
    readonly refused: number
  }
  /** The number of posts that were refused because of their token. */
  readonly wrongTokens?: number
  readonly dispatcher?: {
    /** How often a dispatcher ended by itself. */
    readonly ends: number
    readonly trouble: string | undefined
  }
  /** Unreadable lines of the journal, which no handler gets. */
  readonly damaged?: {
    /** The number of lines found. */
    readonly count: number
    readonly text: string | undefined
  }
  /** Why each absent handler is not loaded while the others run, by its name. */
  readonly absent?: Readonly<Record<string, string>>
  /** Why each failing incoming webhook does not work, by its label. */
  readonly incomingWebhooks?: Readonly<Record<string, string>>
  readonly dead?: {
    /** The number of dead deliveries in the queue. */
    readonly queued: number
    /** The number of deliveries that became dead. */
    readonly count: number
    readonly last: Dead | undefined
  }
  /** Failures that came after the end of their runs. */
  readonly late?: { readonly count: number; readonly last: Dead | undefined }
  readonly throttled?: {
    /** How often the loop breaker has throttled a handler for an object. */
    readonly count: number
    readonly last: Throttled | undefined
  }
}
