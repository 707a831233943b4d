/** A dead delivery. */
export interface Dead {
  readonly handler: string
  /** The event's id. */
  readonly id: string
  readonly event: string
  readonly object: string | undefined
  readonly reason: string
}

/** A line of the journal that the dispatcher could not read; see journal/damage.ts. */
export interface DamagedLine {
  readonly segment: number
  readonly offset: number
  readonly events: readonly string[]
}

/** A handler that waits because it may be in a loop with its own changes of an object. */
export interface Throttled {
  readonly handler: string
  /** The id of the last event for which the handler ran. */
  readonly id: string
  readonly event: string
  readonly object: string | undefined
  readonly reason: string
  /** Unix milliseconds. */
  readonly until: number
}
