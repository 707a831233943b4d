import type { Dead, Throttled } from '../dispatch/messages.ts'

/**
 * What a process knows of itself, told to its alerter every second. What it cannot know is absent. Counters begin with
 * its start and only grow.
 */
export interface Snapshot {
  /** The receiver's alone; with it goes the look at the disk. */
  readonly journal?: {
    /** Unix milliseconds; of an empty journal the receiver's start. */
    readonly lastEventAt: number
    /** Why posts are refused. */
    readonly trouble: string | undefined
    /** Counts the posts that were. */
    readonly refused: number
  }
  /** Counts the posts that were refused for their token. */
  readonly wrongTokens?: number
  readonly dispatcher?: {
    /** Counts how often one ended by itself. */
    readonly ends: number
    readonly trouble: string | undefined
  }
  /** Lines of the journal that no handler gets. */
  readonly damaged?: {
    /** Counts those that were found. */
    readonly count: number
    readonly text: string | undefined
  }
  /** Of each handler that is not loaded while the others run, by its name, why. */
  readonly absent?: Readonly<Record<string, string>>
  /** Of each hook that does not work, by its label, why. */
  readonly hooks?: Readonly<Record<string, string>>
  readonly dead?: {
    /** How many are in the queue. */
    readonly queued: number
    /** Counts those that died. */
    readonly count: number
    readonly last: Dead | undefined
  }
  /** Failures that came after the end of their runs. */
  readonly late?: { readonly count: number; readonly last: Dead | undefined }
  readonly throttled?: {
    /** Counts how often the loop breaker has throttled a handler for an object. */
    readonly count: number
    readonly last: Throttled | undefined
  }
}

/** What a process tells its alerter. */
export type ToAlerter =
  | { readonly type: 'snapshot'; readonly snapshot: Snapshot }
  /** ALERT_URL_FILE may have changed. */
  | { readonly type: 'reload' }
