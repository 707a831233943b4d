import type { LastChange } from '../bitrix24/last-change.ts'

/** A write through `context.bitrix24` that Bitrix24 answers with an event. */
export interface OwnWrite {
  readonly key: number
  readonly handler: string
  /** The hook's. */
  readonly user: string
  /** What it fires, such as `ONCRMDEALUPDATE`; `undefined` where that is not awaited. */
  readonly event: string | undefined
  /** Unix milliseconds, by our clock. */
  readonly sentAt: number
  /** The seconds in which the record may have been changed, by the portal's clock. */
  readonly first: number
  readonly last: number
  /**
   * It did change the record, so its event is certain to come. Of others that is not known: saving what is there already
   * may fire nothing.
   */
  readonly isCertain: boolean
  /** The subscriptions for which its event has come. */
  readonly accounted: readonly string[]
}

export interface Question {
  readonly handler: string
  /** The event's name without a type behind it. */
  readonly event: string
  /** What of several subscriptions the event came by: each brings one event for a change. */
  readonly subscription: string
  /** Unix milliseconds, by our clock. */
  readonly receivedAt: number
  /** How many events the run would stand for. */
  readonly coalesced: number
  /** The writes to its object, whoever's. */
  readonly writes: readonly OwnWrite[]
  /** `false`: there may be others, which were sent and not answered. */
  readonly isComplete: boolean
}

export type Verdict = 'echo' | 'run'

/** Those whose event this may be: it is still out, and was sent before this one came. */
export function candidatesOf({ handler, event, subscription, receivedAt, writes }: Question): OwnWrite[] {
  return writes.filter(
    (write) =>
      write.handler === handler &&
      write.event === event &&
      write.sentAt <= receivedAt &&
      !write.accounted.includes(subscription),
  )
}

/**
 * Whether nothing happened but our own writes, and which of these have had their event then.
 *
 * The promise is that after any edit of anybody else a run begins. It rests on counting: a handler never has more
 * candidates than events of its own writes are still to come, so while an edit's event is there too they cannot all be
 * echoes. Hence what might be a write without an event is no candidate, an event that runs uses up every write that it
 * could have been of, and so does a run for several. Who made the last change is asked because events may get lost.
 */
export function judge(
  question: Question,
  lastChange: LastChange | undefined,
): { readonly verdict: Verdict; readonly accounted: readonly OwnWrite[] } {
  const { handler, coalesced, writes, isComplete } = question
  const candidates = candidatesOf(question)
  const run = { verdict: 'run', accounted: candidates } as const
  if (lastChange === undefined) return run
  const made = writes.filter((write) => isOf(write, lastChange))
  if (!made.some((write) => write.handler === handler)) return run

  // The change is there, and nobody else can have made it: that is as good as certain.
  const isProved = (write: OwnWrite) => isComplete && made.length === 1 && made[0] === write
  // What is proved now may not be so after the next write, what is certain stays it.
  const counted = [
    ...candidates.filter((write) => !write.isCertain && isProved(write)),
    ...candidates.filter((write) => write.isCertain),
  ]
  if (counted.length < coalesced) return run
  return { verdict: 'echo', accounted: coalesced === 1 ? counted.slice(0, 1) : candidates }
}

function isOf({ user, first, last }: OwnWrite, change: LastChange): boolean {
  return user === change.user && first <= change.at && change.at <= last
}
